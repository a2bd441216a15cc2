"""Reference sites: HTML pages that add to performers which a stash-box already has."""
