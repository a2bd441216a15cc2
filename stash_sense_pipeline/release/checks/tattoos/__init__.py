"""Checks of the tattoo files of a release, and what the signal is worth."""
