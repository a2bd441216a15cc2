"""Commands on the catalog: status, tables for analysis, reset of a source, import of predecessor data."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import (
    echo,
    environment_of,
    existing_catalog,
    json_option,
    print_json,
    print_rows,
    print_table,
    require_catalog,
)
from stash_sense_pipeline.foundation.progress import duration_text
from stash_sense_pipeline.foundation.visible_text import visible

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.catalog.queries.status import SourceStatus


@click.command()
@click.option("--unread", is_flag=True, help="Show the records that could not be read or stored, and why.")
@click.option("--check", is_flag=True, help="Exit with 1 when a source failed, is stale or cannot be asked.")
@json_option
def status(unread: bool, check: bool, as_json: bool) -> None:
    """Show each source: its records, what waits, what failed, when it was read, and what to do next.

    live: records in the catalog. complete: those of performers with enough faces (completeness_threshold). waiting:
    images to fetch and faces to embed. failed: images that could not be fetched. --json has all counts. With automatic
    uploads it says when the next one is due, and why. After bootstrap a line for each source tells how many faces are
    claimed, proven and seen.
    """
    from stash_sense_pipeline.catalog.queries.status import source_status, unread_status
    from stash_sense_pipeline.release.distribution.cadence import upload_status
    from stash_sense_pipeline.settings.sources_file import load_settings
    from stash_sense_pipeline.sources.connections import unusable
    from stash_sense_pipeline.sources.health.source_health import advice
    from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import stored_drifts

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    with existing_catalog(environment) as engine:
        if unread:
            notes = [vars(row) for row in unread_status(engine, settings.names)]
            print_rows(notes, "every record can be read", as_json=as_json)
            return
        rows = source_status(engine, settings.names, settings.global_.completeness_threshold)
        drifts = stored_drifts(engine, settings.names)
    now = datetime.now(UTC)
    enabled = {source.name for source in settings.enabled}
    to_do = [
        found
        for row in rows
        if row.source in enabled
        for found in advice(row, unusable(settings, environment, row.source), now, drifts.get(row.source, ()))
    ]
    uploads = upload_status(environment.releases_dir, settings, now)
    if as_json:
        print_json(
            {
                "sources": [{**vars(row), "enabled": row.source in enabled} for row in rows],
                "to_do": [vars(found) for found in to_do],
                "uploads": [vars(upload) for upload in uploads],
            }
        )
    else:
        shown = [row for row in rows if row.source in enabled or row.live]
        print_table([_status_row(row, row.source in enabled, now) for row in shown], "no source is enabled")
        for row in shown:
            if row.faces_claimed or row.faces_proven:
                echo(_origins(row))
        for found in to_do:
            echo(f"{found.source}: {found.text}")
        for upload in uploads:
            echo(f"upload to {upload.repository} ({upload.flavour}): {upload.next}")
    if check and any(found.failed for found in to_do):
        sys.exit(1)


def _status_row(row: SourceStatus, enabled: bool, now: datetime) -> dict[str, str]:
    read = "never" if row.last_sync is None else f"{duration_text((now - row.last_sync).total_seconds())} ago"
    counts = {
        "live": row.live,
        "complete": row.complete,
        "waiting": row.backlog,
        "failed": row.images_failed,
    }
    return {
        "source": row.source,
        **{name: f"{count:,}" for name, count in counts.items()},
        "last read": read if enabled else f"{read}, off",
    }


def _origins(row: SourceStatus) -> str:
    return (
        f"{row.source}: {row.faces_seen:,} faces seen, {row.faces_proven:,} taken over from a release and proven, "
        f"{row.faces_claimed:,} claimed and not in use"
    )


_EXPORTED = ("performers", "images", "faces", "identities", "evidence", "embeddings")


@click.command("export")
@click.argument("table", type=click.Choice(_EXPORTED))
@click.option("--format", "form", type=click.Choice(["csv", "parquet", "jsonl"]), required=True)
@click.option(
    "--to",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; without it, CSV and JSON lines are printed.",
)
def export(table: str, form: str, path: Path | None) -> None:
    """Write a table of the catalog for analysis: live records, their images, faces, identities, evidence, embeddings.

    Nothing is changed. Links, personal accounts and hashes are in no table, and suppressed people are in none: while
    entries of the suppression list are not applied, the command refuses. Parquet needs the extra `parquet`.
    """
    from stash_sense_pipeline.frames import CHUNK_ROWS
    from stash_sense_pipeline.frames.export_files import ExportFormat, export_text, write_export
    from stash_sense_pipeline.frames.reading import frame_chunks
    from stash_sense_pipeline.frames.tables import frame_table
    from stash_sense_pipeline.privacy.suppression.unapplied import refuse_unapplied, refuse_unimported
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    sources = load_settings(environment.sources_file).names
    require_catalog(environment)

    def gate(connection: sa.Connection) -> None:
        refuse_unapplied(connection)
        refuse_unimported(
            connection, environment.suppressions_file, environment.suppression_key_file, sources
        )

    chosen = frame_table(table)
    frames = frame_chunks(environment.catalog_url, chosen, CHUNK_ROWS, gate)
    if path is None:
        for text in export_text(frames, ExportFormat(form)):
            click.echo(visible(text), nl=False)
    else:
        rows = write_export(chosen, frames, ExportFormat(form), path)
        echo(f"wrote {rows:,} rows of {table} to {path}")


@click.group()
def sources() -> None:
    """The sources of sources.yaml."""


@sources.command("reset")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def sources_reset(name: str, yes: bool) -> None:
    """Clear the progress of a source: watermarks, cooldown, failed attempts. Its records, faces and images stay.

    The next refresh reads the source in full.
    """
    from stash_sense_pipeline.catalog.source_lock import source_lock
    from stash_sense_pipeline.settings.sources_file import load_settings
    from stash_sense_pipeline.sources.health.progress_reset import reset_progress

    environment = environment_of(os.environ)
    source = load_settings(environment.sources_file).source(name).name
    with existing_catalog(environment) as engine:
        if not yes:
            click.confirm(f"Clear the progress of {source}? Its next refresh reads it in full", abort=True)
        with source_lock(engine, source, echo):
            report = reset_progress(engine, source)
    echo(
        f"{source}: progress cleared ({report.visits:,} visits of profiles, {report.images:,} images to try again); "
        "the next refresh reads it in full"
    )


@click.command("import-legacy")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def import_legacy_command(directory: Path) -> None:
    """Import a predecessor's progress.json (version 1 or 2), performers.json and performers.db.

    The next refresh still reads every performer from its source and fetches all images. The predecessor's faces only
    decide their order. Running the command again changes nothing.
    """
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.settings.sources_file import load_settings
    from stash_sense_pipeline.sources.legacy_import import import_legacy
    from stash_sense_pipeline.sources.legacy_reader import read_legacy

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    legacy = read_legacy(directory, settings.stash_boxes.values())
    engine = open_catalog(environment.catalog_url)
    try:
        suppressions = current_suppressions(engine, environment, settings.names)
        report = import_legacy(engine, legacy, suppressions, datetime.now(UTC))
    finally:
        engine.dispose()
    echo(f"read {', '.join(legacy.files)} in {directory}")
    print_table([vars(source) for source in report.sources], "none of its sources is in sources.yaml")
    echo(f"performer ids kept: {report.performer_ids}")
    left_out = {
        "suppressed": report.suppressed,
        "not of an adult": report.not_adult,
        "without a name or a usable id": legacy.unusable,
        **{f"of {place}, not in {environment.sources_file.name}": n for place, n in legacy.elsewhere.items()},
    }
    for reason, count in left_out.items():
        if count:
            echo(f"left out, {reason}: {count}")
