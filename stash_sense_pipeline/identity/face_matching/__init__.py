"""Faces as evidence, and the choice of trusted faces."""
