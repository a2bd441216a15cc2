"""Builds the files of a release from the catalog."""
