"""Sites that are wikis: the API of MediaWiki."""
