"""The tables of the catalog; a change here needs a migration.

Migrations are in migrations/versions. PostgreSQL stores the comments of columns and tables, so changing one needs a
migration too.
"""

from __future__ import annotations

import sqlalchemy as sa

from stash_sense_pipeline.catalog.column_types import UtcTime

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _sparse_index(name: str, *columns: str) -> sa.Index:
    """An index of only the rows in which its last column is not null."""
    where = sa.text(f"{columns[-1]} IS NOT NULL")
    return sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


# --- records of the sources -------------------------------------------------------------------------------------------

source_performers = sa.Table(
    "source_performers",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, comment="null only for a tombstone of a record that was never read"),
    sa.Column("disambiguation", sa.Text),
    sa.Column("gender", sa.Text, comment="as stash-box enumerates it, e.g. FEMALE; null unknown"),
    sa.Column("birth_date", sa.Text, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
    sa.Column("death_date", sa.Text, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
    sa.Column("country", sa.Text, comment="ISO 3166 alpha-2 code, as the sources state it"),
    sa.Column("ethnicity", sa.Text),
    sa.Column("eye_color", sa.Text),
    sa.Column("hair_color", sa.Text),
    sa.Column("height_cm", sa.Integer),
    sa.Column("career_start_year", sa.Integer),
    sa.Column("career_end_year", sa.Integer),
    sa.Column("created_at", UtcTime, comment="the source's own clock"),
    sa.Column("updated_at", UtcTime, comment="the source's own clock; null where it gives none"),
    sa.Column(
        "deleted_at", UtcTime, comment="when a sync found that the source removed the record; null = live"
    ),
    sa.Column("merged_into", sa.Text, comment="source_id of the survivor, for a merged tombstone"),
    sa.Column("content_hash", sa.Text, comment="SHA-256 of the record without its time stamps"),
    sa.Column("raw", sa.JSON, comment="fields of the record that have no column, without private ones"),
    sa.Column("first_seen_at", UtcTime, nullable=False),
    sa.Column(
        "changed_at",
        UtcTime,
        nullable=False,
        comment="when content_hash, deleted_at or merged_into last changed in this catalog",
    ),
    sa.Column(
        "legacy_faces",
        sa.Integer,
        comment="number of faces of the performer in the predecessor's database; null = not in it",
    ),
    sa.Column(
        "legacy_images", sa.Integer, comment="number of images that the predecessor processed; null = unknown"
    ),
    _sparse_index("ix_source_performers_source_merged_into", "source", "merged_into"),
    sqlite_with_rowid=False,
)


def _of_performer() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["source", "source_id"],
        ["source_performers.source", "source_performers.source_id"],
        ondelete="CASCADE",
    )


performer_aliases = sa.Table(
    "performer_aliases",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    _of_performer(),
    sqlite_with_rowid=False,
)

performer_urls = sa.Table(
    "performer_urls",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column(
        "url",
        sa.Text,
        primary_key=True,
        comment="as the source lists it; identity runs compute the canonical key",
    ),
    _of_performer(),
    sqlite_with_rowid=False,
)

# Selects images that were found to be suppressed, by their bytes or URL, when they were fetched. It is a literal because
# SQLite uses a partial index only for a condition with equal text.
IS_FOUND_SUPPRESSED = sa.text("reason = 'suppressed'")

