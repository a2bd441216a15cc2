"""How well the faces of a release answer: exact search, left-out photographs, thresholds, errors."""
