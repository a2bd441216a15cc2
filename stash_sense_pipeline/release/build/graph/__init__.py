"""Graphs of indices that are built along the main axes of the vectors, and files that hold them with the whole vectors."""
