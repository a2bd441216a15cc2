"""The data card: composition, error rates by group, limits of use."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import suppressions, withheld_records
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.files import PUBLIC_FILE, read_only_sqlite, write_atomically
from stash_sense_pipeline.foundation.visible_text import visible
from stash_sense_pipeline.privacy.suppression.suppression_hashes import OTHER, PERSONA
from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.retrieval import (
    FACE_BUCKETS,
    exact_neighbours,
    fused_distances,
    sample_positions,
)
from stash_sense_pipeline.release.contract import PERFORMERS_DB, SIDECAR_K

# An error in a smaller group says something of single people, and nothing of the group.
_SMALLEST_GROUP = 20
_QUERIES_A_GROUP = 300
_GROUPED_BY = ("gender", "ethnicity")

_LIMITS = """\
- Only people whom a stash-box lists are in it, with the pictures that the sources chose: mostly posed, lit, recent.
- A face is found by likeness. A match is a suggestion for a person to confirm, never a proof of who somebody is.
- People with one or two faces are found much less often, and are more often named wrongly, than people with many.
- Look-alikes, siblings and twins are taken for each other. Profile views, small and blurred faces fail.
- Gender, ethnicity and dates are what the sources say. They are often missing and sometimes wrong.
- The embedders were trained by others on faces that are not balanced over age, gender and skin colour; the errors
  below are measured on this release only, and not on pictures of other kinds.
"""
_NOT_FOR = """\
To identify people outside the adult performers of the user's own media library: not on the street, not in private
pictures, not at work, not by anybody who has power over them. There is no endpoint for it in the program that made
this release. Who does not want to be in it is taken out; see PRIVACY.md.
"""


@dataclass(frozen=True)
class GroupError:
    """Leave one photo out: how often the nearest other face is somebody else's, in one group of people."""

    group: str
    people: int
    queries: int
    errors: int

    @property
    def rate(self) -> float:
        """Share of queries that are answered with somebody else."""
        return self.errors / self.queries if self.queries else 0.0


def data_card_path(release: Path) -> Path:
    """Where the data card of a published release lies."""
    return release.parent / f"{release.name}.datacard.md"


def write_data_card(
    engine: sa.Engine, release: Path, vectors: ReleaseVectors, checks: Sequence[CheckResult]
) -> Path:
    """Writes `<version>.datacard.md` beside a published release and returns its path.

    Beside it and not inside: the files of a release are those of the sidecar's contract. `vectors` are those that it
    was proven with.
    """
    people = _people(release)
    errors = group_errors(vectors, people)
    path = data_card_path(release)
    lines = _lines(read_manifest(release), people, errors, _left_out(engine), checks)
    write_atomically(path, visible("\n".join(lines) + "\n"), mode=PUBLIC_FILE)
    return path


def group_errors(vectors: ReleaseVectors, people: Mapping[int, Mapping[str, Any]]) -> tuple[GroupError, ...]:
    """The error of each group of at least 20 people with two faces or more, by exact search and the sidecar's fusion.

    `people` maps performer ids to their fields. Up to 300 faces a group, always the same ones.
    """
    owners = vectors.order.performer_ids
    counts = Counter(owners.tolist())
    members: dict[str, list[int]] = defaultdict(list)
    for position, owner in enumerate(owners.tolist()):
        if counts[owner] > 1 and owner in people:
            for field in _GROUPED_BY:
                members[f"{field}: {people[owner].get(field) or 'unknown'}"].append(position)
    found = []
    for group, positions in sorted(members.items()):
        of_people = len({int(owners[position]) for position in positions})
        if of_people >= _SMALLEST_GROUP:
            chosen = np.array(positions)[sample_positions(len(positions), _QUERIES_A_GROUP)]
            found.append(GroupError(group, of_people, len(chosen), _errors(vectors, chosen)))
    return tuple(found)


def _errors(vectors: ReleaseVectors, positions: Any) -> int:
    owners = vectors.order.performer_ids
    nearest = {
        model: exact_neighbours(np.ascontiguousarray(unit[positions]), unit, SIDECAR_K + 1)
        for model, unit in list(vectors.unit.items())[:2]
    }
    wrong = 0
    for place, position in enumerate(positions.tolist()):
        others = {model: nearest[model][0][place] != position for model in nearest}
        ranked = fused_distances(
            {model: nearest[model][0][place][others[model]] for model in nearest},
            {model: 1 - nearest[model][1][place][others[model]] for model in nearest},
        )
        wrong += bool(owners[ranked[0][1]] != owners[position])
    return wrong


