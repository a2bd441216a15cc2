"""Queries about crops of faces and of tattoos that wait for an embedding."""
