"""Counts of what the sidecar shows of people: names told apart, and records that its match cannot see."""

from __future__ import annotations

import itertools
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
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.build.shown_names import same_name
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERFORMERS_JSON, endpoint_rank
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY


@dataclass(frozen=True)
class ShownPeople:
    """Numbers of people by name, and of stash-box records that the sidecar's match does not see.

    `namesakes`: people with the plain name of another person; `alike`: those of them who are shown under one name still.
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
            records = connection.execute("SELECT performer_id, endpoint FROM stashbox_ids").fetchall()
    except (OSError, ValueError, sqlite3.Error) as error:
        raise ReleaseError(f"cannot read {release}: {error}") from error
    priority = read_manifest(release).get("endpoint_priority", ENDPOINT_PRIORITY)
    records.sort(key=lambda row: (row[0], endpoint_rank(row[1], {}, priority)))
    unseen = Counter[str]()
    for (before, _), (performer_id, endpoint) in itertools.pairwise([(None, ""), *records]):
        # The first record of a person has the universal id.
        unseen[endpoint] += before == performer_id
    return ShownPeople(
        namesakes=_alike(names),
        alike=_alike([entry["name"] for entry in people.values()]),
        records=Counter(endpoint for _, endpoint in records),
        unseen=unseen,
    )


def _alike(names: list[Any]) -> int:
    counts = Counter(same_name(name) for name in names)
    return sum(count for count in counts.values() if count > 1)
