"""Releases for stash-sense2: full zip, delta from the release before it, links and aliases."""
