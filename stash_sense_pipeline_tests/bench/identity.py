"""Identities of generated populations: errors, the time of the graph, and the face pass against bare BLAS."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.catalog.schema import (
    performer_aliases,
    performer_images,
    performer_urls,
    source_images,
    source_performers,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.catalog.upsert import insert_many
from stash_sense_pipeline.identity.face_matching.calibration import calibrate
from stash_sense_pipeline.identity.face_matching.face_agreement import find_matches, find_mismatches
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.linkage.blocking import StashBoxes
from stash_sense_pipeline.identity.linkage.candidates import find_candidates
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.evidence import NO_FACES, Faces, Pair
from stash_sense_pipeline.identity.linkage.learned_weights import learn
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.linkage.weighing import weigh
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.identity.invented_population import (
    HOSTS,
    VARIATIONS,
    Population,
    Rates,
    Score,
    make_population,
    score,
)

_MODELS = ("arcface", "facenet")
_DIM = 512
_TEMPLATES = 100_000
_CHANGES = 300
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def quality_rows(people: int = 100_000, with_faces: int = 20_000) -> Iterator[Row]:
    """Wrongly joined and missed pairs: clean, with 5 % of all URLs of another person, with few dates, with namesakes."""
    for name, poisoned, wrong in (("clean", 0.0, 0.5), ("5 % of URLs wrong", 0.05, 1.0)):
        found = _score(make_population(people, seed=1, poisoned=poisoned), None)
        yield Row(f"identity: wrong in 1000 pairs joined, {name}", _wrong(found), "", wrong)
        yield Row(f"identity: missed in 100 pairs, {name}", _missed(found), "", None if poisoned else 2.0)
        crowd = make_population(with_faces, seed=2, poisoned=poisoned)
        without, heard = _score(crowd, None), _score(crowd, _templates(crowd))
        yield Row(f"identity: wrong in 1000, with faces, {name}", _wrong(heard), "", wrong)
        most = _missed(without) if poisoned else min(1.0, _missed(without))
        yield Row(f"identity: missed in 100, with faces, {name}", _missed(heard), "", most)
    half = _score(make_population(with_faces, seed=3, rates=Rates(birth_date_known=0.5)), None)
    yield Row("identity: missed in 100, half of the birth dates missing", _missed(half), "", 3.0)
    twice = _score(make_population(with_faces, seed=4, rates=Rates(equal_homonyms=0.005)), None)
    yield Row("identity: wrong in 1000, 0.5 % namesakes with equal dates", _wrong(twice), "", 0.5)


# Small pools of names and changed names make the linkage miss more pairs in 100.
_MOST_MISSED = {"small pools of names": 2.5, "other names": 2.0}


def variation_rows(people: int = 8_000) -> Iterator[Row]:
    """Other populations, two of each kind together: one namesake with an equal birth date is several wrong pairs."""
    for kind, rates in VARIATIONS.items():
        both = [_score(make_population(people, seed, rates), None) for seed in (31, 32)]
        found = Score(*(sum(getattr(each, name) for each in both) for name in ("right", "wrong", "missed")))
        yield Row(f"identity: wrong in 1000, {kind}", _wrong(found), "", 0.5)
        yield Row(f"identity: missed in 100, {kind}", _missed(found), "", _MOST_MISSED.get(kind, 1.8))


def _wrong(found: Score) -> float:
    return 1000 * (1 - found.precision)


def _missed(found: Score) -> float:
    return 100 * (1 - found.recall)


def _score(crowd: Population, templates: Mapping[RecordKey, Template] | None) -> Score:
    candidates = find_candidates(crowd.records, StashBoxes.of(HOSTS))
    faces = NO_FACES
    if templates is not None:
        stacked = TemplateSet.of(templates, _MODELS)
        calibration = calibrate(stacked, candidates.certain_pairs(), HOSTS, candidates.are_distinct)
        assert calibration.thresholds, calibration.reason
        faces = Faces(
            find_matches(stacked, calibration), find_mismatches(stacked, calibration, candidates.shared)
        )
    weights = learn(candidates, HOSTS).weights
    groups = cluster(crowd.records, weigh(candidates, faces, weights).evidence, weights=weights).groups
    return score(crowd.truth, groups)


def _templates(crowd: Population, dim: int = 128) -> dict[RecordKey, Template]:
    """A template for two of three records. Twins have nearly the same face, and one person in 100 looks like another.

    Namesakes with one birth date are strangers: their faces differ.
    """
    rng = np.random.default_rng(5)
    people = sorted(set(crowd.truth.values()))
    faces = {person: [_unit(rng.standard_normal(dim)) for _ in _MODELS] for person in people}
    for person in people[::100]:
        other = faces[people[int(rng.integers(len(people)))]]
        faces[person] = _mixed(faces[person], other, float(rng.uniform(0.2, 0.45)))
    for person, twin in crowd.twins:
        faces[twin] = _mixed(faces[twin], faces[person], 0.9)
    found: dict[RecordKey, Template] = {}
    for key in sorted(crowd.truth):
        if rng.random() < 2 / 3:
            count = int(rng.integers(1, 6))
            noise = 0.8 / np.sqrt(dim * count)
            parts = [_unit(f + noise * rng.standard_normal(dim)) for f in faces[crowd.truth[key]]]
            found[key] = Template(count, np.concatenate(parts).astype(np.float16))
    return found


def _mixed(mine: list[np.ndarray], theirs: list[np.ndarray], share: float) -> list[np.ndarray]:
    return [_unit((1 - share) * a + share * b) for a, b in zip(mine, theirs, strict=True)]


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def graph_rows(people: int = 97_000) -> Iterator[Row]:
    """A full graph and an incremental run over the same catalog, each in its own process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "catalog.db"
        records, urls = _fill(path, people)
        yield Row("identity: records", records, "", 160_000, at_least=True)
        yield Row("identity: URLs", urls, "", 500_000, at_least=True)
        seconds, peak = _run(path, 0)
        yield Row("identity: full graph", seconds, "s", 30)
        yield Row("identity: peak memory of the full graph", peak, "GB", 2)
        seconds, _ = _run(path, _CHANGES)
        yield Row(f"identity: incremental run, {_CHANGES} records changed", seconds, "s", 3)


