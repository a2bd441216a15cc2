"""Tattoos in the pictures of faces: find, crop and embed them as the sidecar does at query time."""
