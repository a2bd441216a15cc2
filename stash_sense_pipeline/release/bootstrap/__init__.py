"""Taking over a published release: its records, and its faces once a sample has proven them."""
