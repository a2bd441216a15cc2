"""The sidecar's contract: file names, tables, columns, query size, order of endpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

PERFORMERS_DB = "performers.db"
FACES_JSON = "faces.json"
PERFORMERS_JSON = "performers.json"
MANIFEST = "manifest.json"
TATTOO_INDEX = "tattoo_embeddings.voy"
TATTOO_JSON = "tattoo_embeddings.json"

# Index file of each embedder that the contract knows. An id in an index is a position in faces.json.
INDEX_FILES: Mapping[str, str] = {
    "facenet": "face_facenet.voy",
    "arcface": "face_arcface.voy",
    "adaface": "face_adaface.voy",
}
REQUIRED_MODELS = ("facenet", "arcface")
ADAFACE = "adaface"
FACE_DIMENSIONS = 512
TATTOO_DIMENSIONS = 1280

REQUIRED_FILES = (
    PERFORMERS_DB,
    INDEX_FILES["facenet"],
    INDEX_FILES["arcface"],
    FACES_JSON,
    PERFORMERS_JSON,
    MANIFEST,
)
OPTIONAL_FILES = (INDEX_FILES["adaface"], TATTOO_INDEX, TATTOO_JSON)

# Neighbours that the sidecar asks each index for. Voyager raises an error when the index holds fewer.
SIDECAR_K = 100
# The sidecar adds half of the distance in each index. An index that did not return the face counts with
# SIDECAR_MISSING_DISTANCE.
SIDECAR_WEIGHT = 0.5
SIDECAR_MISSING_DISTANCE = 0.5
SIDECAR_MAX_DISTANCE = 0.5
# Faces that the sidecar answers with, nearest first.
SIDECAR_RESULTS = 3

# The name of the tattoo index in a manifest, and the neighbours that the sidecar asks it for.
TATTOO = "tattoo"
SIDECAR_TATTOO_K = 10

# The columns of performers.db that hold a person's metadata, as a source's record gives it.
PERSONAL_FIELDS = (
    "disambiguation",
    "gender",
    "country",
    "ethnicity",
    "birth_date",
    "death_date",
    "height_cm",
    "eye_color",
    "hair_color",
    "career_start_year",
    "career_end_year",
)

# Tables that the sidecar reads with `SELECT *`: the required columns and the optional ones. No other is allowed.
EXACT_COLUMNS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "performers": (
        frozenset(
            [
                "id",
                "canonical_name",
                "disambiguation",
                "gender",
                "country",
                "ethnicity",
                "birth_date",
                "death_date",
                "height_cm",
                "eye_color",
                "hair_color",
                "career_start_year",
                "career_end_year",
                "scene_count",
                "stashdb_updated_at",
                "face_count",
                "image_url",
                "created_at",
                "updated_at",
            ]
        ),
        frozenset(),
    ),
    "stashbox_ids": (
        frozenset(["performer_id", "endpoint", "stashbox_performer_id"]),
        frozenset({"created_at"}),
    ),
    "aliases": (frozenset(["id", "performer_id", "alias"]), frozenset({"source_endpoint", "created_at"})),
    "faces": (
        frozenset(
            [
                "id",
                "performer_id",
                "facenet_index",
                "arcface_index",
                "image_url",
                "source_endpoint",
                "quality_score",
                "created_at",
            ]
        ),
        frozenset({"pruned", "yaw"}),
    ),
}
# Tables that the sidecar reads by column name: these columns are required, others are allowed.
NEEDED_COLUMNS: Mapping[str, frozenset[str]] = {
    "schema_version": frozenset({"version"}),
    "external_urls": frozenset(["performer_id", "site", "url", "normalized_id", "source_endpoint"]),
    "merged_ids": frozenset(["performer_id", "merged_stashbox_id", "endpoint"]),
    "tattoos": frozenset(["performer_id", "location", "description"]),
    "piercings": frozenset(["performer_id", "location", "description"]),
    "body_proportions": frozenset(
        ["performer_id", "shoulder_hip_ratio", "leg_torso_ratio", "arm_span_height_ratio", "confidence"]
    ),
    "tattoo_detections": frozenset(["performer_id", "has_tattoos", "confidence", "detections_json"]),
}
# Tables with the places of tattoos and piercings. Their descriptions are free text, so they stay empty.
PLACE_TABLES = ("tattoos", "piercings")
# A table that the predecessor's trainer leaves in its releases. No reader uses it.
LEGACY_TABLES = frozenset({"scrape_progress"})
# All tables that a performers.db may hold. Indexes on their columns are allowed too.
TABLES = frozenset({*EXACT_COLUMNS, *NEEDED_COLUMNS}) | LEGACY_TABLES

SCHEMA_VERSION = 9
RELEASE_FORMAT = 1
# GitHub refuses release assets of this size or more.
ASSET_LIMIT_BYTES = 2 * 1024**3

KNOWN_HOSTS: Mapping[str, str] = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}

VERSION_FORM = re.compile(r"\d{4}\.\d{2}\.\d{2}(\.[1-9]\d*)?")
# The sidecar's page inserts ids into HTML as they are.
UNIVERSAL_ID_FORM = re.compile(r"[^\s:/\"<>]+:[^\s/\"<>]+")
DATE_FORM = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
CHECKSUM_FORM = re.compile(r"(sha256:)?[0-9a-f]{64}")


class Flavour(StrEnum):
    """How the vectors of a release are stored: `full` as export.index says, `small` in one byte a number (E4M3).

    All flavours of a version hold the same people and faces under the same ids.
    """

    FULL = "full"
    SMALL = "small"


def zip_name(version: str, flavour: Flavour = Flavour.FULL) -> str:
    """File name of a version's archive. The sidecar's updater downloads the first .zip of a GitHub release."""
    kind = "" if flavour is Flavour.FULL else f"{flavour}-"
    return f"stash-sense-data-{kind}v{version}.zip"


def endpoint_rank(
    source: str, hosts: Mapping[str, str], priority: Sequence[str] = ENDPOINT_PRIORITY
) -> tuple[int, bool, str]:
    """Sort key of a source: those of `priority`, then other stash-boxes (those in `hosts`), then the rest by name."""
    known = priority.index(source) if source in priority else len(priority)
    return known, source not in hosts, source
