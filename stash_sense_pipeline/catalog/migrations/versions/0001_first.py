"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates every table."""
    op.create_table(
        "identities",
        sa.Column("performer_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.Text(), nullable=True, comment="when the last member left it"),
        sa.Column(
            "redirect_to", sa.Integer(), nullable=True, comment="performer_id that took its members over"
        ),
        sa.PrimaryKeyConstraint("performer_id", name="pk_identities"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identity_evidence",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source_a", sa.Text(), nullable=False),
        sa.Column("source_id_a", sa.Text(), nullable=False),
        sa.Column("source_b", sa.Text(), nullable=False),
        sa.Column("source_id_b", sa.Text(), nullable=False),
        sa.Column(
            "key",
            sa.Text(),
            nullable=False,
            comment="what the two records share; empty where the kind says it all",
        ),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False, comment="linked, redundant or refused"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why refused"),
        sa.Column("first_seen_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "kind", "source_a", "source_id_a", "source_b", "source_id_b", "key", name="pk_identity_evidence"
        ),
    )
    op.create_table(
        "identity_log",
        sa.Column("entry", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.Column(
            "event",
            sa.Text(),
            nullable=False,
            comment="created, joined, left, merged, split, retired or revived",
        ),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("entry", name="pk_identity_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_identity_log_performer_id", "identity_log", ["performer_id"], unique=False)
    op.create_table(
        "source_images",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False, comment="pending, done, rejected, failed or gone"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why rejected or failed"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True, comment="hex digest of the bytes fetched"),
        sa.Column(
            "detector_digest", sa.Text(), nullable=True, comment="sha256 of the detector that looked at it"
        ),
        sa.Column(
            "judged_by",
            sa.Text(),
            nullable=True,
            comment="limits and filters that judged it, as faces.rules writes them",
        ),
        sa.Column("processed_at", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("source", "image_id", name="pk_source_images"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_source_images_sha256", "source_images", ["sha256"], unique=False)
    op.create_index("ix_source_images_source_state", "source_images", ["source", "state"], unique=False)
    op.create_table(
        "source_performers",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "name", sa.Text(), nullable=True, comment="null only for a tombstone that was never seen alive"
        ),
        sa.Column("disambiguation", sa.Text(), nullable=True),
        sa.Column(
            "gender",
            sa.Text(),
            nullable=True,
            comment="as stash-box enumerates it, e.g. FEMALE; null unknown",
        ),
        sa.Column("birth_date", sa.Text(), nullable=True, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
        sa.Column("death_date", sa.Text(), nullable=True, comment="YYYY, YYYY-MM or YYYY-MM-DD"),
        sa.Column(
            "country", sa.Text(), nullable=True, comment="ISO 3166 alpha-2 by convention of the sources"
        ),
        sa.Column("ethnicity", sa.Text(), nullable=True),
        sa.Column("eye_color", sa.Text(), nullable=True),
        sa.Column("hair_color", sa.Text(), nullable=True),
        sa.Column("height_cm", sa.Integer(), nullable=True),
        sa.Column("career_start_year", sa.Integer(), nullable=True),
        sa.Column("career_end_year", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=True, comment="the source's own clock"),
        sa.Column(
            "updated_at", sa.Text(), nullable=True, comment="the source's own clock; null where it gives none"
        ),
        sa.Column(
            "deleted_at", sa.Text(), nullable=True, comment="when we learned that it is gone; null = live"
        ),
        sa.Column(
            "merged_into",
            sa.Text(),
            nullable=True,
            comment="source_id of the survivor, for a merged tombstone",
        ),
        sa.Column(
            "content_hash", sa.Text(), nullable=True, comment="SHA-256 of the record without its time stamps"
        ),
        sa.Column(
            "raw",
            sa.JSON(),
            nullable=True,
            comment="fields of the record that we do not model, after the privacy filter",
        ),
        sa.Column("first_seen_at", sa.Text(), nullable=False),
        sa.Column(
            "changed_at",
            sa.Text(),
            nullable=False,
            comment="when content_hash, deleted_at or merged_into last changed here",
        ),
        sa.Column(
            "legacy_faces",
            sa.Integer(),
            nullable=True,
            comment="number of faces of the performer in the predecessor's database; null = not in it",
        ),
        sa.Column(
            "legacy_images",
            sa.Integer(),
            nullable=True,
            comment="images that a predecessor had looked at; null = unknown",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", name="pk_source_performers"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_source_performers_source_merged_into",
        "source_performers",
        ["source", "merged_into"],
        unique=False,
    )
    op.create_table(
        "suppressions",
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="record, url, image; key: which key made the hashes"
        ),
        sa.Column("key_hash", sa.Text(), nullable=False, comment="keyed hash; the clear key is not kept"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("added_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key_hash", name="pk_suppressions"),
    )
    op.create_table(
        "sync_state",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "updated_watermark",
            sa.Text(),
            nullable=True,
            comment="newest `updated` of the server that is stored, committed with its data",
        ),
        sa.Column(
            "edits_watermark",
            sa.Text(),
            nullable=True,
            comment="newest `closed` of an applied edit that is stored",
        ),
        sa.Column(
            "backfilled_at",
            sa.Text(),
            nullable=True,
            comment="when the last complete enumeration was committed",
        ),
        sa.Column("last_sync_at", sa.Text(), nullable=True),
        sa.Column("last_sweep_at", sa.Text(), nullable=True),
        sa.Column("last_outcome", sa.Text(), nullable=True),
        sa.Column("last_message", sa.Text(), nullable=True),
        sa.Column("server_version", sa.Text(), nullable=True),
        sa.Column(
            "detail",
            sa.JSON(),
            nullable=True,
            comment="connector's own progress, e.g. a refused mass disappearance",
        ),
        sa.PrimaryKeyConstraint("source", name="pk_sync_state"),
    )
    op.create_table(
        "withheld_records",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("id_hash", sa.Text(), nullable=False, comment="SHA-256 of the source_id"),
        sa.Column(
            "updated_at",
            sa.Text(),
            nullable=True,
            comment="the source's own time of the version that was not stored",
        ),
        sa.Column("checked_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("source", "id_hash", name="pk_withheld_records"),
        comment="records read and not stored (not of an adult, suppressed), so that they are not read in every run",
    )
    op.create_table(
        "faces",
        sa.Column("face_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("face_index", sa.Integer(), nullable=False, comment="order of detection inside the image"),
        sa.Column("detection_confidence", sa.Float(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("x2", sa.Float(), nullable=False),
        sa.Column("y2", sa.Float(), nullable=False),
        sa.Column(
            "landmarks", sa.LargeBinary(), nullable=False, comment="(5, 2) little-endian float32, pixels"
        ),
        sa.Column("yaw", sa.Float(), nullable=False, comment="degrees"),
        sa.Column("roll", sa.Float(), nullable=False, comment="degrees"),
        sa.Column(
            "blur",
            sa.Float(),
            nullable=False,
            comment="variance of the Laplacian of the aligned crop; small is blurred",
        ),
        sa.Column("quality", sa.Float(), nullable=False, comment="0..1"),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("detector_digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source", "image_id"],
            ["source_images.source", "source_images.image_id"],
            name="fk_faces_source_image_id_source_images",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("face_id", name="pk_faces"),
        sa.UniqueConstraint("source", "image_id", "face_index", name="uq_faces_source_image_id_face_index"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identity_members",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["performer_id"], ["identities.performer_id"], name="fk_identity_members_performer_id_identities"
        ),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_identity_members_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", name="pk_identity_members"),
    )
    op.create_index("ix_identity_members_performer_id", "identity_members", ["performer_id"], unique=False)
    op.create_table(
        "performer_aliases",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_performer_aliases_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", "alias", name="pk_performer_aliases"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "performer_images",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source", "image_id"],
            ["source_images.source", "source_images.image_id"],
            name="fk_performer_images_source_image_id_source_images",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_performer_images_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", "image_id", name="pk_performer_images"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_performer_images_source_image_id",
        "performer_images",
        ["source", "image_id", "source_id"],
        unique=False,
    )
    op.create_table(
        "performer_urls",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "url",
            sa.Text(),
            nullable=False,
            comment="as the source lists it; canonical keys are computed by identity",
        ),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_performer_urls_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", "url", name="pk_performer_urls"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "aligned_crops",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("png", sa.LargeBinary(), nullable=False, comment="112x112 RGB aligned crop, lossless"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_aligned_crops_face_id_faces", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("face_id", name="pk_aligned_crops"),
    )
    op.create_table(
        "embeddings",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column(
            "model", sa.Text(), nullable=False, comment="embedder name in the pack: facenet, arcface, ..."
        ),
        sa.Column(
            "vector", sa.LargeBinary(), nullable=False, comment="raw little-endian float32, not normalised"
        ),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_embeddings_face_id_faces", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("face_id", "model", name="pk_embeddings"),
    )
    op.create_index(
        "ix_embeddings_face_id_model_model_digest",
        "embeddings",
        ["face_id", "model", "model_digest"],
        unique=False,
    )
    op.create_table(
        "trusted_faces",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, comment="0 = best face of the performer"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_trusted_faces_face_id_faces", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["performer_id"], ["identities.performer_id"], name="fk_trusted_faces_performer_id_identities"
        ),
        sa.PrimaryKeyConstraint("face_id", name="pk_trusted_faces"),
    )
    op.create_index("ix_trusted_faces_performer_id", "trusted_faces", ["performer_id"], unique=False)
