"""Intake: what a record must satisfy before it is stored, and what becomes of one that does not."""
