"""What the sidecar reads: names of files, tables and columns, the order of endpoints, and its fixed query size."""

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
