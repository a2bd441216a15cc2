"""The part of the quality report about what the sidecar shows of people: told-apart names, and records that it cannot see."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import read_only_sqlite
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.release.build.shown_names import same_name
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERFORMERS_JSON
from stash_sense_pipeline.release.reports.markdown import markdown_table


@dataclass(frozen=True)
class ShownPeople:
    """Numbers of people by name, and of stash-box records that the sidecar's match does not see.

    `namesakes`: people whose plain name another person has; `alike`: those of them who are shown under one name still.
    `records` and `unseen`: stash-box records by endpoint, all of them and those that are not a universal id. Version 1 of
    the sidecar knows a person by the universal id alone.
    """

    namesakes: int
    alike: int
    records: Mapping[str, int]
    unseen: Mapping[str, int]


def count_shown_people(release: Path) -> ShownPeople:
    """Counts in the files of a release directory. ReleaseError when one cannot be read."""
    try:
        people = read_json(release / PERFORMERS_JSON, LARGE)
        with closing(sqlite3.connect(read_only_sqlite(release / PERFORMERS_DB), uri=True)) as connection:
            names = [name for (name,) in connection.execute("SELECT canonical_name FROM performers")]
            records = connection.execute(
                "SELECT endpoint, stashbox_performer_id FROM stashbox_ids"
            ).fetchall()
    except (OSError, ValueError, sqlite3.Error) as error:
        raise ReleaseError(f"cannot read {release}: {error}") from error
    # A universal id is host:id. Ids of stash-boxes are unique beyond their host.
    shown = Counter(uid.partition(":")[2] for uid in people)
    unseen = Counter[str]()
    for endpoint, record in sorted(records):
        if shown[record]:
            shown[record] -= 1
        else:
            unseen[endpoint] += 1
    return ShownPeople(
        namesakes=_alike(names),
        alike=_alike([entry["name"] for entry in people.values()]),
        records=Counter(endpoint for endpoint, _ in records),
        unseen=unseen,
    )


def _alike(names: list[Any]) -> int:
    counts = Counter(same_name(name) for name in names)
    return sum(count for count in counts.values() if count > 1)


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
