"""The columns that exports and frames may read; every other column is refused."""

from __future__ import annotations

from collections.abc import Mapping

# The columns that `stash_sense_pipeline.frames` and `stash-sense export` may read: what a release holds, and numbers for
# the analysis of quality and identities. Left out are links and personal accounts (also as keys of evidence), hashes of
# images and of keys, crops, other fields of a record, and everything about suppressed, withheld and held people.
ANALYSED: Mapping[str, frozenset[str]] = {
    "source_performers": frozenset(
        {
            *(
                "source",
                "source_id",
                "name",
                "disambiguation",
                "gender",
                "birth_date",
                "death_date",
                "country",
            ),
            *("ethnicity", "eye_color", "hair_color", "height_cm", "career_start_year", "career_end_year"),
            *("updated_at", "first_seen_at", "changed_at"),
        }
    ),
    "source_images": frozenset(
        {
            *("url", "width", "height", "state", "reason", "attempts", "processed_at", "first_seen_at"),
        }
    ),
    "performer_images": frozenset({"source", "source_id", "image_id"}),
    "faces": frozenset(
        {
            *("face_id", "source", "image_id", "face_index", "detection_confidence", "x1", "y1", "x2", "y2"),
            *("yaw", "roll", "blur", "quality", "pack", "detector_digest", "created_at"),
        }
    ),
    "embeddings": frozenset({"face_id", "model", "vector", "pack", "model_digest"}),
    "identities": frozenset({"created_at"}),
    "identity_members": frozenset({"source", "source_id", "performer_id"}),
    "identity_evidence": frozenset(
        {
            *("source_a", "source_id_a", "source_b", "source_id_b", "kind", "weight", "verdict", "reason"),
            "first_seen_at",
        }
    ),
    "trusted_faces": frozenset({"performer_id", "rank"}),
}


def analysed_column(table: str, column: str) -> str:
    """The name of a column that may be read for analysis. Raises ValueError for any other column."""
    if column not in ANALYSED.get(table, frozenset()):
        raise ValueError(
            f"{table}.{column} is not in ANALYSED of privacy/redaction/analysed_columns.py: it must not be read"
        )
    return column
