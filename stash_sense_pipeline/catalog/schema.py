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
    sa.Column("name", sa.Text, comment="null only for a tombstone that was never seen alive"),
    sa.Column("disambiguation", sa.Text),
    sa.Column("gender", sa.Text, comment="as stash-box enumerates it, e.g. FEMALE; null unknown"),
    sa.Column("birth_date", sa.Text, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
    sa.Column("death_date", sa.Text, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
    sa.Column("country", sa.Text, comment="ISO 3166 alpha-2 by convention of the sources"),
    sa.Column("ethnicity", sa.Text),
    sa.Column("eye_color", sa.Text),
    sa.Column("hair_color", sa.Text),
    sa.Column("height_cm", sa.Integer),
    sa.Column("career_start_year", sa.Integer),
    sa.Column("career_end_year", sa.Integer),
    sa.Column("created_at", UtcTime, comment="the source's own clock"),
    sa.Column("updated_at", UtcTime, comment="the source's own clock; null where it gives none"),
    sa.Column("deleted_at", UtcTime, comment="when we learned that it is gone; null = live"),
    sa.Column("merged_into", sa.Text, comment="source_id of the survivor, for a merged tombstone"),
    sa.Column("content_hash", sa.Text, comment="SHA-256 of the record without its time stamps"),
    sa.Column("raw", sa.JSON, comment="fields of the record that we do not model, after the privacy filter"),
    sa.Column("first_seen_at", UtcTime, nullable=False),
    sa.Column(
        "changed_at",
        UtcTime,
        nullable=False,
        comment="when content_hash, deleted_at or merged_into last changed here",
    ),
    sa.Column(
        "legacy_faces",
        sa.Integer,
        comment="faces that a predecessor's database had of this person; null = it knew nobody",
    ),
    sa.Column("legacy_images", sa.Integer, comment="images that a predecessor had looked at; null = unknown"),
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
        comment="as the source lists it; canonical keys are computed by identity",
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
    sa.Column("reason", sa.Text, comment="why rejected or failed"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("next_attempt_at", UtcTime),
    sa.Column(
        "refusals",
        sa.Integer,
        nullable=False,
        default=0,
        server_default=sa.text("0"),
        comment="days on which the source refused it or it was given up",
    ),
    sa.Column("sha256", sa.Text, comment="hex digest of the bytes fetched"),
    sa.Column(
        "picture_hash",
        sa.Text,
        comment="perceptual hash (faces.pictures) of an image with a face: copies differ in few of its 64 bits",
    ),
    sa.Column("detector_digest", sa.Text, comment="sha256 of the detector that looked at it"),
    sa.Column("judged_by", sa.Text, comment="limits and filters that judged it, as faces.rules writes them"),
    sa.Column("processed_at", UtcTime),
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
        comment="variance of the Laplacian of the aligned crop; small is blurred",
    ),
    sa.Column("quality", sa.Float, nullable=False, comment="0..1"),
    sa.Column("pack", sa.Text, nullable=False),
    sa.Column("detector_digest", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.UniqueConstraint("source", "image_id", "face_index"),
    sa.ForeignKeyConstraint(
        ["source", "image_id"], ["source_images.source", "source_images.image_id"], ondelete="CASCADE"
    ),
    sqlite_autoincrement=True,
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

# --- identity -------------------------------------------------------------------------------------------------------

identities = sa.Table(
    "identities",
    metadata,
    sa.Column("performer_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("retired_at", UtcTime, comment="when the last member left it"),
    sa.Column("redirect_to", sa.Integer, comment="performer_id that took its members over"),
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
        comment="what the two records share; empty where the kind says it all",
    ),
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False, comment="linked, redundant or refused"),
    sa.Column("reason", sa.Text, comment="why refused"),
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
        "rules", sa.Text, nullable=False, comment="digest of all that the result depends on but records"
    ),
    sa.Column("records", sa.Integer, nullable=False, comment="rows of identity_records after it"),
    sa.Column(
        "detail", sa.JSON, nullable=False, comment="counts, and the face thresholds with what they rest on"
    ),
    comment="runs that changed something; the last one is what an incremental run goes on from",
    sqlite_autoincrement=True,
)

identity_records = sa.Table(
    "identity_records",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("seen", sa.Text, nullable=False, comment="which state of the record identity last saw"),
    sa.Column("pictures", sa.Text, comment="which pictures and faces it had then"),
    sa.Column(
        "key_digests",
        sa.LargeBinary,
        nullable=False,
        comment="what it was found by: 64 bits of each page, name, date and picture, ascending little-endian int64",
    ),
    _of_performer(),
    sqlite_with_rowid=False,
)

identity_hubs = sa.Table(
    "identity_hubs",
    metadata,
    sa.Column("digest", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, comment="a page on too many records to prove anything"),
    sa.Column("holders", sa.Integer, nullable=False),
)

face_templates = sa.Table(
    "face_templates",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("faces", sa.Integer, nullable=False, comment="how many different pictures it is the mean of"),
    sa.Column("models", sa.Text, nullable=False, comment="digest of the embedders"),
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
        "similarity", sa.Float, nullable=False, comment="mean cosine to the own performer's other faces"
    ),
    sa.Column("nearer_similarity", sa.Float, nullable=False, comment="mean cosine to the other performer's"),
    sa.Column("found_at", UtcTime, nullable=False),
    comment="faces that look like another performer more than like their own: kept out of releases, not deleted",
)

