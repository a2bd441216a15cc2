"""Commands on identities."""

from __future__ import annotations

import os

import click

from stash_sense_pipeline.cli.common import echo, environment_of
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.visible_text import visible_line


@click.group()
def identity() -> None:
    """Identities: which records are one person, and why."""


@identity.command("explain")
@click.argument("record", metavar="SOURCE:ID")
def identity_explain(record: str) -> None:
    """Show the members of the identity of a record, the evidence that links them, refused links, and faces left out."""
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.identity.explain import explain
    from stash_sense_pipeline.identity.linkage.overrides import load_overrides

    source, colon, source_id = record.partition(":")
    if not (source and colon and source_id):
        raise ConfigurationError(f"{record!r} is not of the form SOURCE:ID, as in stashdb:<id>")
    environment = environment_of(os.environ)
    overrides = load_overrides(environment.overrides_file)
    engine = open_catalog(environment.catalog_url)
    try:
        for line in explain(engine, source, source_id, overrides):
            echo(visible_line(line))
    finally:
        engine.dispose()
