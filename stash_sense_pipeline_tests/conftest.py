"""Fixtures that several rooms share: fresh catalogs, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import psycopg2
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog

# How long one example takes says nothing on a shared machine.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


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
def postgres_url() -> Iterator[str]:
    """URL of the maintenance database of a PostgreSQL server that lives as long as the test session."""
    program = _server_program()
    if program is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql (apt-get install postgresql)")
    with _running_server(program) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    with _database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """Name of a database with a migrated, empty catalog to copy."""
    with _database(postgres_url) as url:
        open_catalog(url).dispose()
        yield str(sa.make_url(url).database)


@pytest.fixture
def postgres_catalog_url(postgres_url: str, postgres_template: str) -> Iterator[str]:
    """URL of a fresh, migrated catalog in PostgreSQL."""
    with _database(postgres_url, postgres_template) as url:
        yield url


@contextmanager
def _database(server_url: str, template: str = "template0") -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


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


def _server_program() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1] if found else Path(on_path) if on_path else None


def _unprivileged() -> dict[str, Any]:
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def _running_server(program: Path) -> Iterator[str]:
    identity = _unprivileged()
    # Not in pytest's own directory, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="stash-sense-pg-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        if identity:
            os.chown(home, identity["user"], identity["group"])
        options = ["-U", "tester", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale"]
        subprocess.run(
            [program.with_name("initdb"), "-D", home / "data", *options],
            check=True,
            capture_output=True,
            cwd=home,
            timeout=120,
            **identity,
        )
        port = _free_port()
        options = ["-k", str(home), "-h", "127.0.0.1", "-p", str(port), "-F"]
        for setting in ("full_page_writes=off", "autovacuum=off", "shared_buffers=32MB"):
            options += ["-c", setting]
        with (home / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [program, "-D", home / "data", *options], stdout=log, stderr=log, cwd=home, **identity
            )
        url = f"postgresql+psycopg2://tester@127.0.0.1:{port}/postgres"
        try:
            _await_server(server, port, home / "server.log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # stop without waiting for clients
            server.wait(timeout=30)


def _await_server(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < give_up:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="tester", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
