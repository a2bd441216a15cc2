"""Commands on suppressions: add, list, apply, review; revoke."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import (
    echo,
    environment_of,
    existing_catalog,
    json_option,
    print_rows,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.privacy.enforcement import Enforcement
    from stash_sense_pipeline.privacy.namesakes import Namesake
    from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
    from stash_sense_pipeline.privacy.suppression.suppression_import import AddedEntry
    from stash_sense_pipeline.records.record_key import RecordKey
    from stash_sense_pipeline.settings.environment import Environment
    from stash_sense_pipeline.settings.schema import Settings

# More lines would not be read on a terminal.
_NAMESAKES_SHOWN = 20


@click.group()
def suppress() -> None:
    """The suppression list: the people that the catalog and all future releases leave out."""


@suppress.command("add")
@click.argument("target", metavar="SOURCE:ID|URL")
@click.option("--reason", required=True, help="Why, in one line and without names.")
@click.option(
    "--block-face",
    is_flag=True,
    help="Also keep one sealed template of the face, to refuse it under a new record. Off by default: it keeps"
    " biometric data of a person who asked to be removed, so use it only if the person wants it.",
)
@click.option("--unseen", is_flag=True, help="Accept a record or URL that no source has shown yet.")
@click.option(
    "--picture-only",
    is_flag=True,
    help="The URL of an image means only this image. By default it means the person, if only one person has the image.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def suppress_add(target: str, reason: str, as_json: bool, **flags: bool) -> None:
    """Put a person on the list: by a record (stashdb:<id>), the URL of a profile, or the URL of an image.

    The URL of an image that only one person has means that person with all records. The URL of an image that several
    people have means only the image. From now on no source brings the person back. `suppress apply`, or the next publish,
    erases the person from the catalog. The suppression file stores a keyed hash of the entry, not the entry itself.

    Records with the same name that no evidence links to the person are listed: add those that are the person too.
    """
    from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry, check_reason

    entry = SuppressionEntry(target.strip(), check_reason(reason), datetime.now(UTC).date(), **flags)
    with _opened() as (engine, environment, settings):
        added, records, namesakes = _add(engine, environment, settings, entry)
    if as_json:
        result = {
            "added": added is not None,
            "records": len(records),
            "several_people_have_the_picture": added is not None and added.shared,
            "namesakes": [vars(namesake) for namesake in namesakes],
        }
        echo(json.dumps(result, indent=2))
        return
    if added is None:
        echo("on the list already; nothing changed")
        return
    echo(
        f"added to {environment.suppressions_file}; erase the stored records with: stash-sense suppress apply"
    )
    if added.shared:
        echo(
            "several people have this picture: only the picture leaves; for a person, add SOURCE:ID of a record",
            err=True,
        )
    elif added.picture and records:
        echo(
            f"only one person has this picture: the person leaves, with {len(records)} records"
            " (--picture-only would have meant the picture alone)"
        )
    _list_namesakes(namesakes)


def _add(
    engine: sa.Engine, environment: Environment, settings: Settings, entry: SuppressionEntry
) -> tuple[AddedEntry | None, Collection[RecordKey], Sequence[Namesake]]:
    """Adds an entry to the list and the file: what was added (None: it was there), all records of the person, namesakes."""
    from stash_sense_pipeline.catalog.transactions import writing
    from stash_sense_pipeline.privacy.linked_records import whole_person
    from stash_sense_pipeline.privacy.namesakes import namesakes_of
    from stash_sense_pipeline.privacy.suppression.suppression_file import (
        append_entry,
        check_picture_only,
        check_target,
    )
    from stash_sense_pipeline.privacy.suppression.suppression_import import add_sealed
    from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key

    check_target(entry.target, settings.names)
    check_picture_only(entry)
    key = load_or_create_key(environment.suppression_key_file)
    with writing(engine) as connection:
        added = add_sealed(connection, key, entry)
        records = whole_person(connection, added.records).records if added and added.records else frozenset()
        namesakes = namesakes_of(connection, records)
        if added is not None:
            append_entry(environment.suppressions_file, added.entry)
    return added, records, namesakes


@suppress.command("list")
@json_option
def suppress_list(as_json: bool) -> None:
    """Show the list: kind of key, reason, date. The keys themselves are stored only as hashes."""
    from stash_sense_pipeline.privacy.suppression.suppression_list import listed_hashes

    with existing_catalog(environment_of(os.environ)) as engine:
        rows = Counter(
            (row.added_at.date().isoformat(), row.kind, row.reason, "yes" if row.applied else "waiting")
            for row in listed_hashes(engine)
        )
    names = ("since", "kind", "reason", "applied")
    print_rows(
        [{**dict(zip(names, row, strict=True)), "keys": count} for row, count in rows.items()],
        "the list is empty",
        as_json=as_json,
    )


@suppress.command("apply")
@click.option(
    "--all",
    "search_all",
    is_flag=True,
    help="Search the whole catalog again for every key, not only for new keys.",
)
@click.option(
    "--rewrite",
    is_flag=True,
    help="On PostgreSQL, also rewrite all tables and fill the server's log, so that no deleted byte stays in its"
    " files. Each table is locked meanwhile: use it while nothing runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def suppress_apply(search_all: bool, rewrite: bool, as_json: bool) -> None:
    """Import the suppression file and erase all data of its people. Running it again changes nothing.

    Records with the same name that no evidence links to an erased person stay and are listed once: add those that are the
    person too. On SQLite the file of the catalog is rebuilt, so that no deleted byte stays in it. For a large catalog this
    takes a minute or more, and other writers wait.
    """
    from stash_sense_pipeline.catalog.purge import is_purge_pending
    from stash_sense_pipeline.catalog.purge import rewrite as rewrite_tables
    from stash_sense_pipeline.identity.relatives import IdentityRelatives
    from stash_sense_pipeline.privacy.enforcement import enforce_suppressions
    from stash_sense_pipeline.privacy.erasure import ErasureScope

    with _opened() as (engine, environment, settings):
        enforced = enforce_suppressions(
            engine,
            environment,
            settings.names,
            datetime.now(UTC),
            ErasureScope(search_all, IdentityRelatives.for_settings(settings, environment)),
        )
        log_emptied = rewrite_tables(engine) if rewrite else True
        keeps_bytes = engine.dialect.name == "postgresql" and not rewrite and is_purge_pending(engine)
    erased = enforced.erased
    counts = {
        "records": erased.records,
        "identities": erased.identities,
        "images": erased.images,
        "faces": erased.faces,
        "rows in all": sum(erased.rows.values()),
        "lines of reports and logs": enforced.traces.lines,
        "staged releases": enforced.traces.staged_runs,
        "held records": erased.held,
    }
    notes = list(_notes(enforced, log_emptied=log_emptied, keeps_bytes=keeps_bytes))
    if as_json:
        result = {
            "erased": {name.replace(" ", "_"): count for name, count in counts.items()},
            "pairs_of_overrides_removed": enforced.overrides.pairs,
            "notes": notes,
            "namesakes": [vars(namesake) for namesake in erased.namesakes],
        }
        echo(json.dumps(result, indent=2))
        return
    echo("erased: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if enforced.overrides.pairs:
        echo(f"removed {enforced.overrides.pairs} pairs of {environment.overrides_file}")
    for note in notes:
        echo(note, err=True)
    if not erased.is_empty:
        echo("past releases still hold them: see stash-sense releases revoke")
    _list_namesakes(erased.namesakes)


def _notes(enforced: Enforcement, *, log_emptied: bool, keeps_bytes: bool) -> Iterator[str]:
    """Lines for the operator: what an enforcement did not erase, and what to do."""
    erased = enforced.erased
    if erased.shared_pages:
        yield f"{erased.shared_pages} profile pages are listed by other people too: such a page alone suppresses no record"
    if enforced.shared_pictures:
        yield (
            f"{enforced.shared_pictures} new entries are pictures that several people have: only the pictures leave;"
            " for a person, add SOURCE:ID of a record"
        )
    if enforced.overrides.problem:
        yield enforced.overrides.problem
    if erased.bytes_left:
        yield (
            f"deleted bytes are still in the files of the catalog: {erased.bytes_left}; the next publish overwrites"
            " them, or run suppress apply again"
        )
    if not log_emptied:
        yield (
            "the tables are rewritten, but only a superuser of the server may empty its log: run this as a superuser, or"
            " wait until the server reuses its old segments"
        )
    if keeps_bytes:
        yield (
            "the server's files keep deleted bytes for a while: run suppress apply --rewrite while nothing runs"
        )


def _list_namesakes(namesakes: Sequence[Namesake]) -> None:
    if not namesakes:
        return
    echo(
        f"{len(namesakes)} other records have the same name and stay; add those that are the same person:",
        err=True,
    )
    for namesake in namesakes[:_NAMESAKES_SHOWN]:
        born = "same name and birth date" if namesake.same_birth_date else "same name"
        echo(f"  {namesake.source}:{namesake.source_id}  {born}", err=True)
    if len(namesakes) > _NAMESAKES_SHOWN:
        echo(f"  and {len(namesakes) - _NAMESAKES_SHOWN} more: see --json", err=True)


@suppress.group("review", invoke_without_command=True)
@json_option
@click.pass_context
def suppress_review(context: click.Context, as_json: bool) -> None:
    """List the records that are held, or withheld because their dates do not show an adult.

    A held record has the name and birth date of a person on the list, or a refused face (`held`), or it is linked to such
    a record (`held_linked`). No release contains it until `suppress review settle` decides whether it is that person.
    """
    from stash_sense_pipeline.catalog.queries.performers import withheld_for_review
    from stash_sense_pipeline.catalog.transactions import reading

    if context.invoked_subcommand is not None:
        return
    with existing_catalog(environment_of(os.environ)) as engine, reading(engine) as connection:
        rows = withheld_for_review(connection)
    print_rows([row._asdict() for row in rows], "no record is withheld", as_json=as_json)


@suppress_review.command("settle")
@click.argument("target", metavar="SOURCE:ID")
@click.option("--same/--other", "same", default=None, help="It is the person on the list, or another person.")
def suppress_review_settle(target: str, same: bool | None) -> None:
    """Decide whether a held record is the person on the list.

    With --same it is suppressed like a record that was added to the list. With --other it may be stored: the next sync of
    its source reads it, and the records that were held with it. The decision is kept.
    """
    from stash_sense_pipeline.catalog.transactions import writing
    from stash_sense_pipeline.privacy.intake.holding import settle
    from stash_sense_pipeline.privacy.suppression.suppression_file import check_target
    from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key
    from stash_sense_pipeline.privacy.suppression.suppression_list import load_list

    if same is None:
        raise click.UsageError("give --same or --other")
    with _opened() as (engine, environment, settings):
        check_target(target.strip(), settings.names)
        source, _, source_id = target.strip().partition(":")
        key = load_or_create_key(environment.suppression_key_file)
        with writing(engine) as connection:
            listed = load_list(connection, key)
            settle(connection, listed, (source, source_id), datetime.now(UTC), same=same)
    echo("suppressed" if same else f"the next sync of {source} reads it")


@click.command("revoke")
@click.option(
    "--delete", is_flag=True, help="Delete them here, with zip and reports, but never the latest one."
)
@json_option
def revoke(delete: bool, as_json: bool) -> None:
    """List the releases that still hold suppressed people, by number of their ids and URLs."""
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.distribution.revocation import revoked_releases
    from stash_sense_pipeline.release.sense2.history import revoked_sense2
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    with existing_catalog(environment) as engine:
        suppressions = current_suppressions(engine, environment, settings.names)
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        # Both kinds are searched before any release is deleted: one that cannot be read stops it.
        found = revoked_releases(environment.releases_dir, suppressions, hosts)
        of_sense2 = revoked_sense2(environment.data_dir, suppressions, hosts)
        if delete:
            found = revoked_releases(environment.releases_dir, suppressions, hosts, delete=True)
            of_sense2 = revoked_sense2(environment.data_dir, suppressions, hosts, delete=True)
    rows = [
        *({"format": "sidecar", **vars(release)} for release in found),
        *(
            {
                "format": "sense2",
                "version": release.version,
                "records": release.records,
                "urls": release.urls,
                "latest": release.newest,
                "removed": release.removed,
            }
            for release in of_sense2
        ),
    ]
    print_rows(rows, "no release here holds a suppressed person", as_json=as_json)
    if any(row["latest"] for row in rows):
        echo(
            "the latest release holds a suppressed person: publish a new release, then revoke again", err=True
        )
    if rows:
        echo("what was uploaded or given to others must be taken back there", err=True)


@contextmanager
def _opened() -> Iterator[tuple[sa.Engine, Environment, Settings]]:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    try:
        yield engine, environment, settings
    finally:
        engine.dispose()
