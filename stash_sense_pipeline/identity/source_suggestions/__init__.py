"""Suggestions to the sources: duplicates, pictures and links of other people on records of stash-boxes."""
