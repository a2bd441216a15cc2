"""Commands on the catalog: status, import of predecessor data."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from stash_sense_pipeline.cli.common import echo, environment_of, print_table


@click.command()
@click.option("--unread", is_flag=True, help="Show the records that could not be read or stored, and why.")
def status(unread: bool) -> None:
    """Show the counts of the catalog for each source, and how its last sync ended."""
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.catalog.queries.status import source_status, unread_status
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    names = [source.name for source in settings.sources]
    try:
        if unread:
            print_table([vars(row) for row in unread_status(engine, names)], "every record can be read")
            return
        rows = source_status(engine, names)
    finally:
        engine.dispose()
    print_table([vars(row) for row in rows], "no source is enabled, and the catalog holds none")


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
