"""Queries of identity: its input, identities, runs and trusted faces."""
