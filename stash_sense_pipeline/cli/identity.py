"""Commands on identities, and on the decisions that wait for the operator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stash_sense_pipeline.cli.common import (
    echo,
    environment_of,
    existing_catalog,
    json_option,
    print_json,
    print_rows,
)
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.visible_text import visible_line

if TYPE_CHECKING:
    from stash_sense_pipeline.identity.source_suggestions.suggestion import SuggestionList
    from stash_sense_pipeline.review.desk import ReviewDesk


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


@click.group(invoke_without_command=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of 127.0.0.1; by default any free one."
)
@click.option("--no-pictures", is_flag=True, help="Show no faces, and fetch none.")
@click.pass_context
def review(context: click.Context, port: int, no_pictures: bool) -> None:
    """Serve the page of open decisions on 127.0.0.1, until Ctrl-C. Only the printed address opens it.

    Each answer is written at once to identity_overrides.yaml, with a comment that says who answered, when and why. Faces
    are shown for the listed decisions only: crops that are kept, else pictures fetched under the rules of their source.
    No picture is stored.
    """
    if context.invoked_subcommand is not None:
        return
    from stash_sense_pipeline.review.page.server import serve_review

    with _desk(pictures=not no_pictures) as desk:
        count = len(desk.open())
        echo(f"{count} open decision{'' if count == 1 else 's'}; stop with Ctrl-C")
        serve_review(desk, port, echo)


@review.command("list")
@json_option
def review_list(as_json: bool) -> None:
    """List the open decisions, those that affect most faces and records first, with the answers that each takes."""
    with _desk() as desk:
        decisions = desk.open()
        names = desk.names(decisions)
    rows: list[dict[str, Any]] = []
    for row in decisions:
        about = row.page or " and ".join(names.get(key, ":".join(key)) for key in row.records)
        shown: dict[str, Any] = {
            "id": row.decision_id,
            "kind": row.kind.value,
            "about": about,
            "value": row.value,
            "answers": ", ".join(answer.value for answer in row.answers),
        }
        if as_json:
            shown |= {
                "names": list(row.about),
                "sources": sorted(row.sources),
                "answers": [answer.value for answer in row.answers],
                "reasons": list(row.reasons),
                "evidence": [
                    {"a": ":".join(fact.a), "b": ":".join(fact.b), "text": fact.text, "weight": fact.weight}
                    for fact in row.facts
                ],
            }
        rows.append(shown)
    print_rows(rows, "no decision is open", as_json=as_json)


@review.command("settle")
@click.argument("decision_id", metavar="ID")
@click.argument("answer", metavar="ANSWER")
@click.option("--reason", required=True, help="Why, in one line; it becomes a comment in the file.")
def review_settle(decision_id: str, answer: str, reason: str) -> None:
    """Answer one decision of `review list`: same, different, later, or another answer that the list names for it.

    The answer is a line of identity_overrides.yaml; remove the line to take it back.
    """
    from stash_sense_pipeline.review.decision import Answer
    from stash_sense_pipeline.review.settling import Signature

    known = {each.value: each for each in Answer}
    if answer not in known:
        raise ConfigurationError(f"there is no answer {answer[:40]!r}; there are {', '.join(known)}")
    with _desk() as desk:
        decision = desk.decision(decision_id)
        done = desk.settle(decision, known[answer], Signature.now(reason))
        path = desk.environment.overrides_file
    where = (
        f"written to {done.entry[0]} of {path}" if done.entry is not None else "kept in the suppression list"
    )
    echo(f"{decision.answers[known[answer]]}: {where}")


@review.command("settled")
@json_option
def review_settled(as_json: bool) -> None:
    """List the entries of identity_overrides.yaml with their comments, and what came of each."""
    with _desk() as desk:
        settled = desk.settled()
    rows = [
        {
            "line": row.line,
            "answer": row.section,
            "about": list(row.names) if as_json else " ".join(row.names),
            "comment": row.comment,
            "outcome": f"refused: {row.outcome}" if row.refused and not as_json else row.outcome,
            **({"refused": row.refused} if as_json else {}),
        }
        for row in settled
    ]
    print_rows(rows, "the overrides hold no answer", as_json=as_json)


@contextmanager
def _desk(*, pictures: bool = False) -> Iterator[ReviewDesk]:
    from stash_sense_pipeline.review.desk import ReviewDesk
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    with existing_catalog(environment) as engine:
        yield ReviewDesk(engine, environment, settings, pictures=pictures)
