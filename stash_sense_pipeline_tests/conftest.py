"""Fixtures that several rooms share: fresh catalogs, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline_tests.postgres import PostgresServer, running_server, server_program

# How long one example takes says nothing on a shared machine. CI tries the same examples each time, so that a failure is
# of the change that is tested; everywhere else new ones are searched for.
hypothesis.settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("house")


# pytest runs the files with tests of these marks first. Those tests take longest, and would else end last.
_LONGEST_FIRST = ("docker", "browser", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files by their longest tests, so that parallel processes end at about the same time."""
    ranks: dict[Path, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        rank = next((rank for rank, name in enumerate(_LONGEST_FIRST) if name in marks), len(_LONGEST_FIRST))
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def pytest_collection_finish() -> None:
    """What was imported and collected lives as long as the process: the cycle collector need not look at it each time."""
    gc.collect()
    gc.freeze()


# These files of orchestration/ need the demo of its conftest.py, which takes a minute to make. One of them has a browser.
_WITH_DEMO = {
    "test_backup.py",
    "test_bootstrap.py",
    "test_demo.py",
    "test_documented_commands.py",
    "test_ui.py",
}


def _uses_the_network(file: Path) -> bool:
    """Whether tests of the file start containers or a browser. The process that distributes the tests collects none."""
    text = file.read_text()
    return "mark.docker" in text or "mark.browser" in text


def scope_of(root: Path, nodeid: str) -> str:
    """The name of the tests that stay in one process with this one.

    Containers come and go with network interfaces. Chromium sees that, and drops the requests that wait for a connection
    (ERR_NETWORK_CHANGED). So containers and browsers are not used at the same time. The demo is made once.
    """
    file = Path(nodeid.partition("::")[0])
    needs_demo = file.parent.name == "orchestration" and file.name in _WITH_DEMO
    return "one at a time" if needs_demo or _uses_the_network(root / file) else str(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` one process has all files with containers, a browser or the demo."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(config.rootpath, nodeid)

    return Scheduling(config, log)


def pytest_configure() -> None:
    """A shell that starts the tests in the background ignores SIGINT, and the programs of the tests would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _first_umask() -> int:
    """The umask with which the tests began."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


@pytest.fixture(autouse=True)
def _state_of_the_process(_first_umask: int) -> Iterator[None]:
    """A command that is called in this process changes its umask and its handlers of signals for good.

    Later tests and their programs must not see that, also when a fixture of several tests has called the command.
    """
    os.umask(_first_umask)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    os.umask(_first_umask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def catalog_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite catalog to copy: quicker than to migrate one for each test."""
    path = tmp_path_factory.mktemp("catalog") / "catalog.db"
    open_catalog(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def catalog(tmp_path: Path, catalog_file: Path) -> Iterator[sa.Engine]:
    """A fresh, migrated SQLite catalog, the file catalog.db in tmp_path."""
    engine = open_catalog(f"sqlite:///{shutil.copy2(catalog_file, tmp_path / 'catalog.db')}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that lives as long as the test session."""
    program = server_program()
    if program is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql (apt-get install postgresql)")
    with running_server(program) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of its maintenance database."""
    return postgres_server.url


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of a database with a migrated, empty catalog to copy."""
    with postgres_server.database() as url:
        open_catalog(url).dispose()
        yield str(sa.make_url(url).database)


@pytest.fixture
def postgres_catalog_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """URL of a fresh, migrated catalog in PostgreSQL."""
    with postgres_server.database(postgres_template) as url:
        yield url


BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=BOTH)
def any_catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a catalog that is not there yet, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture(params=BOTH)
def any_catalog(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """A fresh, migrated catalog, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("catalog")
        return
    engine = open_catalog(request.getfixturevalue("postgres_catalog_url"))
    yield engine
    engine.dispose()
