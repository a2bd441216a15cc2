"""What it costs that a person can leave: one erasure at full size, and ten thousand suppressions in a publish."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog, writing
from stash_sense_pipeline.catalog.schema import suppressions
from stash_sense_pipeline.privacy.entries import add_suppressions
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.suppression import (
    RECORD,
    URL,
    HashRow,
    Suppressions,
    load_suppressions,
    record_hash,
    store_hashes,
    url_hashes,
)
from stash_sense_pipeline.privacy.suppression_file import SuppressionEntry
from stash_sense_pipeline.release.index import IndexParams
from stash_sense_pipeline.release.proof import Limits
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.suppressed import check_suppressed, check_suppressed_images
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.worlds import SPEC

PEOPLE, FACES, PAGES = 110_000, 400_000, 4
SUPPRESSED = 10_000
KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, tzinfo=UTC)
# Graphs in a fraction of the time that good ones take: a real publish is longer, and what is added to it the same.
_HASTY = IndexParams(m=4, ef_construction=10)


def rows() -> Iterator[Row]:
    """All parts."""
    for part in PARTS.values():
        yield from part()


def publish() -> Iterator[Row]:
    """Whole publishes without suppressions and with some that were never applied, a fifth of 110,000 people and of 10,000
    suppressions: what is added grows as these numbers do, a publish faster.
    """
    people, suppressed = PEOPLE // 5, SUPPRESSED // 5
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        engine = fill(data / "catalog.db", people, people_with_one=True)
        listed = open_catalog(f"sqlite:///{shutil.copy(data / 'catalog.db', data / 'listed.db')}")
        small = fill(data / "small.db", 500, people_with_one=True)
        _publish(small, data / "warm")
        without, added = [], []
        for turn in range(2):
            without.append(_timed(partial(_publish, engine, data / f"without{turn}")))
            _suppress_many(listed, "stashdb", suppressed, applied_at=None)
            added.append(_timed(partial(_publish, listed, data / f"with{turn}")))
        for each in (engine, listed, small):
            each.dispose()
        yield Row(f"publish of {people:,} people, hasty graphs", min(without), "s")
        yield Row(f"the same with {suppressed:,} suppressions", min(added), "s")
        yield Row("suppressions add to a publish", (min(added) / min(without) - 1) * 100, "%", 5)


def erasure() -> Iterator[Row]:
    """One erasure by record and one by URL on 400,000 faces; what 10,000 suppressions cost at this size."""
    with tempfile.TemporaryDirectory() as directory:
        engine = open_catalog(f"sqlite:///{Path(directory) / 'catalog.db'}")
        _fill(engine)
        yield Row("erasure of one person, 400,000 faces", _erasure(engine, "boxa:person-77"), "s", 10)
        page = "https://www.freeones.com/person-4711"
        yield Row("erasure by a profile URL, 400,000 faces", _erasure(engine, page), "s", 10)
        yield Row("nothing new to erase", _timed(lambda: _erase(engine)), "s", 1)
        _suppress_many(engine, "boxa", SUPPRESSED, applied_at=NOW)
        added = _timed(lambda: _erase(engine))
        release = _release(Path(directory))
        listed = load_suppressions(engine, KEY)
        added += _timed(lambda: check_suppressed(release, listed, {"boxa": "boxa.example"}))
        added += _timed(lambda: check_suppressed_images(engine, listed))
        before = _timed(lambda: check_suppressed(release, Suppressions(KEY), {"boxa": "boxa.example"}))
        yield Row("checks of a publish of 400,000 faces, 10,000 suppressions", added, "s")
        yield Row("of that without any suppression", before, "s")
        yield Row("full search for 10,000 suppressions", _timed(lambda: _erase(engine, search_all=True)), "s")
        engine.dispose()


PARTS: Mapping[str, Callable[[], Iterator[Row]]] = {"publish": publish, "erasure": erasure}


def _publish(engine: sa.Engine, data: Path) -> None:
    """What the publish job does: erases, builds, proves, and puts a release in place."""
    erase_suppressed(engine, load_suppressions(engine, KEY), NOW)
    # Such hasty graphs miss neighbours.
    limits = Limits(recall_at_1=0.0, recall_at_100=0.0, self_retrieval=0.0)
    spec = replace(SPEC, index=_HASTY, limits=limits, suppressions=load_suppressions(engine, KEY))
    publish_release(engine, data, "run", spec, date(2026, 11, 20))


def _erasure(engine: sa.Engine, target: str) -> float:
    def leave() -> None:
        with writing(engine) as connection:
            add_suppressions(connection, KEY, [SuppressionEntry(target, "asked", date(2026, 11, 20))])
        report = _erase(engine)
        assert report.records == 1
        assert report.faces > 0

    return _timed(leave)


def _erase(engine: sa.Engine, *, search_all: bool = False) -> Any:
    return erase_suppressed(engine, load_suppressions(engine, KEY), NOW, search_all=search_all)


def _timed(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _suppress_many(engine: sa.Engine, source: str, count: int, *, applied_at: datetime | None) -> None:
    """People who are not in the catalog (any more), each with pages, as after years of requests; in place of any before."""
    listed = []
    for number in range(count):
        digests = [(RECORD, record_hash(KEY, source, f"gone-{number}"))]
        digests += [(URL, digest) for digest in url_hashes(KEY, f"https://www.freeones.com/gone-{number}")]
        listed += [HashRow(kind, digest, "asked", NOW, 0, applied_at) for kind, digest in digests]
    with writing(engine) as connection:
        connection.execute(sa.delete(suppressions))
        store_hashes(connection, KEY, listed)


def _release(directory: Path) -> Path:
    """performers.db and performers.json of the size, with the texts that the check reads."""
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
    """Everything an erasure looks at, straight into the tables; vectors are short, as nobody reads them here."""
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
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        for statement, values in statements.items():
            cursor.executemany(statement, values)
        cursor.execute("COMMIT")
    finally:
        connection.close()
