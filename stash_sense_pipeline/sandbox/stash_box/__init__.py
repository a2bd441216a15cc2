"""A stash-box server."""
