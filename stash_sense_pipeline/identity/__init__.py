"""Identity: evidence between source records, the constrained graph over it, and the faces that represent a person."""
