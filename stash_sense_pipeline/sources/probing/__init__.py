"""One polite look at each source before it is read, and the estimate of a first build."""
