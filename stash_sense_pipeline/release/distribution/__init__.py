"""Distribution of published releases: history, installation, upload, revocation."""
