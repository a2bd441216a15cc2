"""The state of a source for its operator: what keeps it from being up to date, the next step, a reset."""
