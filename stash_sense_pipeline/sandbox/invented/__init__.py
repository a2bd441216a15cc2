"""Invented people, their names and pictures."""
