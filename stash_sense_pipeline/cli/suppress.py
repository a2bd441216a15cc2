"""Commands by which a person can leave: the suppression list, who is withheld, and past releases."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import echo, environment_of, print_table

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.settings import Environment, Settings


@click.group()
def suppress() -> None:
    """The suppression list: people who are left out of the catalog and of every release from now on."""


@suppress.command("add")
@click.argument("target", metavar="SOURCE:ID|URL")
@click.option("--reason", required=True, help="Why, in one line and without names.")
@click.option(
    "--block-face",
    is_flag=True,
    help="Also keep one sealed template of the face, to refuse it under a new record. Off by default: it keeps a"
    " biometric of somebody who asked to leave, so use it only if the person wants it.",
)
@click.option(
    "--unseen", is_flag=True, help="No source has shown this record or URL yet; keep it all the same."
)
def suppress_add(target: str, reason: str, block_face: bool, unseen: bool) -> None:
    """Put a person on the list: by a record (stashdb:<id>), the URL of a profile, or the URL of an image.

    From now on no source brings the person back. `suppress apply`, or the next publish, erases what is there. The
    entry goes into the suppression file as a keyed hash, not in clear.
    """
    from stash_sense_pipeline.catalog.engine import writing
    from stash_sense_pipeline.privacy.entries import add_sealed
    from stash_sense_pipeline.privacy.keys import load_or_create_key
    from stash_sense_pipeline.privacy.suppression_file import (
        SuppressionEntry,
        append_entry,
        check_reason,
        check_target,
    )

    with _opened() as (engine, environment, settings):
        check_target(target.strip(), settings.names)
        entry = SuppressionEntry(
            target.strip(), check_reason(reason), datetime.now(UTC).date(), unseen, block_face
        )
        key = load_or_create_key(environment.suppression_key_file)
        with writing(engine) as connection:
            sealed = add_sealed(connection, key, entry)
            if sealed is not None:
                append_entry(environment.suppressions_file, sealed)
    if sealed is None:
        echo("on the list already; nothing changed")
        return
    echo(f"added to {environment.suppressions_file}; erase what is there with: stash-sense suppress apply")


@suppress.command("list")
def suppress_list() -> None:
    """Show the list: what kind of key, why, since when. The keys themselves are not kept in clear."""
    from stash_sense_pipeline.privacy.suppression import listed_hashes

    with _opened() as (engine, _, _):
        rows = Counter(
            (row.added_at.date().isoformat(), row.kind, row.reason, "yes" if row.applied else "waiting")
            for row in listed_hashes(engine)
        )
    names = ("since", "kind", "reason", "applied")
    print_table(
        [{**dict(zip(names, row, strict=True)), "keys": count} for row, count in rows.items()],
        "nobody is on the list",
    )


@suppress.command("apply")
@click.option(
    "--all",
    "search_all",
    is_flag=True,
    help="Search the whole catalog for every key again, not only for new ones.",
)
@click.option(
    "--rewrite",
    is_flag=True,
    help="On PostgreSQL, also write all tables anew and fill the server's log, so that no deleted byte stays in its"
    " files. Locks each table meanwhile: while no run is at work.",
)
def suppress_apply(search_all: bool, rewrite: bool) -> None:
    """Take the suppression file over and erase everything of these people. Doing it again changes nothing."""
    from stash_sense_pipeline.catalog.purge import is_purge_pending
    from stash_sense_pipeline.catalog.purge import rewrite as rewrite_tables
    from stash_sense_pipeline.privacy.current import enforce_suppressions

    with _opened() as (engine, environment, settings):
        erased, traces = enforce_suppressions(
            engine, environment, settings.names, datetime.now(UTC), search_all=search_all
        )
        log_emptied = rewrite_tables(engine) if rewrite else True
        keeps_bytes = engine.dialect.name == "postgresql" and not rewrite and is_purge_pending(engine)
    counts = {
        "records": erased.records,
        "identities": erased.identities,
        "images": erased.images,
        "faces": erased.faces,
        "rows in all": sum(erased.rows.values()),
        "lines of reports and logs": traces.lines,
        "staged releases": traces.staged_runs,
    }
    echo("erased: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if erased.shared_pages:
        echo(
            f"{erased.shared_pages} profile pages are listed by other people too: they alone refuse nobody",
            err=True,
        )
    if erased.bytes_left:
        echo(
            f"deleted bytes are still in the files of the catalog: {erased.bytes_left}; the next publish overwrites them,"
            " or run suppress apply again",
            err=True,
        )
    if not log_emptied:
        echo(
            "the tables are written anew, but only a superuser of the server may empty its log: run this as one, or"
            " wait until its old segments are used again",
            err=True,
        )
    if keeps_bytes:
        echo(
            "the server's files keep deleted bytes for a while: run suppress apply --rewrite when no run is at work",
            err=True,
        )
    if not erased.is_empty:
        echo("past releases still hold them: see stash-sense releases revoke")


@suppress.command("review")
def suppress_review() -> None:
    """List the records that are withheld because their dates do not show an adult."""
    from stash_sense_pipeline.catalog.engine import reading
    from stash_sense_pipeline.catalog.performers import withheld_for_review

    with _opened() as (engine, _, _), reading(engine) as connection:
        rows = withheld_for_review(connection)
    print_table([row._asdict() for row in rows], "no record is withheld")


@click.command("revoke")
@click.option("--delete", is_flag=True, help="Delete them here, with zip and reports; never the latest one.")
def revoke(delete: bool) -> None:
    """List the releases that still hold suppressed people, by number of their ids and URLs."""
    from stash_sense_pipeline.privacy.current import current_suppressions
    from stash_sense_pipeline.release.suppressed import revoked_releases

    with _opened() as (engine, environment, settings):
        suppressions = current_suppressions(engine, environment, settings.names)
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        found = revoked_releases(environment.releases_dir, suppressions, hosts, delete=delete)
    print_table([vars(release) for release in found], "no release here holds a suppressed person")
    if any(release.latest for release in found):
        echo("the latest release holds somebody: publish a new one, then revoke again", err=True)
    if found:
        echo("what was uploaded or given to others must be taken back there", err=True)


@contextmanager
def _opened() -> Iterator[tuple[sa.Engine, Environment, Settings]]:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.settings import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    try:
        yield engine, environment, settings
    finally:
        engine.dispose()
