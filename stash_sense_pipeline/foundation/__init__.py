"""Tools without domain knowledge; they import nothing else of this package."""
