"""A PostgreSQL server of our own on loopback, which a test can also end and start again."""

from __future__ import annotations

import os
import pwd
import random
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

import psycopg2
import sqlalchemy as sa

# Below the ports that operating systems give to connections of clients: none takes one before its server is there.
_PORTS = range(10_000, 20_000)


class PostgresServer:
    """A server with its data in `home`; `url` is that of its maintenance database."""

    def __init__(self, program: Path, home: Path) -> None:
        self.port = free_port()
        self.url = f"postgresql+psycopg2://tester@127.0.0.1:{self.port}/postgres"
        self._program, self._home, self._identity = program, home, _unprivileged()
        self._server: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Makes its data directory."""
        if self._identity:
            os.chown(self._home, self._identity["user"], self._identity["group"])
        options = ["-U", "tester", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale"]
        command = [self._program.with_name("initdb"), "-D", self._home / "data", *options]
        subprocess.run(
            command, check=True, capture_output=True, cwd=self._home, timeout=240, **self._identity
        )

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-k", str(self._home), "-h", "127.0.0.1", "-p", str(self.port), "-F"]
        for setting in ("full_page_writes=off", "autovacuum=off", "shared_buffers=32MB"):
            options += ["-c", setting]
        command = [self._program, "-D", self._home / "data", *options]
        with (self._home / "server.log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home, **self._identity)
        give_up = time.monotonic() + 240
        while self._server.poll() is None and time.monotonic() < give_up:
            try:
                psycopg2.connect(host="127.0.0.1", port=self.port, user="tester", dbname="postgres").close()
            except psycopg2.OperationalError:
                time.sleep(0.05)
            else:
                return
        said = (self._home / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"PostgreSQL did not start: {said}")

    def stop(self) -> None:
        """Ends it as a restart does, without waiting for its clients: their connections break."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(timeout=240)
            self._server = None

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """URL of a fresh database, which goes at the end."""
        name = f"test_{uuid.uuid4().hex}"
        server = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def end_connections(url: str) -> None:
    """Ends all connections to a database, as a restart of its server does, and returns when they have ended."""
    database = sa.make_url(url)
    server = sa.create_engine(
        database.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    of_database = "FROM pg_stat_activity WHERE datname = :name"
    name = {"name": database.database}
    give_up = time.monotonic() + 240
    with server.connect() as connection:
        connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {of_database}"), name)
        while connection.scalar(sa.text(f"SELECT count(*) {of_database}"), name):
            assert time.monotonic() < give_up, "the server ends no connection"
            time.sleep(0.01)


def server_program() -> Path | None:
    """The newest server program of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1] if found else Path(on_path) if on_path else None


@contextmanager
def running_server(program: Path) -> Iterator[PostgresServer]:
    """A server that has started, and ends with the block."""
    # Not in pytest's own directory, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="stash-sense-pg-", ignore_cleanup_errors=True) as directory:
        server = PostgresServer(program, Path(directory))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def free_port() -> int:
    """A port of this machine without a listener."""
    while True:
        # Hypothesis seeds the other generators alike in all processes.
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _unprivileged() -> dict[str, Any]:
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
