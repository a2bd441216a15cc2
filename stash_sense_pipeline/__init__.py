"""Builds and keeps fresh a face-recognition database of performers; the rooms are listed in docs/architecture.md."""
