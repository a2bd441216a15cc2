"""Queries of what a published release claims: its records, faces and vectors, before this program has seen them."""
