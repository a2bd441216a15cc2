"""One parser a site."""
