"""Commands on identities."""

from __future__ import annotations

import os

import click

from stash_sense_pipeline.cli.common import echo, environment_of, existing_catalog
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.visible_text import visible_line


@click.group()
def identity() -> None:
    """Identities: which records are one person, and why."""


@identity.command("explain")
@click.argument("record", metavar="SOURCE:ID")
def identity_explain(record: str) -> None:
    """Show the members of the identity of a record, the evidence that links them, and the refused links."""
    from stash_sense_pipeline.identity.explain import explain

    source, colon, source_id = record.partition(":")
    if not (source and colon and source_id):
        raise ConfigurationError(f"{record!r} is not of the form SOURCE:ID, as in stashdb:<id>")
    with existing_catalog(environment_of(os.environ)) as engine:
        for line in explain(engine, source, source_id):
            echo(visible_line(line))
