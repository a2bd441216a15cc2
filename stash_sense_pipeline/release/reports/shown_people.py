"""The part of the quality report about what the sidecar shows of people."""

from __future__ import annotations

from stash_sense_pipeline.release.reports.markdown import markdown_table
from stash_sense_pipeline.release.shown_people import ShownPeople


def shown_people_lines(people: ShownPeople) -> list[str]:
    """The part of the report as lines of Markdown, without names."""
    total, unseen = sum(people.records.values()), sum(people.unseen.values())
    return [
        "",
        "## What the sidecar shows of people",
        "",
        f"{people.namesakes} people have the name of another person. {people.namesakes - people.alike} of them are told"
        f" apart by what stands behind the name, and {people.alike} are still shown under one name.",
        "",
        f"The match of the sidecar, version 1, sees one stash-box record of a person: that of the universal id. It does not"
        f" see {unseen} of {total} records.",
        "",
        *markdown_table(
            ("stash-box", "records", "not seen"),
            [(name, people.records[name], people.unseen.get(name, 0)) for name in sorted(people.records)],
        ),
    ]
