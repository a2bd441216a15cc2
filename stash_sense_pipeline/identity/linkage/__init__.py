"""Record linkage: pure functions over records."""
