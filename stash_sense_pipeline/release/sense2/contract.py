"""The contract of stash-sense2: file names, tables, sizes, universal ids."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stash_sense_pipeline.release.contract import PERSONAL_FIELDS

PERFORMERS_DB = "performers.db"
INDEX = "face_embeddings.usearch"
FACES_JSON = "faces.json"
PERFORMERS_JSON = "performers.json"
YAW_JSON = "face_yaw.json"
LINKS_JSON = "performer_links.json"
ALIASES_JSON = "aliases.json"
MANIFEST = "manifest.json"
# All eight are always there: a client keeps an old copy of a file that a release lacks.
FULL_FILES = (
    INDEX,
    FACES_JSON,
    PERFORMERS_JSON,
    YAW_JSON,
    LINKS_JSON,
    ALIASES_JSON,
    MANIFEST,
    PERFORMERS_DB,
)
DELTA_DB = "delta.db"
DELTA_MANIFEST = "delta_manifest.json"
DELTA_FILES = (DELTA_DB, DELTA_MANIFEST)
LINKS_FILES = (LINKS_JSON, ALIASES_JSON)

DIMENSIONS = 512
# Links a vector of the index has to others, at all levels but the lowest.
CONNECTIVITY = 16
EXPANSION_ADD = 128
# A vector of a delta: little-endian float32.
VECTOR_BYTES = 4 * DIMENSIONS

# Moved faces leave right counts from this version of the client on. A release without it is refused by older ones.
MIN_SIDECAR_VERSION = "0.47.3"

VERSION_FORM = re.compile(r"\d{4}\.\d{2}\.\d{2}")
_ZIP_FORM = re.compile(
    r"stash-sense2-(?:(?P<kind>data|links)-(?P<version>\d{4}\.\d{2}\.\d{2})"
    r"|delta-(?P<before>\d{4}\.\d{2}\.\d{2})-to-(?P<after>\d{4}\.\d{2}\.\d{2}))\.zip"
)

# The client writes universal ids with these domains, and `<endpoint>.org` for any other endpoint. The hosts of the
# settings have no part in it.
_DOMAINS: Mapping[str, str] = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}

# A foreign key deletes the rows of a removed performer: the client removes the performer before the faces. There are no
# defaults, so that a row of a client's delta equals the row of the next full release.
SCHEMA = """
CREATE TABLE performers (
    id INTEGER PRIMARY KEY,
    canonical_name TEXT NOT NULL,
    disambiguation TEXT,
    gender TEXT,
    country TEXT,
    ethnicity TEXT,
    birth_date TEXT,
    death_date TEXT,
    height_cm INTEGER,
    eye_color TEXT,
    hair_color TEXT,
    career_start_year INTEGER,
    career_end_year INTEGER,
    scene_count INTEGER,
    stashdb_updated_at TEXT,
    face_count INTEGER,
    image_url TEXT,
    created_at TEXT,
    updated_at TEXT,
    inferred_gender TEXT,
    inferred_gender_confidence REAL
);
CREATE TABLE stashbox_ids (
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    endpoint TEXT NOT NULL,
    stashbox_performer_id TEXT NOT NULL,
    PRIMARY KEY (endpoint, stashbox_performer_id)
);
CREATE TABLE aliases (
    id INTEGER PRIMARY KEY,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    source_endpoint TEXT,
    UNIQUE (performer_id, alias)
);
CREATE TABLE performer_urls (
    id INTEGER PRIMARY KEY,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    url_type TEXT NOT NULL,
    source_endpoint TEXT
);
CREATE TABLE faces (
    id INTEGER PRIMARY KEY,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    embedding_index INTEGER NOT NULL UNIQUE,
    image_url TEXT,
    source_endpoint TEXT NOT NULL,
    quality_score REAL,
    created_at TEXT,
    yaw REAL,
    gender TEXT,
    gender_confidence REAL,
    estimated_age INTEGER,
    image_sha256 TEXT
);
"""
INDEXES = """
CREATE INDEX idx_stashbox_performer ON stashbox_ids(performer_id);
CREATE INDEX idx_aliases_performer ON aliases(performer_id);
CREATE INDEX idx_urls_performer ON performer_urls(performer_id);
CREATE INDEX idx_faces_performer ON faces(performer_id);
"""
# The last table has the numbers of performers that were erased: they are removed without their records' ids.
REMOVED_NUMBERS = "catalogue_removed_performers"
DELTA_SCHEMA = f"""
CREATE TABLE performers (
    id INTEGER,
    endpoint TEXT NOT NULL,
    stashbox_id TEXT NOT NULL,
    action TEXT NOT NULL,
    name TEXT,
    disambiguation TEXT,
    gender TEXT,
    country TEXT,
    ethnicity TEXT,
    birth_date TEXT,
    death_date TEXT,
    height INTEGER,
    eye_color TEXT,
    hair_color TEXT,
    career_start_year INTEGER,
    career_end_year INTEGER,
    aliases_json TEXT,
    images_json TEXT,
    updated TEXT,
    merged_into_id TEXT
);
CREATE TABLE faces (
    embedding_index INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    stashbox_id TEXT NOT NULL,
    image_url TEXT,
    quality_score REAL,
    yaw REAL,
    embedding BLOB NOT NULL,
    image_sha256 TEXT
);
CREATE TABLE removed_faces (embedding_index INTEGER NOT NULL);
CREATE TABLE {REMOVED_NUMBERS} (id INTEGER NOT NULL);
"""


_FACE_COLUMNS = (
    *(
        "id",
        "performer_id",
        "embedding_index",
        "image_url",
        "source_endpoint",
        "quality_score",
        "created_at",
        "yaw",
    ),
    *("gender", "gender_confidence", "estimated_age", "image_sha256"),
)
TABLES: Mapping[str, tuple[str, ...]] = {
    "performers": (
        *(
            "id",
            "canonical_name",
            *PERSONAL_FIELDS,
            "scene_count",
            "stashdb_updated_at",
            "face_count",
            "image_url",
        ),
        *("created_at", "updated_at", "inferred_gender", "inferred_gender_confidence"),
    ),
    "stashbox_ids": ("performer_id", "endpoint", "stashbox_performer_id"),
    "aliases": ("id", "performer_id", "alias", "source_endpoint"),
    "performer_urls": ("id", "performer_id", "url", "url_type", "source_endpoint"),
    "faces": _FACE_COLUMNS,
}
DELTA_TABLES: Mapping[str, tuple[str, ...]] = {
    "performers": (
        *("id", "endpoint", "stashbox_id", "action", "name"),
        *("height" if name == "height_cm" else name for name in PERSONAL_FIELDS),
        *("aliases_json", "images_json", "updated", "merged_into_id"),
    ),
    "faces": (
        *("embedding_index", "endpoint", "stashbox_id", "image_url", "quality_score", "yaw", "embedding"),
        "image_sha256",
    ),
    "removed_faces": ("embedding_index",),
    REMOVED_NUMBERS: ("id",),
}
UPSERTED, REMOVED = "upserted", "removed"


def domain(endpoint: str) -> str:
    """The part of universal ids before the colon, for the records of a stash-box."""
    return _DOMAINS.get(endpoint, f"{endpoint}.org")


def universal_id(endpoint: str, record: str) -> str:
    """The universal id that the client writes for a record of a stash-box."""
    return f"{domain(endpoint)}:{record}"


def full_zip(version: str) -> str:
    """File name of the zip with all files of a version."""
    return f"stash-sense2-data-{version}.zip"


def delta_zip(before: str, after: str) -> str:
    """File name of the zip with the changes between two versions."""
    return f"stash-sense2-delta-{before}-to-{after}.zip"


def links_zip(version: str) -> str:
    """File name of the zip with the links and aliases of a version."""
    return f"stash-sense2-links-{version}.zip"


def zip_kind(name: str) -> str | None:
    """`data`, `delta` or `links`, by the file name of a zip of a sense2 release; None for another name."""
    found = _ZIP_FORM.fullmatch(name)
    return None if found is None else found["kind"] or "delta"


def named_version(name: str) -> str | None:
    """The version in the name of a zip or directory of a sense2 release: of a delta, the one that it leads to."""
    if VERSION_FORM.fullmatch(name):
        return name
    found = _ZIP_FORM.fullmatch(name)
    return None if found is None else found["version"] or found["after"]
