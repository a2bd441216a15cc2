"""HTTP client of the sources: paced, limited in time and size, and restricted to public addresses."""
