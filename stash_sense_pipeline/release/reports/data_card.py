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

# The error rate of a smaller group describes single people and not the group.
_SMALLEST_GROUP = 20
_QUERIES_A_GROUP = 300
_GROUPED_BY = ("gender", "ethnicity")

_LIMITS = """\
- The release holds only people that a stash-box lists, with the images that the sources chose: mostly posed, well lit
  and recent.
- A match is a similarity of two faces. It is a suggestion that the user confirms, never a proof of identity.
- People with one or two faces are found much less often, and are more often confused with others, than people with many.
- Look-alikes, siblings and twins are confused with each other. Profile views and small or blurred faces fail.
- Gender, ethnicity and dates are those of the sources. They are often missing and sometimes wrong.
- The embedders were trained by others on faces that are not balanced over age, gender and skin colour. The errors above
  are measured on this release only, not on images of other kinds.
"""
_PROHIBITED_USE = """\
To identify people other than the adult performers in the user's own media library: not on the street, not in private
images, not at work, not by a person with power over them. The program that made this release has no endpoint for it.
A person who asks for it is removed; see PRIVACY.md.
"""


@dataclass(frozen=True)
class GroupError:
    """The error of leave-one-photo-out retrieval in one group of people.

    `errors`: the number of queries for which the nearest other face is another person's.
    """

    group: str
    people: int
    queries: int
    errors: int

    @property
    def rate(self) -> float:
        """The share of queries for which the nearest other face is another person's."""
        return self.errors / self.queries if self.queries else 0.0


def data_card_path(release: Path) -> Path:
    """The path of the data card of a published release."""
    return release.parent / f"{release.name}.datacard.md"


def write_data_card(
    engine: sa.Engine, release: Path, vectors: ReleaseVectors, checks: Sequence[CheckResult]
) -> Path:
    """Writes `<version>.datacard.md` beside a published release and returns its path.

    The card is not in the release, which holds only the files of the sidecar's contract. `vectors` are the unit vectors
    that the release was checked with.
    """
    people = _people(release)
    errors = group_errors(vectors, people)
    path = data_card_path(release)
    lines = _lines(read_manifest(release), people, errors, _withheld_counts(engine), checks)
    write_atomically(path, visible("\n".join(lines) + "\n"), mode=PUBLIC_FILE)
    return path


def group_errors(vectors: ReleaseVectors, people: Mapping[int, Mapping[str, Any]]) -> tuple[GroupError, ...]:
    """The error of each group of at least 20 people with two faces or more, by exact search and the sidecar's fusion.

    `people` maps performer ids to their fields. A group has up to 300 queries, the same in every run.
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
            found.append(GroupError(group, of_people, len(chosen), _count_errors(vectors, chosen)))
    return tuple(found)


def _count_errors(vectors: ReleaseVectors, positions: Any) -> int:
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


def _withheld_counts(engine: sa.Engine) -> dict[str, int]:
    """The number of withheld records by reason, and of suppressed keys."""
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
    withheld: Mapping[str, int],
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
    yield "\n## Completeness\n"
    yield from _table(("faces", "performers"), list(_people_by_face_count(people)))
    yield ""
    yield from _table(
        ("field", "performers with a value"),
        [
            (field, f"{sum(person[field] is not None for person in people.values()) / len(people):.0%}")
            for field in ("gender", "ethnicity", "country", "birth_date")
        ],
    )
    yield "\n## Error by group\n"
    yield (
        "Leave-one-photo-out retrieval: the share of faces for which the nearest other face, by exact search and the"
        f" sidecar's fusion, is another person's. Groups have at least {_SMALLEST_GROUP} people with two faces or more."
        " The fields are those of the sources.\n"
    )
    if errors:
        rows = [
            (each.group, each.people, each.queries, f"{each.rate:.1%} ± {_margin(each):.1%}")
            for each in errors
        ]
        yield from _table(("group", "people", "queries", "error"), rows)
    else:
        yield "No group is large enough."
    yield "\n## Withheld and suppressed\n"
    yield from _table(("reason", "records or keys"), list(withheld.items()))
    yield "\n## Checks before publication\n"
    yield from _table(
        ("check", "passed", "finding"),
        [(check.name, "yes" if check.passed else "no", check.detail) for check in checks],
    )
    yield f"\n## Known limits\n\n{_LIMITS}\n## Prohibited use\n\n{_PROHIBITED_USE}"


def _margin(error: GroupError) -> float:
    """Half of the 95 % interval of a share (Agresti and Coull, 1998)."""
    count = error.queries + 4
    share = (error.errors + 2) / count
    return float(1.96 * (share * (1 - share) / count) ** 0.5)


def _people_by_face_count(people: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    counts = [person["face_count"] for person in people.values()]
    for fewest, most in FACE_BUCKETS:
        name = f"{fewest}+" if most is None else str(fewest) if most == fewest else f"{fewest}-{most}"
        yield name, sum(fewest <= count <= (most or count) for count in counts)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
