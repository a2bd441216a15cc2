"""Reference sites: HTML pages that enrich performers whom a stash-box already has."""