face_exclusions = sa.Table(
    "face_exclusions",
    metadata,
    sa.Column("face_id", sa.ForeignKey("faces.face_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("performer_id", sa.ForeignKey("identities.performer_id"), primary_key=True, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, comment="hub, outlier, not this person, not a face, ..."),
    sa.Column("people", sa.Integer, comment="of a hub: the number of other people whom the face is near"),
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

# --- privacy and progress -------------------------------------------------------------------------------------------

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column(
        "kind",
        sa.Text,
        primary_key=True,
        comment="record, url, image, persona, other; key: which key made the hashes",
    ),
    sa.Column("key_hash", sa.Text, primary_key=True, comment="keyed hash; the clear key is not kept"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("added_at", UtcTime, nullable=False),
    sa.Column(
        "degree",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="0: named, or of the same identity; 1: met together with one of those by a sync",
    ),
    sa.Column(
        "applied_at", UtcTime, comment="when the catalog was last searched for it; null = not searched yet"
    ),
    sa.Column(
        "block_face",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="keep one protected template of the face",
    ),
)

suppressed_faces = sa.Table(
    "suppressed_faces",
    metadata,
    sa.Column("template_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False, comment="random; joins the templates of one person"),
    sa.Column("sealed", sa.LargeBinary, nullable=False, comment="mean unit vector, AES-GCM, float32"),
    sa.Column("radius", sa.Float, nullable=False, comment="cosine distance within which a face is refused"),
    sa.Column("added_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
    comment="only of those for whom block_face was asked: refuses their face under a new record",
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
    comment="what could link another record to one that is held for review; goes when that one is settled",
)

pending_purges = sa.Table(
    "pending_purges",
    metadata,
    sa.Column("purge_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("requested_at", UtcTime, nullable=False),
    sqlite_autoincrement=True,
    comment="erasures after which the files of the database were not yet written anew: they hold deleted bytes",
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
        "source_id", sa.Text, comment="for review; null for the suppressed, of whom only the hash is kept"
    ),
    comment="records read and not stored (not of an adult, suppressed), so that they are not read in every run",
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
    sa.Column("detail", sa.JSON, comment="connector's own progress, e.g. a refused mass disappearance"),
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
        comment="keyed hash of the profile key, or of the record asked for",
    ),
    sa.Column(
        "outcome", sa.Text, nullable=False, comment="found, not_found, gone or ambiguous: answers only"
    ),
    sa.Column("visited_at", UtcTime, nullable=False),
    sa.Column("next_visit_at", UtcTime, nullable=False),
    sa.Column(
        "missing_since", UtcTime, comment="first sight of a stored profile's absence; a second one removes it"
    ),
    sa.Column("etag", sa.Text, comment="validator of the last answer; for a wiki, its revision"),
    sa.Column("last_modified", sa.Text, comment="validator of the last answer"),
    comment="how far each reference site is read, an item at a time",
    sqlite_with_rowid=False,
)

site_rejections = sa.Table(
    "site_rejections",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("performer_id", sa.Integer, nullable=False, comment="whose faces it did not agree with"),
    sa.Column("faces", sa.Integer, nullable=False, comment="faces of the record"),
    sa.Column(
        "reference_faces", sa.Integer, nullable=False, comment="faces of high trust they were compared with"
    ),
    sa.Column(
        "distance",
        sa.Float,
        nullable=False,
        comment="of the nearest two, mean cosine distance over the models",
    ),
    sa.Column(
        "agreement", sa.Float, nullable=False, comment="the largest distance that would have been agreement"
    ),
    sa.Column("rejected_at", UtcTime, nullable=False),
    _of_performer(),
    comment="records of reference sites whose faces are strangers to the person's own",
    sqlite_with_rowid=False,
)
