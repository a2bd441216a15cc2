"""The cost of privacy: one erasure at full size, and a publish with ten thousand suppressions."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    performer_urls,
    source_images,
    source_performers,
    suppressed_faces,
    suppressions,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.identity.face_matching.trusted_faces import choose_trusted_faces
from stash_sense_pipeline.privacy.erasure import ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppressed_faces import BlockedPerson, keep_templates
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    IMAGE,
    LIKENESS,
    RECORD,
    URL,
    image_hash,
    likeness,
    plain_url_hash,
    record_hash,
    url_hashes,
)
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    HashRow,
    Suppressions,
    load_suppressions,
    store_hashes,
)
from stash_sense_pipeline.release import assembly, suppression_gate
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.checks.suppression_check import check_suppressed, check_suppressed_images
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import Limits
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.worlds import DIGESTS, SPEC

PEOPLE, FACES, PAGES = 110_000, 400_000, 4
SUPPRESSED = 10_000
_PICTURES, _NEW = 3, 10
KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, tzinfo=UTC)
# The vectors are random, so the recall limits of a release must not apply.
_LIMITS = Limits(answer_fidelity=0.0, recall_at_1=0.0, recall_at_100=0.0, self_retrieval=0.0)


def publish() -> Iterator[Row]:
    """Whole publishes of 110,000 people without suppressions, and with those of 10,000 people, some of them new.

    With the default graphs and every check, each takes a quarter of an hour of two cores. Processor time is measured,
    because other programs use the machine too. Two publishes differ by more than suppressions add, so the added time is
    that of the steps that use the list.
    """
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        small = fill(data / "small.db", 500, people_with_one=True)
        _publish(small, data / "warm")
        templates = _templates(small)
        small.dispose()
        engine = fill(data / "catalog.db", PEOPLE, people_with_one=True)
        _complete(engine)
        _suppress_many(engine, 0, ())
        whole, asked = _processor_times(engine, data / "without")
        _suppress_many(engine, SUPPRESSED, templates, applied_at=NOW)
        _suppress_anew(engine)
        whole_with, asked_with = _processor_times(engine, data / "with")
        engine.dispose()
    yield Row(f"processor time of a publish of {PEOPLE:,} people", whole, "s")
    yield Row(f"the same with {SUPPRESSED:,} suppressions", whole_with, "s")
    yield Row("added by suppressions", asked_with - asked, "s")
    yield Row("suppressions add to a publish", (asked_with - asked) / whole * 100, "%", 5)


def erasure() -> Iterator[Row]:
    """One erasure by record and one by URL on 400,000 faces, and the cost of 10,000 suppressions at this size."""
    with tempfile.TemporaryDirectory() as directory:
        engine = open_catalog(f"sqlite:///{Path(directory) / 'catalog.db'}")
        _fill(engine)
        yield Row("erasure of one person, 400,000 faces", _erasure(engine, "boxa:person-77"), "s", 10)
        page = "https://www.freeones.com/person-4711"
        yield Row("erasure by a profile URL, 400,000 faces", _erasure(engine, page), "s", 10)
        yield Row("nothing new to erase", _timed(lambda: _erase(engine)), "s", 1)
        _suppress_many(engine, SUPPRESSED, (), applied_at=NOW)
        added = _timed(lambda: _erase(engine))
        release = _release(Path(directory))
        listed = load_suppressions(engine, KEY)
        added += _timed(lambda: check_suppressed(release, listed, {"boxa": "boxa.example"}))
        added += _timed(lambda: check_suppressed_images(engine, listed))
        before = _timed(lambda: check_suppressed(release, Suppressions(KEY), {"boxa": "boxa.example"}))
        yield Row("checks of a publish of 400,000 faces, 10,000 suppressions", added, "s")
        yield Row("the same without suppressions", before, "s")
        yield Row("full search for 10,000 suppressions", _timed(lambda: _erase(engine, search_all=True)), "s")
        engine.dispose()


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {"publish": publish, "erasure": erasure}


def _publish(engine: sa.Engine, data: Path) -> None:
    """The steps of the publish job without the identities: erase, choose faces, build, check, publish."""
    erase_suppressed(engine, load_suppressions(engine, KEY), NOW)
    choose_trusted_faces(
        engine,
        max_faces_per_performer=12,
        source_caps={"stashdb": 12},
        trust={"stashdb": "high"},
        models=DIGESTS,
    )
    spec = replace(SPEC, index=IndexParams(), limits=_LIMITS, suppressions=load_suppressions(engine, KEY))
    report = publish_release(engine, data, "run", spec, date(2026, 11, 20))
    assert report.changed


def _erasure(engine: sa.Engine, target: str) -> float:
    def leave() -> None:
        with writing(engine) as connection:
            add_suppressions(connection, KEY, [SuppressionEntry(target, "asked", date(2026, 11, 20))])
        report = _erase(engine)
        assert report.records == 1
        assert report.faces > 0

    return _timed(leave)


def _erase(engine: sa.Engine, *, search_all: bool = False) -> Any:
    return erase_suppressed(engine, load_suppressions(engine, KEY), NOW, ErasureScope(search_all))


def _timed(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _processor_times(engine: sa.Engine, data: Path) -> tuple[float, float]:
    """Processor seconds (user and system, with children) of a publish, and of its steps that use the list."""
    asking: list[float] = []

    def watched(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begun = sum(os.times()[:4])
        try:
            return work(*arguments, **options)
        finally:
            asking.append(sum(os.times()[:4]) - begun)

    here = sys.modules[__name__]
    with ExitStack() as patches:
        for module, name in (
            (here, "load_suppressions"),
            (here, "erase_suppressed"),
            (assembly, "check_suppressed"),
            (suppression_gate, "check_suppressed"),
            (suppression_gate, "check_suppressed_images"),
            (suppression_gate, "check_refused_faces"),
        ):
            patches.enter_context(patch.object(module, name, partial(watched, getattr(module, name))))
        begun = sum(os.times()[:4])
        _publish(engine, data)
        return sum(os.times()[:4]) - begun, sum(asking)


def _complete(engine: sa.Engine) -> None:
    """Adds rows that a release does not need but a real catalog has: profile pages, and digests of images."""
    with writing(engine) as connection:
        records = connection.execute(
            sa.select(source_performers.c.source, source_performers.c.source_id)
        ).all()
        pages = [
            {"source": source, "source_id": source_id, "url": url}
            for source, source_id in records
            for url in _pages(source_id.partition("-")[2])
        ]
        connection.execute(sa.insert(performer_urls), pages)
        shown = connection.scalars(sa.select(source_images.c.image_id)).all()
        digests = [
            {"image": image_id, "sha": f"{number:064x}", "look": _look(number)}
            for number, image_id in enumerate(shown)
        ]
        of_image = sa.update(source_images).where(
            source_images.c.source == "stashdb", source_images.c.image_id == sa.bindparam("image")
        )
        connection.execute(
            of_image.values(sha256=sa.bindparam("sha"), picture_hash=sa.bindparam("look")), digests
        )


def _pages(person: str) -> tuple[str, ...]:
    return (
        f"https://www.freeones.com/{person}",
        f"https://www.instagram.com/{person}/",
        f"https://www.iafd.com/person.rme/perfid={person}/gender=f/{person}.htm",
        f"https://some.studio.example/models/{person}",
    )


def _look(number: int) -> str:
    """A perceptual hash that differs from those of other numbers."""
    return hashlib.blake2b(str(number).encode(), digest_size=8).hexdigest()


def _templates(engine: sa.Engine) -> list[dict[str, Any]]:
    """A refused face for each person of a catalog, as rows."""
    with writing(engine) as connection:
        query = sa.select(
            identity_members.c.performer_id, identity_members.c.source, identity_members.c.source_id
        )
        people: dict[int, set[tuple[str, str]]] = defaultdict(set)
        for number, *record in connection.execute(query):
            people[number].add((record[0], record[1]))
        keep_templates(connection, KEY, map(BlockedPerson, people.values()), NOW)
        kept = connection.execute(sa.select(suppressed_faces)).mappings()
        return [{name: row[name] for name in row if name != "template_id"} for row in kept]


def _suppress_many(
    engine: sa.Engine,
    people: int,
    templates: Sequence[Mapping[str, Any]],
    applied_at: datetime | None = None,
) -> None:
    """Replaces the suppression list by records, pages, images and some faces of people who are not in the catalog."""
    listed = []
    for number in range(people):
        person = f"gone-{number}"
        digests = [(RECORD, record_hash(KEY, source, person)) for source in ("stashdb", "fansdb")]
        digests += [(URL, digest) for page in _pages(person) for digest in url_hashes(KEY, page)]
        for picture in range(_PICTURES):
            name = f"{person}-{picture}"
            digests += [
                (URL, plain_url_hash(KEY, f"https://stashdb.org/images/{name}")),
                (IMAGE, image_hash(KEY, hashlib.sha256(name.encode()).hexdigest())),
                (LIKENESS, likeness(KEY, hashlib.blake2b(name.encode(), digest_size=8).hexdigest())),
            ]
        listed += [HashRow(kind, digest, "asked", NOW, 0, applied_at) for kind, digest in digests]
    with writing(engine) as connection:
        connection.execute(sa.delete(suppressions))
        connection.execute(sa.delete(suppressed_faces))
        store_hashes(connection, KEY, listed)
        if templates:
            connection.execute(sa.insert(suppressed_faces), list(templates))


def _suppress_anew(engine: sa.Engine) -> None:
    """New entries since the last publish: people that no source has listed yet, by record and by page."""
    targets = [f"stashdb:new-{number}" for number in range(_NEW)]
    targets += [f"https://www.freeones.com/new-{number}" for number in range(_NEW)]
    entries = [SuppressionEntry(target, "asked", NOW.date(), unseen=True) for target in targets]
    with writing(engine) as connection:
        add_suppressions(connection, KEY, entries)


def _release(directory: Path) -> Path:
    """A performers.db and performers.json of full size, with the texts that the check reads."""
    import json
    import sqlite3

    release = directory / "release"
    release.mkdir()
    with sqlite3.connect(release / "performers.db") as database:
        database.execute("CREATE TABLE stashbox_ids (endpoint TEXT, stashbox_performer_id TEXT)")
        database.execute("CREATE TABLE faces (image_url TEXT)")
        ids = [("boxa", f"person-{number}") for number in range(PEOPLE)]
        database.executemany("INSERT INTO stashbox_ids VALUES (?, ?)", ids)
        urls = [(_picture_url(number),) for number in range(FACES)]
        database.executemany("INSERT INTO faces VALUES (?)", urls)
    performers = {f"boxa.example:person-{number}": {"name": f"Person {number}"} for number in range(PEOPLE)}
    (release / "performers.json").write_text(json.dumps(performers))
    return release


def _picture_url(number: int) -> str:
    return f"https://boxa.example/images/{number % 256:02x}/{number:032x}"


def _fill(engine: sa.Engine) -> None:
    """Writes all rows that an erasure reads directly to the tables. The vectors are short, because no step reads them."""
    source_performers = ({"id": f"person-{number}", "n": number} for number in range(PEOPLE))
    statements = {
        "INSERT INTO source_performers (source, source_id, name, first_seen_at, changed_at)"
        " VALUES ('boxa', :id, 'Person ' || :n, '2026', '2026')": source_performers,
        "INSERT INTO performer_urls (source, source_id, url) VALUES ('boxa', :id, :url)": (
            {"id": f"person-{number}", "url": url}
            for number in range(PEOPLE)
            for url in (
                f"https://www.freeones.com/person-{number}",
                f"https://www.instagram.com/person_{number}/",
                f"https://www.iafd.com/person.rme/perfid=person{number}/gender=f/person-{number}.htm",
                f"https://some.studio.example/models/person-{number}",
            )
        ),
        "INSERT INTO source_images (source, image_id, url, state, attempts, sha256, picture_hash)"
        " VALUES ('boxa', :image, :url, 'done', 1, :sha, :look)": (
            {
                "image": f"image-{number}",
                "url": _picture_url(number),
                "sha": f"{number:064x}",
                "look": f"{number * 2654435761 % 2**64:016x}",
            }
            for number in range(FACES)
        ),
        "INSERT INTO performer_images (source, source_id, image_id) VALUES ('boxa', :id, :image)": (
            {"id": f"person-{number % PEOPLE}", "image": f"image-{number}"} for number in range(FACES)
        ),
        "INSERT INTO faces (face_id, source, image_id, face_index, detection_confidence, x1, y1, x2, y2, landmarks,"
        " yaw, roll, blur, quality, pack, detector_digest, created_at)"
        " VALUES (:n, 'boxa', :image, 0, 1, 0, 0, 1, 1, x'00', 0, 0, 0, 1, 'p', 'd', '2026')": (
            {"n": number, "image": f"image-{number}"} for number in range(FACES)
        ),
        "INSERT INTO embeddings (face_id, model, vector, pack, model_digest, created_at)"
        " VALUES (:n, :model, zeroblob(256), 'p', 'd', '2026')": (
            {"n": number, "model": model} for number in range(FACES) for model in ("facenet", "arcface")
        ),
        "INSERT INTO identities (performer_id, created_at) VALUES (:n, '2026')": (
            {"n": number + 1} for number in range(PEOPLE)
        ),
        "INSERT INTO identity_members (source, source_id, performer_id) VALUES ('boxa', :id, :n)": (
            {"id": f"person-{number}", "n": number + 1} for number in range(PEOPLE)
        ),
        "INSERT INTO trusted_faces (face_id, performer_id, source, source_id, rank)"
        " VALUES (:n, :performer, 'boxa', :id, 0)": (
            {"n": number, "performer": number % PEOPLE + 1, "id": f"person-{number % PEOPLE}"}
            for number in range(FACES)
        ),
        "INSERT INTO identity_log (at, performer_id, event, detail)"
        " VALUES ('2026', :n, 'created', :detail)": (
            {"n": number + 1, "detail": f'{{"members": ["boxa:person-{number}"]}}'}
            for number in range(PEOPLE)
        ),
    }
    _execute_many(engine, statements)


def _execute_many(engine: sa.Engine, statements: Mapping[str, Iterable[dict[str, Any]]]) -> None:
    """Executes each statement for all its rows, in one transaction of the driver."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        for statement, values in statements.items():
            cursor.executemany(statement, values)
        cursor.execute("COMMIT")
    finally:
        connection.close()
