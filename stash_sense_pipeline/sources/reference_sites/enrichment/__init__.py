"""The parts of an enrichment run: due items, visits, searches by name, and storing."""
