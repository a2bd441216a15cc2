"""The suppression list: the operator's file, keyed hashes, the list in the catalog, refused faces."""
