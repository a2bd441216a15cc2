"""The part of the quality report about what the sidecar shows of people."""

from __future__ import annotations

from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.release.reports.document import Block, Heading, TableBlock, Text
from stash_sense_pipeline.release.shown_people import ShownPeople

_TITLE = "What the sidecar shows of people"


def shown_people_blocks(people: ShownPeople) -> list[Block]:
    """The part of the report, without names."""
    total, unseen = sum(people.records.values()), sum(people.unseen.values())
    rows = [(name, people.records[name], people.unseen.get(name, 0)) for name in sorted(people.records)]
    return [
        Heading(2, _TITLE),
        Text(
            f"{people.namesakes} people have the name of another person. {people.namesakes - people.alike} of them are told"
            f" apart by what stands behind the name, and {people.alike} are still shown under one name."
        ),
        Text(
            f"The match of the sidecar, version 1, sees one stash-box record of a person: that of the universal id. It does"
            f" not see {unseen} of {total} records."
        ),
        TableBlock(_TITLE, table_of(("stash-box", "records", "not seen"), rows)),
    ]
