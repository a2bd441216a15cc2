"""A catalog for the frames: people with images, faces, vectors and evidence, and rows that no frame may hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.hostile_texts import HOSTILE
from stash_sense_pipeline_tests.release.worlds import DIGESTS, PACK

KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, 4, 5, 6, 789, tzinfo=UTC)
PEOPLE = 30
# PostgreSQL stores no zero byte and no lone surrogate; nor does the writer of records.
NAMES = [text for text in HOSTILE.values() if "\x00" not in text and "\ud800" not in text]


def fill(engine: sa.Engine) -> None:
    """Each person has a record at two sources, evidence that links them, an image, a face and two vectors."""
    rng = np.random.default_rng(3)
    rows: Rows = {"identity_evidence": []}
    for number in range(PEOPLE):
        add_rows(rows, _person(number, rng))
    common = {"first_seen_at": NOW, "changed_at": NOW}
    gone = {"source": "boxa", "source_id": "gone", "name": "Zqgone", "deleted_at": NOW, **common}
    pictures = [
        {
            "source": "boxa",
            "image_id": "of-gone",
            "url": "https://a.example/zqgone",
            "state": "done",
            "attempts": 1,
        },
        {
            **{
                "source": "boxa",
                "image_id": "listed",
                "url": "https://a.example/zqlisted",
                "state": "rejected",
            },
            **{"reason": "suppressed", "attempts": 1},
        },
    ]
    links = [
        {"source": "boxa", "source_id": "gone", "image_id": "of-gone"},
        {"source": "boxa", "source_id": "p01", "image_id": "listed"},
    ]
    # An image of two records, of which one is gone.
    links.append({"source": "boxa", "source_id": "gone", "image_id": "image-2"})
    for picture in pictures:
        insert_rows(engine, {"source_images": [picture]})
    insert_rows(engine, {"source_performers": [gone]})
    insert_rows(engine, rows)
    insert_rows(engine, {"performer_images": links})


def _person(number: int, rng: np.random.Generator) -> Rows:
    at = NOW + timedelta(minutes=number)
    rows: Rows = {"identities": [{"performer_id": number + 1, "created_at": at}]}
    for source in ("boxa", "boxb"):
        name = f"Zqperson {number} {NAMES[number % len(NAMES)]}"
        record = record_rows(
            source=source,
            source_id=f"p{number:02d}",
            performer_id=number + 1,
            at=at,
            name=name,
            height_cm=170 if number % 2 else None,
            raw={"slug": "zqsecret"},
        )
        add_rows(rows, record)
        urls = [{"source": source, "source_id": f"p{number:02d}", "url": f"https://x.com/zqaccount{number}"}]
        add_rows(rows, {"performer_urls": urls})
    sides = {
        "source_a": "boxa",
        "source_id_a": f"p{number:02d}",
        "source_b": "boxb",
        "source_id_b": f"p{number:02d}",
    }
    facts = [
        ("profile_url", f"twitter:zqaccount{number}"),
        ("profile_url", f"instagram:zqaccount{number}"),
        ("name", ""),
    ]
    add_rows(
        rows,
        {
            "identity_evidence": [
                {**sides, "kind": kind, "key": key, "weight": 1.5, "verdict": "linked", "first_seen_at": at}
                for kind, key in facts
            ]
        },
    )
    face = TrustedFace(
        face_id=number + 1,
        performer_id=number + 1,
        source="boxa",
        source_id=f"p{number:02d}",
        rank=0,
        image_id=f"image-{number}",
        url=f"https://a.example/image-{number}",
        vectors={model: rng.standard_normal(8).astype("<f4").tobytes() for model in DIGESTS},
    )
    add_rows(rows, face.rows(PACK, at))
    return rows


def ask_to_leave(engine: sa.Engine, *targets: str) -> None:
    """Puts targets on the list of the catalog, without applying it."""
    entries = [SuppressionEntry(target, "asked", date(2026, 11, 20)) for target in targets]
    with writing(engine) as connection:
        add_suppressions(connection, KEY, entries)
