"""Checks of the tattoo files of a release against the catalog, and the check of their worth."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from stash_sense_pipeline.foundation.files import read_only_sqlite
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.graph.exact_search import sample_positions
from stash_sense_pipeline.release.build.tattoos.tattoo_index import TattooVectors
from stash_sense_pipeline.release.build.tattoos.tattoo_rows import ReleasedTattoos
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.checks.retrieval import (
    Answers,
    index_content_check,
    index_recall,
    load_index,
    sidecar_query,
)
from stash_sense_pipeline.release.checks.tattoos.worth import TattooWorth, Worth, measure_worth
from stash_sense_pipeline.release.contract import (
    PERFORMERS_DB,
    SIDECAR_TATTOO_K,
    TATTOO,
    TATTOO_INDEX,
    TATTOO_JSON,
)
from stash_sense_pipeline.release.spec import ReleaseSpec

COVERAGE, WORTH = "tattoo_coverage", "tattoo_worth"
_QUERIES = 2_000
_ADVICE = "; raise m and ef_construction under export.index, lower export.min_recall_at_1, or set faces.tattoos to false"
_NO_TATTOOS = "no tattoos in this release"


def prove_tattoos(
    release: Path, tattoos: TattooVectors, vectors: ReleaseVectors, spec: ReleaseSpec
) -> tuple[CheckResult, ...]:
    """Checks the tattoo files of a release against the catalog's vectors, and measures what they are worth."""
    if tattoos.tattoos.left_out is not None:
        return (CheckResult(WORTH, True, _NO_TATTOOS, Severity.WARNING),)
    return (*prove_tattoo_index(release, tattoos, spec), worth_check(measure_worth(vectors, tattoos)))


def prove_tattoo_index(release: Path, tattoos: TattooVectors, spec: ReleaseSpec) -> tuple[CheckResult, ...]:
    """Checks the tattoo index of one flavour: its vectors, their owners, and its recall. `spec`: that of the flavour."""
    if tattoos.tattoos.left_out is not None:
        return ()
    index = load_index(release / TATTOO_INDEX)
    content = index_content_check(TATTOO, index, tattoos.unit, spec.index.storage)
    if not content.passed:
        return (content,)
    queries = sample_positions(len(tattoos.unit), _QUERIES)
    k = min(SIDECAR_TATTOO_K, len(tattoos.unit))
    answers = Answers(queries, *sidecar_query(index, tattoos.unit[queries], k))
    recall = index_recall(TATTOO, answers, tattoos.unit, tie=spec.limits.tie)
    limit = spec.limits.recall_at_1
    name = f"{TATTOO}_recall_at_1"
    found = CheckResult(
        name,
        recall.at_1 >= limit,
        f"{recall.at_1:.4f} over {len(queries)} tattoos, {recall.at_k:.4f} of the {k} nearest (limit {limit})"
        f"{'' if recall.at_1 >= limit else _ADVICE}",
        numbers={name: recall.at_1, f"{TATTOO}_recall_at_{k}": recall.at_k},
    )
    return content, owners_check(release, tattoos), found


def owners_check(release: Path, tattoos: TattooVectors) -> CheckResult:
    """Entry i of tattoo_embeddings.json is a record of the person with tattoo i, and performers.db has that person."""
    listed = read_json(release / TATTOO_JSON, LARGE)
    with closing(sqlite3.connect(read_only_sqlite(release / PERFORMERS_DB), uri=True)) as connection:
        query = "SELECT stashbox_performer_id, performer_id FROM stashbox_ids"
        holders: Mapping[tuple[str, int], int] = Counter(connection.execute(query).fetchall())
    owners = tattoos.owners.tolist()
    wrong = [
        place
        for place, (entry, owner) in enumerate(zip(listed, owners, strict=False))
        if (entry["universal_id"].partition(":")[2], owner) not in holders
    ]
    if wrong or len(listed) != len(owners):
        place = wrong[0] if wrong else len(owners)
        return CheckResult("tattoo_owners", False, f"entry {place} is not of the person with that tattoo")
    people = len(set(owners))
    return CheckResult(
        "tattoo_owners",
        True,
        f"{len(owners)} tattoos of {people} people",
        numbers={"tattoos": len(owners), "people": people},
    )


def coverage_check(tattoos: ReleasedTattoos, previous: Path | None) -> CheckResult:
    """The share of people who are searched for tattoos. A warning when it keeps the tattoos out of a release.

    Also a warning when the `previous` release had tattoos and this one has none: sidecars keep the old files.
    """
    numbers = {"people": tattoos.people, "searched": tattoos.searched, "share": tattoos.coverage}
    numbers |= {"tattoos": len(tattoos.entries), "waiting": tattoos.waiting}
    wanted = tattoos.people > 0
    found = f"{tattoos.searched} of {tattoos.people} people are searched for tattoos ({tattoos.coverage:.1%})"
    if tattoos.left_out is None:
        return CheckResult(COVERAGE, True, found, Severity.WARNING, numbers)
    detail = f"the release has no tattoos: {tattoos.left_out}"
    stays = previous is not None and (previous / TATTOO_INDEX).exists()
    if stays:
        detail += (
            f"; sidecars keep {TATTOO_INDEX} and {TATTOO_JSON} of the last release until a user deletes them"
        )
    return CheckResult(COVERAGE, not (wanted or stays), detail, Severity.WARNING, numbers if wanted else {})


def worth_check(worth: TattooWorth) -> CheckResult:
    """Whether the tattoo signal finds more people. A warning when it finds fewer than faces alone."""
    every = worth.every
    numbers: dict[str, float] = {"photographs": every.photographs, "gained": every.gained, "lost": every.lost}
    if not every.photographs:
        detail = "no searched photograph is of a person with two faces, so the signal cannot be measured"
        return CheckResult(WORTH, True, detail, Severity.WARNING, numbers)
    numbers |= {"without": every.without / every.photographs, "with": every.with_signal / every.photographs}
    verdict = "a gain" if every.change > 0 else "a loss" if every.change < 0 else "no change"
    advice = "; set faces.tattoos to false, or advise users against the signal" if every.change < 0 else ""
    detail = (
        f"{verdict}: {every.with_signal} of {every.photographs} left-out photographs find their person with tattoos, "
        f"{every.without} without ({every.gained} gained, {every.lost} lost){advice}"
    )
    rows = {"all": every, "with a tattoo": worth.shown, "without a tattoo": worth.not_shown}
    table = tuple(_row(name, each) for name, each in rows.items())
    return CheckResult(WORTH, every.change >= 0, detail, Severity.WARNING, numbers, table)


def _row(name: str, worth: Worth) -> dict[str, str | float | int]:
    return {
        "photographs": name,
        "left out": worth.photographs,
        "right without the signal": worth.without,
        "right with the signal": worth.with_signal,
        "gained": worth.gained,
        "lost": worth.lost,
    }