def _fill(path: Path, people: int) -> tuple[int, int]:
    crowd = make_population(people, seed=1)
    records = [crowd.records[key] for key in sorted(crowd.records)]
    engine = open_catalog(f"sqlite:///{path}")
    names = (
        "source",
        "source_id",
        "name",
        "gender",
        "birth_date",
        "country",
        "merged_into",
        "first_seen_at",
        "changed_at",
    )
    with writing(engine) as connection:
        rows = [
            (*r.key, r.name, r.gender, r.birth_date, r.country, r.merged_into, _NOW, _NOW) for r in records
        ]
        insert_many(connection, source_performers, names, rows)
        shown = [
            (source, f"{source_id} {n}", source_id, sha)
            for (source, source_id), sha, n in (
                (record.key, sha, n) for record in records for n, sha in enumerate(record.images)
            )
        ]
        images = [(source, image_id, "", "done", 1, sha) for source, image_id, _, sha in shown]
        insert_many(
            connection, source_images, ("source", "image_id", "url", "state", "attempts", "sha256"), images
        )
        insert_many(
            connection, performer_images, ("source", "image_id", "source_id"), [row[:3] for row in shown]
        )
        for table, column, items in (
            (performer_aliases, "alias", "aliases"),
            (performer_urls, "url", "urls"),
        ):
            lines = [(*record.key, item) for record in records for item in getattr(record, items)]
            insert_many(connection, table, ("source", "source_id", column), lines)
    engine.dispose()
    return sum(record.live for record in records), sum(len(record.urls) for record in records)


