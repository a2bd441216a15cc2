"""Queries by subject. Each function takes an open connection."""
