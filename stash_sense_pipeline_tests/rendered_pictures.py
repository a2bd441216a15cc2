"""The pictures that servers of the sandbox show in tests: each is rendered once a process."""

from __future__ import annotations

from functools import cache

from stash_sense_pipeline.sandbox.invented.pictures import PictureStore


@cache
def rendered() -> PictureStore:
    """Give it to SandboxServers as `pictures`. A picture is the same for all worlds that have it."""
    return PictureStore()
