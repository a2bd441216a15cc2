"""A real Chromium for the tests that look at a page as its readers do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

# How long a browser may take for anything, in milliseconds, on a machine that does much else.
PATIENCE = 240_000
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-quic",
)  # fmt: skip


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A Chromium without a window. Skips the test on a machine that has none.

    A test that calls it has the mark `browser`: conftest.py keeps those tests apart from the ones with containers.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()
