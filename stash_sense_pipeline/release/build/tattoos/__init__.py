"""The tattoo files of a release, from the catalog."""
