"""Helpers of the commands: environment, release by version, free port, tables, JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.visible_text import visible, visible_line

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.settings.environment import Environment

_Command = TypeVar("_Command", bound=Callable[..., Any])


def echo(text: str, *, err: bool = False) -> None:
    """Prints text, on stderr with `err`. Control characters in it are printed as escapes."""
    click.echo(visible(text), err=err)


def environment_of(variables: Mapping[str, str]) -> Environment:
    """The environment as typed values; relative paths start from the working directory.

    Removes copies of the catalog that a killed command left in DATA_DIR, if this user may.
    """
    from stash_sense_pipeline.foundation.private_work import clear_private_work
    from stash_sense_pipeline.settings.environment import read_environment

    environment = read_environment(variables, Path.cwd())
    with suppress(OSError):
        clear_private_work(environment.data_dir)
    return environment


def ui_variables(variables: Mapping[str, str], bound_to: str) -> dict[str, str]:
    """The environment variables that set up the UI, checked, with an absolute path of the password file.

    `bound_to` is the address that the UI listens on. Raises ConfigurationError.
    """
    from stash_sense_pipeline.deployment.ui_access import PASSWORD_VARIABLE, read_ui_access

    read_ui_access(variables, Path.cwd(), bound_to)
    found = {name: value for name, value in variables.items() if name.startswith("STASH_SENSE_UI_")}
    if file := found.get(PASSWORD_VARIABLE, "").strip():
        found[PASSWORD_VARIABLE] = str(Path.cwd() / Path(file).expanduser())
    return found


def release_directory(version: str) -> Path:
    """The directory of a version, of a flavour of it (`2026.11.21.small`), or of `latest` or `latest.small`.

    Raises ConfigurationError when there is none.
    """
    releases = environment_of(os.environ).releases_dir
    name, dot, flavour = version.partition(".")
    path = releases / version
    if name == "latest" and dot and (releases / name).is_dir():
        path = releases / f"{(releases / name).resolve().name}.{flavour}"
    if not path.is_dir():
        raise ConfigurationError(
            f"there is no release {version} in {path.parent}; see stash-sense releases list"
        )
    return path.resolve()


def print_table(rows: list[dict[str, Any]], empty: str) -> None:
    """Prints rows under the names of their columns, or the text `empty` when there are none."""
    if not rows:
        echo(empty)
        return
    cells = [
        list(rows[0]),
        *([("-" if value is None else visible_line(str(value))) for value in row.values()] for row in rows),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def json_option(command: _Command) -> _Command:
    """The option --json, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def print_json(value: Any) -> None:
    """Prints a value as JSON; times and dates in ISO 8601."""
    echo(json.dumps(value, indent=2, default=_json_value))


def print_rows(rows: Sequence[Mapping[str, Any]], empty: str, *, as_json: bool) -> None:
    """Prints rows as a JSON list, or as a table."""
    if as_json:
        print_json([dict(row) for row in rows])
    else:
        print_table([dict(row) for row in rows], empty)


def _json_value(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


@contextmanager
def existing_catalog(environment: Environment) -> Iterator[sa.Engine]:
    """The catalog of the environment, for a command that must not create or migrate one.

    Raises ConfigurationError when there is none, and when its schema is that of an older program.
    """
    from stash_sense_pipeline.catalog.engine import current_engine

    require_catalog(environment)
    engine = current_engine(environment.catalog_url)
    try:
        yield engine
    finally:
        engine.dispose()


def require_catalog(environment: Environment) -> None:
    """Raises ConfigurationError when there is no catalog, or one with the schema of an older program. It creates none."""
    import sqlalchemy as sa

    from stash_sense_pipeline.catalog.engine import CatalogState, catalog_state
    from stash_sense_pipeline.catalog.transactions import shown_url
    from stash_sense_pipeline.foundation.files import sqlite_url

    state = catalog_state(environment.catalog_url)
    by_default = environment.catalog_url == sqlite_url(environment.data_dir / "catalog.db")
    place = environment.data_dir if by_default else shown_url(sa.make_url(environment.catalog_url))
    if state is CatalogState.MISSING:
        variable = "DATA_DIR" if by_default else "STASH_SENSE_CATALOG_URL"
        raise ConfigurationError(f"there is no catalog in {place}; run stash-sense build, or set {variable}")
    if state is CatalogState.OLDER:
        raise ConfigurationError(
            f"the catalog in {place} has the schema of an older program; stash-sense prepare migrates it"
        )


def check_port(host: str, port: int) -> None:
    """Raises ConfigurationError unless this process can listen on the port."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port"
        ) from error
