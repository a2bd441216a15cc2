"""Intake: decides which records may be stored, and what is kept of the others."""
