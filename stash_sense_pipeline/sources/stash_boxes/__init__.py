"""Stash-boxes: the sources that create performers."""
