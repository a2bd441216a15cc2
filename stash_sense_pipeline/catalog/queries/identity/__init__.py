"""Queries for identities: their input, members and evidence, runs, and trusted faces."""
