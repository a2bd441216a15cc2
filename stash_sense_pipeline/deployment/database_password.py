"""The password of the PostgreSQL server of docker-compose.yml: made at the first start, and written where it is read."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from stash_sense_pipeline.deployment.dagster_home import check_writable
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import write_atomically
from stash_sense_pipeline.foundation.visible_text import visible

# The server reads its file as another user, and nothing else has the volume.
_READABLE = 0o444
_RANDOM_BYTES = 24


def main() -> None:
    """Write the password to POSTGRES_PASSWORD_FILE, for the server, and to PGPASSFILE, for its clients."""
    try:
        click.echo(visible(write_password(os.environ)))
    except ConfigurationError as error:
        click.echo(visible(f"stash-sense: {error}"), err=True)
        sys.exit(error.exit_code)


def write_password(variables: Mapping[str, str]) -> str:
    """Writes the password of POSTGRES_PASSWORD, else the stored one, else a new one of 48 hexadecimal digits.

    Returns a line that says which of them it was. Raises ConfigurationError when a file cannot be written, or the password
    holds a line break, which the file of the clients cannot hold.
    """
    server, clients = Path(variables["POSTGRES_PASSWORD_FILE"]), Path(variables["PGPASSFILE"])
    given = variables.get("POSTGRES_PASSWORD", "").strip()
    if not given.isprintable():
        raise ConfigurationError("POSTGRES_PASSWORD: the password holds a control character")
    check_writable(clients.parent)
    stored = _stored(server)
    password = given or stored or secrets.token_hex(_RANDOM_BYTES)
    try:
        write_atomically(server, password, mode=_READABLE)
    except OSError as error:
        raise ConfigurationError(
            f"POSTGRES_PASSWORD_FILE: {server} cannot be written by user {os.geteuid()} ({error.strerror})"
        ) from error
    # The format of libpq: host:port:database:user:password, with a backslash before a colon or a backslash.
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    write_atomically(clients, f"*:*:*:*:{escaped}\n")
    if given:
        return "password of PostgreSQL: POSTGRES_PASSWORD of .env"
    return f"password of PostgreSQL: {'the stored one' if stored else 'made'}"


def _stored(server: Path) -> str | None:
    try:
        return server.read_text().strip() if server.exists() else None
    except OSError as error:
        raise ConfigurationError(
            f"POSTGRES_PASSWORD_FILE: {server} cannot be read ({error.strerror})"
        ) from error


if __name__ == "__main__":
    main()
