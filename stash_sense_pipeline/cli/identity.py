"""Commands on identities."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from stash_sense_pipeline.cli.common import echo, environment_of, existing_catalog, json_option, print_json
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.visible_text import visible_line

if TYPE_CHECKING:
    from stash_sense_pipeline.identity.source_suggestions.suggestion import SuggestionList


@click.group()
def identity() -> None:
    """Identities: which records are one person, and why."""


@identity.command("explain")
@click.argument("record", metavar="SOURCE:ID")
@json_option
def identity_explain(record: str, as_json: bool) -> None:
    """Show the members of the identity of a record, the evidence that links them, refused links, and faces left out."""
    from stash_sense_pipeline.identity.explain import explain
    from stash_sense_pipeline.identity.linkage.overrides import load_overrides

    source, colon, source_id = record.partition(":")
    if not (source and colon and source_id):
        raise ConfigurationError(f"{record!r} is not of the form SOURCE:ID, as in stashdb:<id>")
    environment = environment_of(os.environ)
    overrides = load_overrides(environment.overrides_file)
    with existing_catalog(environment) as engine:
        found = explain(engine, source, source_id, overrides)
    if as_json:
        print_json(found.as_data())
        return
    for line in found.lines():
        echo(visible_line(line))


@identity.command("suggestions")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def identity_suggestions(as_json: bool) -> None:
    """List what the stash-boxes could correct: duplicates, pictures and links of another person. Nothing is sent.

    The list follows from the last identity run and the last choice of trusted faces. The most certain suggestions come
    first. People on the suppression list are left out.
    """
    from stash_sense_pipeline.release.reports import source_suggestions as report

    found = _find_suggestions()
    rows = report.suggestion_rows(found)
    if as_json:
        echo(report.as_json(rows).rstrip())
        return
    if found.faces_say_nothing:
        echo(f"faces were not compared: {found.faces_say_nothing}", err=True)
    for row in rows:
        _show(row)
    if not rows:
        echo("no suggestions")


def _find_suggestions() -> SuggestionList:
    from stash_sense_pipeline.faces.models.model_packs import embedder_digests
    from stash_sense_pipeline.identity.linkage.overrides import load_overrides
    from stash_sense_pipeline.identity.source_suggestions.finding import find_suggestions
    from stash_sense_pipeline.identity.source_suggestions.identity_state import SuggestionRules
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    rules = SuggestionRules(
        {name: box.host for name, box in settings.stash_boxes.items()},
        embedder_digests(environment.model_pack, environment.models_dir),
        load_overrides(environment.overrides_file),
    )
    with existing_catalog(environment) as engine:
        listed = current_suppressions(engine, environment, settings.names)
        return find_suggestions(engine, rules, listed)


def _show(row: dict[str, Any]) -> None:
    """Prints one suggestion: kind, both records with their pages, the picture or link, and the evidence."""
    echo(f"{row['confidence']:.4f} {row['kind']}")
    for side in ("", "other_"):
        facts = (row[f"{side}{name}"] for name in ("record", "name", "disambiguation", "page"))
        echo(f"  {'  '.join(fact for fact in facts if fact)}")
    if row["subject"]:
        echo(f"  {row['subject']}")
    echo(f"  {row['evidence']}")
