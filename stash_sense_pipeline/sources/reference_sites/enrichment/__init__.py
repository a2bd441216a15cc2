"""The parts of an enrichment run: what is due, visits, searches by name, and what is stored of them."""
