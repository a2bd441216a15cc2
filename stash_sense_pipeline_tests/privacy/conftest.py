from __future__ import annotations

from collections.abc import Iterator

import pytest

from stash_sense_pipeline_tests.release.quick_publishes import quick_publishes


@pytest.fixture(scope="package", autouse=True)
def _quick_publishes() -> Iterator[None]:
    with quick_publishes():
        yield
