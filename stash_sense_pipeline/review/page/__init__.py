"""The local page of the review."""
