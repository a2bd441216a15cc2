"""Trains the demo model pack: needs torch, except `data` and `evaluate`."""
