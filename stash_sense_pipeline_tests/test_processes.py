"""Which files of tests run in one process when several processes share the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
STARTS = re.compile(r"running_chromium\(|running_engine\(|docker\.engine import")


@pytest.fixture(scope="module")
def process_of(pytestconfig: pytest.Config) -> dict[Path, str]:
    """The name under which each file is given to a process, as the scheduler of xdist asks for it."""
    plugin = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    scope_of = plugin.scope_of  # type: ignore[union-attr]
    return {file: scope_of(pytestconfig.rootpath, f"{TESTS.name}/{file}::test_x") for file in FILES}


def test_files_with_containers_a_browser_or_the_demo_are_one_after_the_other(
    process_of: dict[Path, str],
) -> None:
    found = {file for file in FILES if STARTS.search((TESTS / file).read_text())} - {
        Path(__file__).relative_to(TESTS)
    }
    assert {file.name for file in found} >= {
        "test_compose.py",
        "test_ui.py",
        "test_browser.py",
        "test_site.py",
    }
    demo = Path("orchestration/test_backup.py")
    assert {process_of[file] for file in {*found, demo}} == {"one at a time"}


def test_every_other_file_can_have_a_process_for_itself(process_of: dict[Path, str]) -> None:
    alone = [name for name in process_of.values() if name != "one at a time"]
    assert len(set(alone)) == len(alone) > 100
