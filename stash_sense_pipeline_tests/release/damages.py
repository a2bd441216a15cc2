"""Damages to a release, each with the checks that it fails."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import voyager

from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.contract import RELEASE_FORMAT

Damage = Callable[[Path], object]


def reseal(release: Path) -> None:
    """Writes the right checksums into the manifest, so that only the tested check fails."""
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["checksums"] = {
        member.name: f"sha256:{sha256_file(member)}"
        for member in release.iterdir()
        if member.name != path.name
    }
    path.write_text(json.dumps(manifest))


def edit(name: str, change: Callable[[object], object]) -> Damage:
    def damage(release: Path) -> None:
        path = release / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def manifest(**changes: object) -> Damage:
    return edit("manifest.json", lambda content: {**content, **changes})


def performer(**changes: object) -> Damage:
    def change(people: dict) -> dict:
        first = sorted(people)[0]
        return {**people, first: {**people[first], **changes}}

    return edit("performers.json", change)


def sql(*statements: str) -> Damage:
    def damage(release: Path) -> None:
        with closing(sqlite3.connect(release / "performers.db")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return damage


def index(model: str = "facenet", **options: object) -> Damage:
    """Replaces an index by one with other parameters."""

    def damage(release: Path) -> None:
        path = release / f"face_{model}.voy"
        old = voyager.Index.load(str(path))
        vectors = old.get_vectors(range(len(old)))[:, : options.get("dimensions", 512)]
        vectors = options.get("vectors", lambda vectors: vectors)(vectors)
        ids = options.get("ids", range(len(vectors)))
        new = voyager.Index(options.get("space", voyager.Space.Cosine), vectors.shape[1], M=12)
        new.add_items(np.ascontiguousarray(vectors), ids=list(ids), num_threads=1)
        for number in options.get("delete", ()):
            new.mark_deleted(number)
        new.save(str(path))

    return damage


def with_nan(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.copy()
    vectors[5, 7] = np.nan
    return vectors


def swap_faces(faces: list) -> list:
    return [faces[-1], *faces[1:-1], faces[0]]


# The checks that fail without a readable manifest.
OF_MANIFEST = {
    *("manifest", "manifest_sources", "manifest_counts", "version", "checksums", "json_order"),
}

DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "no arcface index": (
        lambda release: (release / "face_arcface.voy").unlink(),
        {"required_files", "arcface_loads", "faces_json"},
    ),
    "no manifest": (
        lambda release: (release / "manifest.json").unlink(),
        {"required_files", *OF_MANIFEST},
    ),
    "a stray file": (lambda release: (release / "notes.txt").touch(), {"no_other_files"}),
    "a journal": (lambda release: (release / "performers.db-wal").touch(), {"no_other_files"}),
    "a link": (
        lambda release: (release / "face_adaface.voy").symlink_to(release / "face_arcface.voy"),
        {"no_other_files", "checksums"},
    ),
    "manifest is no JSON": (
        lambda release: (release / "manifest.json").write_text("{"),
        OF_MANIFEST,
    ),
    "manifest is a list": (
        lambda release: (release / "manifest.json").write_text("[]"),
        OF_MANIFEST,
    ),
    "newer manifest": (manifest(format=RELEASE_FORMAT + 1), {"manifest"}),
    "counts as text": (manifest(face_count="160"), {"manifest", "manifest_counts"}),
    "wrong face count": (manifest(face_count=161), {"manifest_counts"}),
    "wrong performer count": (manifest(performer_count=41), {"manifest_counts"}),
    "sources not sorted": (manifest(sources=["stashdb", "fansdb"]), {"manifest_sources"}),
    "created_at is no time": (manifest(created_at="yesterday"), {"manifest"}),
    "no created_at": (manifest(created_at=None), {"manifest"}),
    "version without zeros": (manifest(version="2026.2.18"), {"version"}),
    "version of no day": (manifest(version="2026.02.30"), {"version"}),
    "version as number": (manifest(version=2026), {"manifest", "version"}),
    "version not of the directory": (manifest(version="2026.02.19"), {"version"}),
    "checksums missing": (manifest(checksums=None), {"manifest", "checksums"}),
    "one checksum missing": (
        edit(
            "manifest.json",
            lambda content: {
                **content,
                "checksums": {k: v for k, v in content["checksums"].items() if k != "faces.json"},
            },
        ),
        {"checksums"},
    ),
    "checksum in capitals": (
        edit(
            "manifest.json",
            lambda content: {
                **content,
                "checksums": {k: v.replace("sha256:", "").upper() for k, v in content["checksums"].items()},
            },
        ),
        {"checksums"},
    ),
    "checksum of an absent file": (
        edit(
            "manifest.json",
            lambda content: {
                **content,
                "checksums": {**content["checksums"], "gone.voy": "sha256:" + "0" * 64},
            },
        ),
        {"checksums"},
    ),
    "Euclidean": (index(space=voyager.Space.Euclidean), {"facenet_space"}),
    "256 dimensions": (index(dimensions=256), {"facenet_dimensions"}),
    "tombstone": (index(delete=[3]), {"facenet_tombstones", "facenet_vectors"}),
    "gap in the ids": (index(ids=[*range(159), 200]), {"facenet_ids", "facenet_vectors"}),
    "ids from 1": (index(ids=range(1, 161)), {"facenet_ids", "facenet_vectors"}),
    "NaN in a vector": (index(vectors=with_nan), {"facenet_vectors"}),
    "zero vector": (
        index(vectors=lambda vectors: vectors * (np.arange(160) != 4)[:, None]),
        {"facenet_vectors"},
    ),
    "one vector less": (index(vectors=lambda vectors: vectors[:-1]), {"faces_json"}),
    "90 faces in one index": (
        index(model="arcface", vectors=lambda vectors: vectors[:90]),
        {"faces_json", "arcface_enough_faces"},
    ),
    "index cut": (
        lambda release: (release / "face_facenet.voy").write_bytes(
            (release / "face_facenet.voy").read_bytes()[:-1]
        ),
        {"facenet_loads", "faces_json"},
    ),
    "index of another format": (
        lambda release: (release / "face_facenet.voy").write_bytes(b"VOYA" + bytes(500)),
        {"facenet_loads", "faces_json"},
    ),
    "faces.json too short": (
        edit("faces.json", lambda faces: faces[:-1]),
        {"faces_json", "manifest_counts", "face_counts", "database_positions", "database_owners"},
    ),
    "faces.json is an object": (
        edit("faces.json", lambda faces: {}),
        {
            *("manifest_counts", "faces_json", "faces_json_gaps", "universal_ids", "closure", "face_counts"),
            *("database_positions", "database_owners"),
        },
    ),
    "null in faces.json": (
        edit("faces.json", lambda faces: [None, *faces[1:]]),
        {"faces_json_gaps", "manifest_counts", "face_counts", "database_positions", "database_owners"},
    ),
    "faces swapped": (edit("faces.json", swap_faces), {"database_owners"}),
    "id without host": (
        edit("faces.json", lambda faces: ["just-an-id", *faces[1:]]),
        {"universal_ids", "closure", "face_counts", "database_owners"},
    ),
    "face of an unknown person": (
        edit("faces.json", lambda faces: ["stashdb.org:nobody", *faces[1:]]),
        {"closure", "face_counts", "database_owners"},
    ),
    "person without a face": (
        edit(
            "performers.json",
            lambda people: {**people, "stashdb.org:zz": {**people["stashdb.org:st-00001"], "face_count": 1}},
        ),
        {"closure", "manifest_counts", "face_counts", "database_face_counts"},
    ),
    "no image_url": (performer(image_url=None), {"image_urls"}),
    "no name": (performer(name=None), {"performers_json", "names"}),
    "entity in a name": (performer(name="Person &amp; Co"), {"names"}),
    "a tag in a name": (performer(name="Person <b>1</b>"), {"names"}),
    "a quotation mark in a name": (performer(name='Person "One" 1'), {"names"}),
    "a tag in a country": (performer(country="<i>"), {"names"}),
    "a tag in an image_url": (performer(image_url='https://example.com/"><img src=x>'), {"names"}),
    "a tag in a universal id": (
        lambda release: [
            edit(name, lambda content: json.loads(json.dumps(content).replace("st-00001", "st-<b>")))(release)
            for name in ("faces.json", "performers.json")
        ],
        {"universal_ids", "database_owners", "json_order"},
    ),
    "country as number": (performer(country=3), {"performers_json"}),
    "wrong face_count": (performer(face_count=9), {"face_counts"}),
    "face_count as text": (performer(face_count="4"), {"performers_json", "face_counts"}),
    "database is text": (
        lambda release: (release / "performers.db").write_text("no database"),
        {"database_journal_mode", "database_objects"},
    ),
    "database is empty": (
        lambda release: (release / "performers.db").write_bytes(b""),
        {"database_journal_mode", "database_objects"},
    ),
    "WAL": (sql("PRAGMA journal_mode = WAL"), {"database_journal_mode"}),
    "column too many": (sql("ALTER TABLE performers ADD COLUMN rating TEXT"), {"database_schema"}),
    "column missing": (
        sql("DROP INDEX idx_performers_scene_count", "ALTER TABLE performers DROP COLUMN scene_count"),
        {"database_schema"},
    ),
    "table missing": (sql("DROP TABLE body_proportions"), {"database_schema"}),
    "table of the predecessor": (
        sql("CREATE TABLE scrape_progress (source TEXT)"),
        {"database_extra_tables"},
    ),
    "schema version 5": (sql("UPDATE schema_version SET version = 5"), {"database_schema_version"}),
    "orphan alias": (sql("UPDATE aliases SET performer_id = 9999 WHERE id = 1"), {"database_foreign_keys"}),
    "indices apart": (
        sql("UPDATE faces SET arcface_index = 500 WHERE arcface_index = 3"),
        {"database_positions"},
    ),
    "position outside": (
        sql("UPDATE faces SET arcface_index = 500, facenet_index = 500 WHERE arcface_index = 3"),
        {"database_positions", "database_owners"},
    ),
    "face of another person": (
        sql("UPDATE faces SET performer_id = 1 WHERE facenet_index = 150"),
        {"database_owners", "database_face_counts"},
    ),
    "performer's face_count": (
        sql("UPDATE performers SET face_count = 7 WHERE id = 3"),
        {"database_face_counts"},
    ),
    "endpoint is a host": (
        sql("UPDATE stashbox_ids SET endpoint = 'stashdb.org' WHERE endpoint = 'stashdb'"),
        {"database_endpoints", "database_owners"},
    ),
    "no record": (sql("DELETE FROM stashbox_ids WHERE performer_id = 5"), {"database_owners"}),
    "no image_url in the database": (
        sql("UPDATE performers SET image_url = NULL WHERE id = 5"),
        {"database_image_urls"},
    ),
    "date of no day": (
        sql("UPDATE performers SET birth_date = '1990-02-30' WHERE id = 5"),
        {"database_dates"},
    ),
    "date of no month": (
        sql("UPDATE performers SET death_date = '1990-13' WHERE id = 5"),
        {"database_dates"},
    ),
    "host that is not the stash-box's": (
        lambda release: [
            edit(
                name, lambda content: json.loads(json.dumps(content).replace("stashdb.org:", "stashdb.com:"))
            )(release)
            for name in ("faces.json", "performers.json")
        ],
        {"database_hosts"},
    ),
    "people not sorted": (
        edit("performers.json", lambda people: dict(reversed(people.items()))),
        {"json_order"},
    ),
    "manifest not sorted": (
        edit("manifest.json", lambda content: dict(reversed(content.items()))),
        {"json_order"},
    ),
    "odd date": (sql("UPDATE performers SET birth_date = '1.2.1990' WHERE id = 5"), {"database_dates"}),
    "time of a face in words": (
        sql("UPDATE faces SET created_at = 'last Monday' WHERE facenet_index = 3"),
        {"database_times"},
    ),
    "time of a performer without a day": (
        sql("UPDATE performers SET updated_at = '2026-13-40T10:00:00Z' WHERE id = 5"),
        {"database_times"},
    ),
    "time as a number": (sql("UPDATE aliases SET created_at = 2460000.5 WHERE id = 1"), {"database_times"}),
    "detected tattoos that are no JSON": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 1, 0.5, '[')"),
        {"database_tattoo_detections"},
    ),
    "a detected tattoo without a location": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 1, 0.5, '[{}]')"),
        {"database_tattoo_detections"},
    ),
    "detections that are an object": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 1, 0.5, '{}')"),
        {"database_tattoo_detections"},
    ),
    "tattoos without a detection": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 1, 0.5, '[]')"),
        {"database_tattoo_detections"},
    ),
    "a confidence above 1": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 0, 1.5, '[]')"),
        {"database_tattoo_detections"},
    ),
    "detections as a blob": (
        sql("INSERT INTO tattoo_detections VALUES (NULL, 3, 1, 0.5, x'5b5d')"),
        {"database_tattoo_detections"},
    ),
    "tattoo without a place": (
        sql("INSERT INTO tattoos (performer_id) VALUES (3)"),
        {"database_places"},
    ),
    "piercing with a number for a place": (
        sql("INSERT INTO piercings (performer_id, location) VALUES (3, x'0102')"),
        {"database_places", "database_place_texts"},
    ),
    "a tattoo twice": (
        sql("INSERT INTO tattoos (performer_id, location) VALUES (3, 'Arm'), (3, 'ARM')"),
        {"database_places"},
    ),
    "description of a tattoo": (
        sql("INSERT INTO tattoos (performer_id, location, description) VALUES (3, 'Arm', 'a star')"),
        {"database_place_texts"},
    ),
    "place with a control character": (
        sql("INSERT INTO piercings (performer_id, location) VALUES (3, 'left' || char(27) || 'ear')"),
        {"database_place_texts"},
    ),
    "tattoo of an unknown person": (
        sql("INSERT INTO tattoos (performer_id, location) VALUES (9999, 'Arm')"),
        {"database_foreign_keys"},
    ),
    "half of the tattoo files": (
        lambda release: (release / "tattoo_embeddings.json").write_text("[]"),
        {"tattoo_files"},
    ),
    "adaface of another length": (
        lambda release: (
            shutil.copy(release / "face_facenet.voy", release / "face_adaface.voy"),
            index("adaface", vectors=lambda vectors: vectors[:150])(release),
        ),
        {"faces_json"},
    ),
}
