"""Suppression, erasure, adults only, no more data than needed: what other rooms ask before they store."""
