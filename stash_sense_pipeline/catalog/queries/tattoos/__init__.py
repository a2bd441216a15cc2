"""Queries about tattoos in the pictures of faces: store, embed, and read those of released people."""
