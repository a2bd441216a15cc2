"""The sidecar's contract: file names, tables, columns, query size, order of endpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

PERFORMERS_DB = "performers.db"
FACES_JSON = "faces.json"
PERFORMERS_JSON = "performers.json"
MANIFEST = "manifest.json"
TATTOO_INDEX = "tattoo_embeddings.voy"
TATTOO_JSON = "tattoo_embeddings.json"

# Index file of each embedder that the contract knows. The two required ones share one id space with faces.json.
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

# The sidecar asks each index for this many neighbours and gets an error when there are fewer.
SIDECAR_K = 100
# Its fusion: half of each distance; a face that only one index returned gets this for the other.
SIDECAR_WEIGHT = 0.5
SIDECAR_MISSING_DISTANCE = 0.5
SIDECAR_MAX_DISTANCE = 0.5

# The columns of performers.db that say something about a person and come from a source's record.
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

# The tables whose readers take every column: exactly these, but for the ones that may be absent.
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
# The tables that are read by named columns: these must be there, others may.
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
# What the predecessor's trainer left in its releases: no reader looks at it.
LEFT_TABLES = frozenset({"scrape_progress"})
# All that a performers.db may hold, besides indexes of their columns.
TABLES = frozenset({*EXACT_COLUMNS, *NEEDED_COLUMNS}) | LEFT_TABLES

SCHEMA_VERSION = 9
RELEASE_FORMAT = 1
# GitHub refuses release assets of this size or more.
ASSET_LIMIT_BYTES = 2 * 1024**3

# Which record of a person names them: the first of these endpoints that has one; others follow by name.
ENDPOINT_PRIORITY = ("stashdb", "theporndb", "fansdb", "pmvstash", "javstash")
KNOWN_HOSTS: Mapping[str, str] = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}

VERSION_FORM = re.compile(r"\d{4}\.\d{2}\.\d{2}(\.[1-9]\d*)?")
UNIVERSAL_ID_FORM = re.compile(r"[^\s:/]+:[^\s/]+")
DATE_FORM = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
CHECKSUM_FORM = re.compile(r"(sha256:)?[0-9a-f]{64}")


def zip_name(version: str) -> str:
    """File name of the archive of a version; the sidecar's updater takes the first .zip of a GitHub release."""
    return f"stash-sense-data-v{version}.zip"


def endpoint_rank(source: str, hosts: Mapping[str, str]) -> tuple[int, bool, str]:
    """Sort key of a source: the contract's endpoints, then other stash-boxes (those in `hosts`), then the rest by name."""
    known = ENDPOINT_PRIORITY.index(source) if source in ENDPOINT_PRIORITY else len(ENDPOINT_PRIORITY)
    return known, source not in hosts, source