source_images = sa.Table(
    "source_images",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("state", sa.Text, nullable=False, comment="pending, done, rejected, failed or gone"),
    sa.Column("reason", sa.Text, comment="why the image was rejected or failed"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("next_attempt_at", UtcTime),
    sa.Column(
        "refusals",
        sa.Integer,
        nullable=False,
        default=0,
        server_default=sa.text("0"),
        comment="number of days on which the source refused the image or its attempts were used up",
    ),
    sa.Column("sha256", sa.Text, comment="hex digest of the bytes fetched"),
    sa.Column(
        "picture_hash",
        sa.Text,
        comment="perceptual hash of an image with a face; copies differ in few of its 64 bits",
    ),
    sa.Column(
        "detector_digest",
        sa.Text,
        comment="SHA-256 of the detector of the first pack that processed the image: of its model file, or of that and "
        "the rules by which the pack finds faces",
    ),
    sa.Column("judged_by", sa.Text, comment="acceptance criteria that the image was judged by, as text"),
    sa.Column("processed_at", UtcTime),
    sa.Column(
        "first_seen_at",
        UtcTime,
        comment="when the source first listed the image; null: before this was recorded",
    ),
    sa.Index("ix_source_images_source_state", "source", "state"),
    _sparse_index("ix_source_images_sha256", "sha256"),
    sa.Index(
        "ix_source_images_suppressed",
        "source",
        "image_id",
        sqlite_where=IS_FOUND_SUPPRESSED,
        postgresql_where=IS_FOUND_SUPPRESSED,
    ),
    sqlite_with_rowid=False,
)

performer_images = sa.Table(
    "performer_images",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("image_id", sa.Text, primary_key=True),
    _of_performer(),
    sa.ForeignKeyConstraint(
        ["source", "image_id"], ["source_images.source", "source_images.image_id"], ondelete="CASCADE"
    ),
    # Has all three columns: without statistics SQLite prefers a covering index, and would take the primary key, of which
    # it can use only `source`.
    sa.Index("ix_performer_images_source_image_id", "source", "image_id", "source_id"),
    sqlite_with_rowid=False,
)

# --- faces ----------------------------------------------------------------------------------------------------------

faces = sa.Table(
    "faces",
    metadata,
    sa.Column("face_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("image_id", sa.Text, nullable=False),
    sa.Column("face_index", sa.Integer, nullable=False, comment="order of detection inside the image"),
    sa.Column("detection_confidence", sa.Float, nullable=False),
    sa.Column("x1", sa.Float, nullable=False),
    sa.Column("y1", sa.Float, nullable=False),
    sa.Column("x2", sa.Float, nullable=False),
    sa.Column("y2", sa.Float, nullable=False),
    sa.Column("landmarks", sa.LargeBinary, nullable=False, comment="(5, 2) little-endian float32, pixels"),
    sa.Column("yaw", sa.Float, nullable=False, comment="degrees"),
    sa.Column("roll", sa.Float, nullable=False, comment="degrees"),
    sa.Column(
        "blur",
        sa.Float,
        nullable=False,
        comment="variance of the Laplacian of the aligned crop; a low value means a blurred face",
    ),
    sa.Column("quality", sa.Float, nullable=False, comment="0..1"),
    sa.Column("pack", sa.Text, nullable=False),
    sa.Column("detector_digest", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column(
        "second",
        sa.Boolean,
        nullable=False,
        default=False,
        server_default=sa.false(),
        comment="the face is of the second pack; identity and the release of the first pack do not use it",
    ),
    sa.UniqueConstraint("source", "image_id", "detector_digest", "face_index"),
    sa.ForeignKeyConstraint(
        ["source", "image_id"], ["source_images.source", "source_images.image_id"], ondelete="CASCADE"
    ),
    sqlite_autoincrement=True,
)

second_verdicts = sa.Table(
    "second_verdicts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("detector_digest", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, comment="done or rejected"),
    sa.Column("reason", sa.Text, comment="why the second pack has no face of the image"),
    sa.Column("judged_by", sa.Text, comment="acceptance criteria that the image was judged by, as text"),
    sa.Column("processed_at", UtcTime, nullable=False),
    sa.ForeignKeyConstraint(
        ["source", "image_id"], ["source_images.source", "source_images.image_id"], ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
    comment="verdicts of the second pack on images that the first pack has judged",
)

aligned_crops = sa.Table(
    "aligned_crops",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("png", sa.LargeBinary, nullable=False, comment="112x112 RGB aligned crop, lossless"),
)

embeddings = sa.Table(
    "embeddings",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True, comment="embedder name in the pack: facenet, arcface, ..."),
    sa.Column("vector", sa.LargeBinary, nullable=False, comment="raw little-endian float32, not normalised"),
    sa.Column("pack", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    # Covers the query for the models of all faces, which without this index would read the vectors too.
    sa.Index("ix_embeddings_face_id_model_model_digest", "face_id", "model", "model_digest"),
)

# --- tattoos --------------------------------------------------------------------------------------------------------

tattoo_scans = sa.Table(
    "tattoo_scans",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("detector_digest", sa.Text, nullable=False),
    sa.Column(
        "tattoos",
        sa.Integer,
        comment="number of tattoos in the picture of the face; null: it shows several people and was not searched",
    ),
    sa.Column("scanned_at", UtcTime, nullable=False),
    comment="pictures of faces that were searched for tattoos, also those without one; goes with the face",
)

tattoo_detections = sa.Table(
    "tattoo_detections",
    metadata,
    sa.Column("tattoo_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("face_id", sa.ForeignKey("tattoo_scans.face_id", ondelete="CASCADE"), nullable=False),
    sa.Column("tattoo_index", sa.Integer, nullable=False, comment="order by confidence inside the picture"),
    sa.Column("x", sa.Float, nullable=False, comment="left edge, 0..1 of the width of the upright picture"),
    sa.Column("y", sa.Float, nullable=False, comment="upper edge, 0..1 of the height of the upright picture"),
    sa.Column("width", sa.Float, nullable=False, comment="0..1 of the width of the picture"),
    sa.Column("height", sa.Float, nullable=False, comment="0..1 of the height of the picture"),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("location_hint", sa.Text, comment="part of the picture, such as left upper body"),
    sa.UniqueConstraint("face_id", "tattoo_index"),
    sqlite_autoincrement=True,
    comment="tattoos in pictures with one person",
)

tattoo_crops = sa.Table(
    "tattoo_crops",
    metadata,
    sa.Column(
        "tattoo_id", sa.ForeignKey("tattoo_detections.tattoo_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("png", sa.LargeBinary, nullable=False, comment="224x224 RGB, lossless"),
    comment="tattoos that wait for an embedding",
)

tattoo_embeddings = sa.Table(
    "tattoo_embeddings",
    metadata,
    sa.Column(
        "tattoo_id", sa.ForeignKey("tattoo_detections.tattoo_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("vector", sa.LargeBinary, nullable=False, comment="little-endian float32 of length 1"),
    sa.Column("pack", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

# --- identity -------------------------------------------------------------------------------------------------------

identities = sa.Table(
    "identities",
    metadata,
    sa.Column("performer_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("retired_at", UtcTime, comment="when the last member left it"),
    sa.Column("redirect_to", sa.Integer, comment="performer_id of the identity that took over the members"),
    sqlite_autoincrement=True,
)

identity_members = sa.Table(
    "identity_members",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), nullable=False, index=True),
    _of_performer(),
)

identity_evidence = sa.Table(
    "identity_evidence",
    metadata,
    sa.Column("source_a", sa.Text, primary_key=True),
    sa.Column("source_id_a", sa.Text, primary_key=True),
    sa.Column("source_b", sa.Text, primary_key=True),
    sa.Column("source_id_b", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column(
        "key",
        sa.Text,
        primary_key=True,
        comment="text that both records share, such as a page or a name; empty for a kind without one",
    ),
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False, comment="linked, redundant or refused"),
    sa.Column("reason", sa.Text, comment="why the link was refused"),
    sa.Column("first_seen_at", UtcTime, nullable=False),
    sa.Index("ix_identity_evidence_source_b", "source_b", "source_id_b"),
    sqlite_with_rowid=False,
)

identity_log = sa.Table(
    "identity_log",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("performer_id", sa.Integer, nullable=False, index=True),
    sa.Column(
        "event", sa.Text, nullable=False, comment="created, joined, left, merged, split, retired or revived"
    ),
    sa.Column("detail", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

identity_runs = sa.Table(
    "identity_runs",
    metadata,
    sa.Column("run", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column(
        "rules",
        sa.Text,
        nullable=False,
        comment="digest of everything except the records that the result depends on",
    ),
    sa.Column(
        "records", sa.Integer, nullable=False, comment="number of rows of identity_records after the run"
    ),
    sa.Column(
        "detail",
        sa.JSON,
        nullable=False,
        comment="counts, and the face thresholds with the data of their calibration",
    ),
    comment="identity runs that changed something; an incremental run starts from the result of the last one",
    sqlite_autoincrement=True,
)

identity_records = sa.Table(
    "identity_records",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column(
        "seen",
        sa.Text,
        nullable=False,
        comment="change time, removal time and survivor of the record in the last identity run",
    ),
    sa.Column(
        "pictures", sa.Text, comment="digest of the images and faces of the record in that run; null = none"
    ),
    sa.Column(
        "key_digests",
        sa.LargeBinary,
        nullable=False,
        comment="blocking keys of the record: 64 bits of each page, name, date and image, ascending little-endian int64",
    ),
    _of_performer(),
    sqlite_with_rowid=False,
)

identity_hubs = sa.Table(
    "identity_hubs",
    metadata,
    sa.Column("digest", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column(
        "key", sa.Text, nullable=False, comment="page or name on so many records that it is no evidence"
    ),
    sa.Column("holders", sa.Integer, nullable=False),
)

face_templates = sa.Table(
    "face_templates",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("faces", sa.Integer, nullable=False, comment="number of different images in the mean"),
    sa.Column("models", sa.Text, nullable=False, comment="digest of the embedders that made the vectors"),
    sa.Column(
        "vector",
        sa.LargeBinary,
        nullable=False,
        comment="little-endian float16: the unit mean vector of each embedder, one after another",
    ),
    _of_performer(),
)

face_collisions = sa.Table(
    "face_collisions",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("nearer_to", sa.ForeignKey("identities.performer_id"), nullable=False, index=True),
    sa.Column(
        "similarity",
        sa.Float,
        nullable=False,
        comment="mean cosine similarity to the other faces of the same performer",
    ),
    sa.Column(
        "nearer_similarity",
        sa.Float,
        nullable=False,
        comment="mean cosine similarity to the faces of the performer in nearer_to",
    ),
    sa.Column("found_at", UtcTime, nullable=False),
    comment="faces that are more similar to another performer than to their own; left out of releases, not deleted",
)

face_exclusions = sa.Table(
    "face_exclusions",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), primary_key=True, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, comment="hub, outlier, not this person, not a face, ..."),
    sa.Column("people", sa.Integer, comment="of a hub: the number of other people near the face"),
    sa.Column("found_at", UtcTime, nullable=False),
    comment="faces kept out of releases for another reason than a collision, a copy or a cap",
)

trusted_faces = sa.Table(
    "trusted_faces",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False, comment="0 = best face of the performer"),
)

second_trusted_faces = sa.Table(
    "second_trusted_faces",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False, comment="0 = best face of the performer"),
    comment="faces of the second pack that represent performers; a release of that pack holds no others",
)

# --- privacy and progress -------------------------------------------------------------------------------------------

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column(
        "kind",
        sa.Text,
        primary_key=True,
        comment="what was hashed: record, url, image, persona, other; key identifies the key of all hashes",
    ),
    sa.Column("key_hash", sa.Text, primary_key=True, comment="keyed hash; the clear key is not kept"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("added_at", UtcTime, nullable=False),
    sa.Column(
        "degree",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="0: named by the operator, or of an erased person; 1: of a refused record with evidence of degree 0",
    ),
    sa.Column(
        "applied_at", UtcTime, comment="when the catalog was last searched for it; null = not searched yet"
    ),
    sa.Column(
        "block_face",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="true: keep an encrypted template of the face, and refuse the face under a new record",
    ),
)

suppressed_faces = sa.Table(
    "suppressed_faces",
    metadata,
    sa.Column("template_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False, comment="random; joins the templates of one person"),
    sa.Column(
        "sealed",
        sa.LargeBinary,
        nullable=False,
        comment="mean unit vector of float32, encrypted with AES-GCM",
    ),
    sa.Column("radius", sa.Float, nullable=False, comment="cosine distance within which a face is refused"),
    sa.Column("added_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
    comment="face templates of people with block_face; a new record with such a face is refused",
)

held_evidence = sa.Table(
    "held_evidence",
    metadata,
    sa.Column("evidence_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("owner_hash", sa.Text, nullable=False, comment="keyed hash of the record that is held"),
    sa.Column(
        "key_hash",
        sa.Text,
        nullable=False,
        comment="keyed hash of an id, a page, or a name with a birth date",
    ),
    sa.UniqueConstraint("owner_hash", "key_hash"),
    sqlite_autoincrement=True,
    comment="evidence of held records, by which linked records are held too; deleted when the record is settled",
)

pending_purges = sa.Table(
    "pending_purges",
    metadata,
    sa.Column("purge_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("requested_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
    comment="erasures after which the database files were not rewritten yet, so that they hold deleted bytes",
)

withheld_records = sa.Table(
    "withheld_records",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("id_hash", sa.Text, primary_key=True, comment="keyed hash of the source_id"),
    sa.Column("updated_at", UtcTime, comment="the source's own time of the version that was not stored"),
    sa.Column("checked_at", UtcTime, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, comment="suppressed, held, held_linked, under_18, ..."),
    sa.Column(
        "source_id",
        sa.Text,
        comment="shown for review; null for a suppressed record, which is kept as a hash only",
    ),
    comment="records that were read and not stored (suppressed, held, not adult), so that not every run reads them again",
)

sync_state = sa.Table(
    "sync_state",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column(
        "updated_watermark",
        UtcTime,
        comment="newest `updated` of the server that is stored, committed with its data",
    ),
    sa.Column("edits_watermark", UtcTime, comment="newest `closed` of an applied edit that is stored"),
    sa.Column("backfilled_at", UtcTime, comment="when the last complete enumeration was committed"),
    sa.Column("last_sync_at", UtcTime),
    sa.Column("last_sweep_at", UtcTime),
    sa.Column("last_outcome", sa.Text),
    sa.Column("last_message", sa.Text),
    sa.Column("server_version", sa.Text),
    sa.Column(
        "detail", sa.JSON, comment="state of the connector between runs, e.g. a refused mass disappearance"
    ),
)

site_visits = sa.Table(
    "site_visits",
    metadata,
    sa.Column("source", sa.Text, primary_key=True, comment="a reference site"),
    sa.Column(
        "mode", sa.Text, primary_key=True, comment="url: a listed profile; name: a search for a performer"
    ),
    sa.Column(
        "item_hash",
        sa.Text,
        primary_key=True,
        comment="keyed hash of the profile key, or of the record that was searched for",
    ),
    sa.Column(
        "outcome",
        sa.Text,
        nullable=False,
        comment="found, not_found, gone or ambiguous; failures are not stored",
    ),
    sa.Column("visited_at", UtcTime, nullable=False),
    sa.Column("next_visit_at", UtcTime, nullable=False),
    sa.Column(
        "missing_since",
        UtcTime,
        comment="when a stored profile was first missing at the site; a second miss removes it",
    ),
    sa.Column("etag", sa.Text, comment="validator of the last answer; for a wiki, its revision"),
    sa.Column("last_modified", sa.Text, comment="validator of the last answer"),
    comment="last visit of each profile, and last search for each performer, at a reference site",
    sqlite_with_rowid=False,
)

site_rejections = sa.Table(
    "site_rejections",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column(
        "performer_id", sa.Integer, nullable=False, comment="performer that the record was compared with"
    ),
    sa.Column("faces", sa.Integer, nullable=False, comment="number of faces of the record"),
    sa.Column(
        "reference_faces",
        sa.Integer,
        nullable=False,
        comment="number of faces of high trust that the record was compared with",
    ),
    sa.Column(
        "distance",
        sa.Float,
        nullable=False,
        comment="cosine distance of the two nearest faces, mean over the models",
    ),
    sa.Column(
        "agreement", sa.Float, nullable=False, comment="largest distance that counts as the same person"
    ),
    sa.Column("rejected_at", UtcTime, nullable=False),
    _of_performer(),
    comment="records of reference sites that are left out, as their faces do not match the performer's",
    sqlite_with_rowid=False,
)

# --- faces taken over from a release ----------------------------------------------------------------------------------

claimed_releases = sa.Table(
    "claimed_releases",
    metadata,
    sa.Column("release_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column(
        "manifest_digest",
        sa.Text,
        nullable=False,
        unique=True,
        comment="SHA-256 of manifest.json, which has the digests of all files: the source of the claim",
    ),
    sa.Column("state", sa.Text, nullable=False, comment="importing, records, claimed, proven or refused"),
    sa.Column("reason", sa.Text, comment="why its faces are not used: records or refused"),
    sa.Column("pack", sa.Text, comment="the installed model pack that the claim is compared with"),
    sa.Column("detector_digest", sa.Text),
    sa.Column(
        "models", sa.JSON, nullable=False, comment="embedder to digest of the network, storage, and `rounded`"
    ),
    sa.Column("proof", sa.JSON, comment="result of the sample by embedder, with the histogram of cosines"),
    sa.Column("taken_at", UtcTime, nullable=False),
    sa.Column("judged_at", UtcTime, comment="when the sample proved or refuted the claim"),
    sqlite_autoincrement=True,
    comment="releases that records and faces were taken over from",
)

claimed_records = sa.Table(
    "claimed_records",
    metadata,
    sa.Column(
        "release_id", sa.ForeignKey("claimed_releases.release_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    _of_performer(),
    sa.Column(
        "added",
        sa.Boolean,
        nullable=False,
        comment="true: the release added the record; false: the catalog had it, and got face counts only",
    ),
    sa.Index("ix_claimed_records_source_source_id", "source", "source_id"),
    comment="records and tombstones of a release; an undo removes the added ones that no source has confirmed",
)

claimed_faces = sa.Table(
    "claimed_faces",
    metadata,
    sa.Column("claim_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("release_id", sa.ForeignKey("claimed_releases.release_id", ondelete="CASCADE"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False, comment="id of the face in the release's indices"),
    sa.Column("source", sa.Text, nullable=False, comment="the source that shows the picture"),
    sa.Column("url", sa.Text, nullable=False, comment="address of the picture, as the release states it"),
    sa.Column("box", sa.Text, nullable=False, comment="with box_id: a record of the person in the release"),
    sa.Column("box_id", sa.Text, nullable=False),
    sa.Column("quality", sa.Float, nullable=False, comment="0..1"),
    sa.Column("yaw", sa.Float, nullable=False, comment="degrees; 0 where the release states none"),
    sa.Column("rounded", sa.Boolean, nullable=False, comment="an index stored its vector in 8 bits a number"),
    sa.Column(
        "cosines", sa.JSON, comment="of the sample: embedder to the cosine with the face of the picture"
    ),
    sa.Column(
        "face_id",
        sa.ForeignKey("faces.face_id", ondelete="CASCADE"),
        comment="the face that it became, once proven and listed by its source; null before",
    ),
    sa.Column("used_at", UtcTime, comment="when it became a face"),
    sa.Column("asked_at", UtcTime, comment="when its picture was last queued to be looked at again"),
    sa.UniqueConstraint("source", "url"),
    sa.UniqueConstraint("release_id", "position"),
    sa.ForeignKeyConstraint(
        ["box", "box_id"], ["source_performers.source", "source_performers.source_id"], ondelete="CASCADE"
    ),
    sa.Index("ix_claimed_faces_box_box_id", "box", "box_id"),
    _sparse_index("ix_claimed_faces_face_id", "face_id"),
    sqlite_autoincrement=True,
    comment="faces of a release, from pictures that this program has not seen; the row goes when its picture is seen",
)

claimed_vectors = sa.Table(
    "claimed_vectors",
    metadata,
    sa.Column("claim_id", sa.ForeignKey("claimed_faces.claim_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True, comment="embedder name"),
    sa.Column("vector", sa.LargeBinary, nullable=False, comment="little-endian float32 of length 1"),
    comment="vectors of claimed faces that are no faces yet; no release reads this table",
)

# --- permanent numbers of sense2 releases -----------------------------------------------------------------------------

sense2_performers = sa.Table(
    "sense2_performers",
    metadata,
    sa.Column(
        "number", sa.Integer, primary_key=True, autoincrement=True, comment="performers.id in sense2 releases"
    ),
    sa.Column("source", sa.Text, comment="with source_id: the record; both are null after an erasure"),
    sa.Column("source_id", sa.Text),
    sa.Column(
        "digest",
        sa.Text,
        comment="SHA-256 of the row as the newest release holds it; null = not in it, or erased",
    ),
    sa.Column("published", sa.Boolean, nullable=False, comment="true: the newest release holds the number"),
    sa.UniqueConstraint("source", "source_id"),
    sqlite_autoincrement=True,
    comment="permanent numbers of stash-box records; a row is never deleted, so that no number is used twice",
)

sense2_faces = sa.Table(
    "sense2_faces",
    metadata,
    sa.Column(
        "embedding_index",
        sa.Integer,
        primary_key=True,
        autoincrement=False,
        comment="key of the vector in sense2 releases, from 0",
    ),
    sa.Column(
        "source", sa.Text, comment="with image_id, face_index: the face; all are null after an erasure"
    ),
    sa.Column("image_id", sa.Text),
    sa.Column("face_index", sa.Integer),
    sa.Column(
        "owner",
        sa.Integer,
        comment="number of the record that the newest release shows the face under; null = none, or erased",
    ),
    sa.Column(
        "digest",
        sa.Text,
        comment="SHA-256 of row and vector as the newest release holds them; null = not in it, or erased",
    ),
    sa.Column("published", sa.Boolean, nullable=False, comment="true: the newest release holds the face"),
    sa.UniqueConstraint("source", "image_id", "face_index"),
    comment="permanent indices of published faces; a row is never deleted, so that no index is used twice",
)

sense2_releases = sa.Table(
    "sense2_releases",
    metadata,
    sa.Column("version", sa.Text, primary_key=True, comment="YYYY.MM.DD"),
    sa.Column("published_at", UtcTime, nullable=False),
    sa.Column("detector_digest", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False, comment="embedder name"),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("links_digest", sa.Text, nullable=False, comment="SHA-256 of performer_links.json"),
    sa.Column("aliases_digest", sa.Text, nullable=False, comment="SHA-256 of aliases.json"),
    comment="published sense2 releases; the newest is the state that the numbers describe",
)