def _people(release: Path) -> dict[int, dict[str, Any]]:
    """The performers of the release with their fields and the sources of their faces."""
    with closing(sqlite3.connect(read_only_sqlite(release / PERFORMERS_DB), uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        people = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM performers")}
        for person in people.values():
            person["sources"] = Counter()
        for row in connection.execute("SELECT performer_id, source_endpoint FROM faces"):
            people[row["performer_id"]]["sources"][row["source_endpoint"]] += 1
    return people


def _left_out(engine: sa.Engine) -> dict[str, int]:
    """How many records are not in the catalog, by reason, and how many keys are suppressed."""
    table = withheld_records
    by_reason = sa.select(table.c.reason, sa.func.count()).group_by(table.c.reason).order_by(table.c.reason)
    with reading(engine) as connection:
        found = {str(reason): int(count) for reason, count in connection.execute(by_reason)}
        counted = suppressions.c.kind.not_in((PERSONA, OTHER))
        keys = connection.scalar(sa.select(sa.func.count()).where(counted)) or 0
    return {**found, "suppressed keys": max(keys - 1, 0)}


def _lines(
    manifest: Mapping[str, Any],
    people: Mapping[int, Mapping[str, Any]],
    errors: Sequence[GroupError],
    left_out: Mapping[str, int],
    checks: Sequence[CheckResult],
) -> Iterator[str]:
    faces = Counter[str]()
    for person in people.values():
        faces.update(person["sources"])
    yield f"# Data card of release {manifest['version']}\n"
    yield f"{len(people)} performers with {sum(faces.values())} faces, from {', '.join(manifest['sources'])}."
    yield f"Newest data of {manifest['created_at']}. Input digest `{manifest['input_digest']}`.\n"
    yield "## Sources\n"
    yield from _table(
        ("source", "faces", "performers with a face from it"),
        [
            (source, count, sum(source in person["sources"] for person in people.values()))
            for source, count in sorted(faces.items())
        ],
    )
    yield "\n## How much is known of whom\n"
    yield from _table(("faces", "performers"), list(_buckets(people)))
    yield ""
    yield from _table(
        ("field", "known of"),
        [
            (field, f"{sum(person[field] is not None for person in people.values()) / len(people):.0%}")
            for field in ("gender", "ethnicity", "country", "birth_date")
        ],
    )
    yield "\n## Error by group\n"
    yield (
        "Leave one photo out: the share of faces whose nearest other face, by exact search and the sidecar's fusion, is"
        f" somebody else's. Groups of at least {_SMALLEST_GROUP} people with two faces or more; the fields are what the"
        " sources say.\n"
    )
    if errors:
        rows = [
            (each.group, each.people, each.queries, f"{each.rate:.1%} ± {_margin(each):.1%}")
            for each in errors
        ]
        yield from _table(("group", "people", "faces asked", "somebody else is nearest"), rows)
    else:
        yield "No group is large enough."
    yield "\n## Left out\n"
    yield from _table(("reason", "records or keys"), list(left_out.items()))
    yield "\n## Checks before publication\n"
    yield from _table(
        ("check", "passed", "finding"),
        [(check.name, "yes" if check.passed else "no", check.detail) for check in checks],
    )
    yield f"\n## Known limits\n\n{_LIMITS}\n## Not to be used\n\n{_NOT_FOR}"


def _margin(error: GroupError) -> float:
    """Half of the 95 % interval of a share (Agresti and Coull, 1998)."""
    count = error.queries + 4
    share = (error.errors + 2) / count
    return float(1.96 * (share * (1 - share) / count) ** 0.5)


def _buckets(people: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    counts = [person["face_count"] for person in people.values()]
    for fewest, most in FACE_BUCKETS:
        name = f"{fewest}+" if most is None else str(fewest) if most == fewest else f"{fewest}-{most}"
        yield name, sum(fewest <= count <= (most or count) for count in counts)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
