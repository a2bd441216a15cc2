"""Privacy: what the other rooms ask before they store anything about a person (suppression, adults only)."""
