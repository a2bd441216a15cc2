"""The assets, one module for each group of the lineage page: ingest, faces, identity, index, release."""
