"""Typed, validated, immutable settings. Importing them loads nothing heavy."""