def _run(path: Path, changes: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "stash_sense_pipeline_tests.bench.identity", str(path), str(changes)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = map(float, result.stdout.split())
    return seconds, peak


def _child(path: str, changes: int) -> None:
    """Changes the given number of records and updates identities. Prints seconds and peak memory in GB."""
    engine = open_catalog(f"sqlite:///{path}")
    if changes:
        _change(engine, changes)
    report = rebuild_identities(engine, HOSTS, Overrides(), datetime.now(UTC))
    assert report.incremental == bool(changes)
    print(report.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024)


def _change(engine: sa.Engine, changes: int) -> None:
    """Gives records another country and another person's URL, as a sync would."""
    rng = random.Random(3)
    table = source_performers
    with writing(engine) as connection:
        keys = sorted(tuple(row) for row in connection.execute(sa.select(table.c.source, table.c.source_id)))
        urls = sorted(connection.execute(sa.select(performer_urls.c.url).distinct().limit(5_000)).scalars())
        for source, source_id in rng.sample(keys, changes):
            one = (table.c.source == source) & (table.c.source_id == source_id)
            now = datetime.now(UTC)
            connection.execute(table.update().where(one).values(country="XX", changed_at=now))
            mine = (performer_urls.c.source == source) & (performer_urls.c.source_id == source_id)
            connection.execute(performer_urls.delete().where(mine))
            for url in rng.sample(urls, 3):
                link = {"source": source, "source_id": source_id, "url": url}
                connection.execute(performer_urls.insert().values(**link))


def face_rows(count: int = _TEMPLATES) -> Iterator[Row]:
    """Calibration and the search for mutual nearest faces, against the matrix products of all pairs of sources alone.

    Two models of 512 dimensions; two of five templates are of one person each.
    """
    templates, hard = _many_templates(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare = _bare(templates)
    started = time.perf_counter()
    calibration = calibrate(templates, hard, HOSTS, lambda a, b: True)
    found = find_matches(templates, calibration)
    ours = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 / 1024
    assert len(found) > 0.9 * len(hard), calibration
    yield Row(f"identity: face pass over {count} templates", ours, "s")
    yield Row("identity: face pass / bare BLAS", ours / bare, "x", 2)
    yield Row("identity: memory of the face pass without its vectors", peak, "GB")


def _many_templates(count: int) -> tuple[TemplateSet, list[Pair]]:
    rng = np.random.default_rng(1)
    boxes = sorted(HOSTS)
    keys = [(boxes[n % len(boxes)], f"{n:06d}") for n in range(count)]
    order = sorted(range(count), key=keys.__getitem__)
    place = {n: row for row, n in enumerate(order)}
    vectors = rng.standard_normal((count, len(_MODELS) * _DIM), dtype=np.float32)
    hard = [(n, n + 1) for n in range(0, count - 1, len(boxes))]
    for a, b in hard:
        vectors[place[b]] = vectors[place[a]] + 0.5 * vectors[place[b]]
    for model in range(len(_MODELS)):
        part = vectors[:, model * _DIM : (model + 1) * _DIM]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    records = tuple(keys[n] for n in order)
    pairs = [(min(keys[a], keys[b]), max(keys[a], keys[b])) for a, b in hard]
    return TemplateSet(records, np.full(count, 3, np.int32), vectors, _MODELS), pairs


def _bare(templates: TemplateSet) -> float:
    """Seconds for the matrix products of all pairs of sources."""
    parts = list(templates.sources().values())
    started = time.perf_counter()
    for place, first in enumerate(parts):
        for second in parts[place + 1 :]:
            right = templates.vectors[second.start : second.stop].T
            for top in range(first.start, first.stop, 2048):
                templates.vectors[top : min(top + 2048, first.stop)] @ right
    return time.perf_counter() - started


PARTS = {"quality": quality_rows, "variations": variation_rows, "graph": graph_rows, "faces": face_rows}


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]))
