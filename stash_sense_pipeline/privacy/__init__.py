"""Privacy: suppression, erasure, the adults-only rule, and data minimisation."""
