"""Sources: HTTP clients, connectors that read records, and syncs that store them in the catalog."""
