"""Rules of settings in words that several settings and options share. Imports nothing: each command needs them at once."""

from __future__ import annotations

A_FLAG = "true or false"
COUNT = "a whole number of at least 1"
