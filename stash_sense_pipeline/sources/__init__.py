"""Sources: typed records and outcomes, polite HTTP, connectors (bytes in, records out) and the sync into the catalog."""
