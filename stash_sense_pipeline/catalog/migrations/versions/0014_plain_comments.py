"""Sets the comments of tables and columns in plain terms, on PostgreSQL, which stores them."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Table, comment.
_TABLES = (
    (
        "held_evidence",
        "evidence of held records, by which linked records are held too; deleted when the record is settled",
    ),
    (
        "identity_runs",
        "identity runs that changed something; an incremental run starts from the result of the last one",
    ),
    (
        "pending_purges",
        "erasures after which the database files were not rewritten yet, so that they hold deleted bytes",
    ),
    ("site_visits", "last visit of each profile, and last search for each performer, at a reference site"),
    (
        "suppressed_faces",
        "face templates of people with block_face; a new record with such a face is refused",
    ),
    (
        "withheld_records",
        "records that were read and not stored (suppressed, held, not adult), so that not every run reads them again",
    ),
    (
        "site_rejections",
        "records of reference sites that are left out, as their faces do not match the performer's",
    ),
    (
        "face_collisions",
        "faces that are more similar to another performer than to their own; left out of releases, not deleted",
    ),
)
# Table, column, comment.
_COLUMNS = (
    ("identities", "redirect_to", "performer_id of the identity that took over the members"),
    (
        "identity_evidence",
        "key",
        "text that both records share, such as a page or a name; empty for a kind without one",
    ),
    ("identity_evidence", "reason", "why the link was refused"),
    ("identity_hubs", "key", "page or name on so many records that it is no evidence"),
    ("identity_runs", "rules", "digest of everything except the records that the result depends on"),
    ("identity_runs", "records", "number of rows of identity_records after the run"),
    ("identity_runs", "detail", "counts, and the face thresholds with the data of their calibration"),
    ("site_visits", "item_hash", "keyed hash of the profile key, or of the record that was searched for"),
    ("site_visits", "outcome", "found, not_found, gone or ambiguous; failures are not stored"),
    (
        "site_visits",
        "missing_since",
        "when a stored profile was first missing at the site; a second miss removes it",
    ),
    ("source_images", "reason", "why the image was rejected or failed"),
    (
        "source_images",
        "refusals",
        "number of days on which the source refused the image or its attempts were used up",
    ),
    (
        "source_images",
        "picture_hash",
        "perceptual hash of an image with a face; copies differ in few of its 64 bits",
    ),
    (
        "source_images",
        "detector_digest",
        "SHA-256 of the model file of the detector that processed the image",
    ),
    ("source_images", "judged_by", "acceptance criteria that the image was judged by, as text"),
    ("source_performers", "name", "null only for a tombstone of a record that was never read"),
    ("source_performers", "country", "ISO 3166 alpha-2 code, as the sources state it"),
    ("source_performers", "deleted_at", "when a sync found that the source removed the record; null = live"),
    ("source_performers", "raw", "fields of the record that have no column, without private ones"),
    (
        "source_performers",
        "changed_at",
        "when content_hash, deleted_at or merged_into last changed in this catalog",
    ),
    (
        "source_performers",
        "legacy_faces",
        "number of faces of the performer in the predecessor's database; null = not in it",
    ),
    ("source_performers", "legacy_images", "number of images that the predecessor processed; null = unknown"),
    ("suppressed_faces", "sealed", "mean unit vector of float32, encrypted with AES-GCM"),
    (
        "suppressions",
        "kind",
        "what was hashed: record, url, image, persona, other; key identifies the key of all hashes",
    ),
    (
        "suppressions",
        "degree",
        "0: named by the operator, or of an erased person; 1: of a refused record with evidence of degree 0",
    ),
    (
        "suppressions",
        "block_face",
        "true: keep an encrypted template of the face, and refuse the face under a new record",
    ),
    ("sync_state", "detail", "state of the connector between runs, e.g. a refused mass disappearance"),
    (
        "withheld_records",
        "source_id",
        "shown for review; null for a suppressed record, which is kept as a hash only",
    ),
    ("face_templates", "faces", "number of different images in the mean"),
    ("face_templates", "models", "digest of the embedders that made the vectors"),
    ("faces", "blur", "variance of the Laplacian of the aligned crop; a low value means a blurred face"),
    (
        "identity_records",
        "seen",
        "change time, removal time and survivor of the record in the last identity run",
    ),
    ("identity_records", "pictures", "digest of the images and faces of the record in that run; null = none"),
    (
        "identity_records",
        "key_digests",
        "blocking keys of the record: 64 bits of each page, name, date and image, ascending little-endian int64",
    ),
    ("performer_urls", "url", "as the source lists it; identity runs compute the canonical key"),
    ("site_rejections", "performer_id", "performer that the record was compared with"),
    ("site_rejections", "faces", "number of faces of the record"),
    ("site_rejections", "reference_faces", "number of faces of high trust that the record was compared with"),
    ("site_rejections", "distance", "cosine distance of the two nearest faces, mean over the models"),
    ("site_rejections", "agreement", "largest distance that counts as the same person"),
    ("face_collisions", "similarity", "mean cosine similarity to the other faces of the same performer"),
    (
        "face_collisions",
        "nearer_similarity",
        "mean cosine similarity to the faces of the performer in nearer_to",
    ),
)


def upgrade() -> None:
    """Replaces the comments. SQLite keeps no comments of columns."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, comment in _TABLES:
        op.create_table_comment(table, comment)
    for table, column, comment in _COLUMNS:
        op.alter_column(table, column, comment=comment)
