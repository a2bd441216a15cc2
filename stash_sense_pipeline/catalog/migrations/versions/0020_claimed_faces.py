"""Adds the records, faces and vectors that were taken over from a published release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the empty tables."""
    _releases()
    _records()
    _faces()
    op.create_table(
        "claimed_vectors",
        sa.Column("claim_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="embedder name"),
        sa.Column("vector", sa.LargeBinary(), nullable=False, comment="little-endian float32 of length 1"),
        sa.PrimaryKeyConstraint("claim_id", "model", name="pk_claimed_vectors"),
        sa.ForeignKeyConstraint(
            ["claim_id"],
            ["claimed_faces.claim_id"],
            name="fk_claimed_vectors_claim_id_claimed_faces",
            ondelete="CASCADE",
        ),
        comment="vectors of claimed faces that are no faces yet; no release reads this table",
    )


def _releases() -> None:
    op.create_table(
        "claimed_releases",
        sa.Column("release_id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "manifest_digest",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of manifest.json, which has the digests of all files: the source of the claim",
        ),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="importing, records, claimed, proven or refused"
        ),
        sa.Column(
            "reason", sa.Text(), nullable=True, comment="why its faces are not used: records or refused"
        ),
        sa.Column(
            "pack",
            sa.Text(),
            nullable=True,
            comment="the installed model pack that the claim is compared with",
        ),
        sa.Column("detector_digest", sa.Text(), nullable=True),
        sa.Column(
            "models",
            sa.JSON(),
            nullable=False,
            comment="embedder to digest of the network, storage, and `rounded`",
        ),
        sa.Column(
            "proof",
            sa.JSON(),
            nullable=True,
            comment="result of the sample by embedder, with the histogram of cosines",
        ),
        sa.Column("taken_at", sa.Text(), nullable=False),
        sa.Column(
            "judged_at", sa.Text(), nullable=True, comment="when the sample proved or refuted the claim"
        ),
        sa.PrimaryKeyConstraint("release_id", name="pk_claimed_releases"),
        sa.UniqueConstraint("manifest_digest", name="uq_claimed_releases_manifest_digest"),
        sqlite_autoincrement=True,
        comment="releases that records and faces were taken over from",
    )


def _records() -> None:
    op.create_table(
        "claimed_records",
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "added",
            sa.Boolean(),
            nullable=False,
            comment="true: the release added the record; false: the catalog had it, and got face counts only",
        ),
        sa.PrimaryKeyConstraint("release_id", "source", "source_id", name="pk_claimed_records"),
        sa.ForeignKeyConstraint(
            ["release_id"],
            ["claimed_releases.release_id"],
            name="fk_claimed_records_release_id_claimed_releases",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source", "source_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_claimed_records_source_source_id_source_performers",
            ondelete="CASCADE",
        ),
        comment="records and tombstones of a release; an undo removes the added ones that no source has confirmed",
    )
    op.create_index("ix_claimed_records_source_source_id", "claimed_records", ["source", "source_id"])


def _faces() -> None:
    op.create_table(
        "claimed_faces",
        sa.Column("claim_id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column(
            "position", sa.Integer(), nullable=False, comment="id of the face in the release's indices"
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="the source that shows the picture"),
        sa.Column(
            "url", sa.Text(), nullable=False, comment="address of the picture, as the release states it"
        ),
        sa.Column(
            "box", sa.Text(), nullable=False, comment="with box_id: a record of the person in the release"
        ),
        sa.Column("box_id", sa.Text(), nullable=False),
        sa.Column("quality", sa.Float(), nullable=False, comment="0..1"),
        sa.Column("yaw", sa.Float(), nullable=False, comment="degrees; 0 where the release states none"),
        sa.Column(
            "rounded",
            sa.Boolean(),
            nullable=False,
            comment="an index stored its vector in 8 bits a number",
        ),
        sa.Column(
            "cosines",
            sa.JSON(),
            nullable=True,
            comment="of the sample: embedder to the cosine with the face of the picture",
        ),
        sa.Column(
            "face_id",
            sa.Integer(),
            nullable=True,
            comment="the face that it became, once proven and listed by its source; null before",
        ),
        sa.Column("used_at", sa.Text(), nullable=True, comment="when it became a face"),
        sa.Column(
            "asked_at",
            sa.Text(),
            nullable=True,
            comment="when its picture was last queued to be looked at again",
        ),
        sa.PrimaryKeyConstraint("claim_id", name="pk_claimed_faces"),
        sa.UniqueConstraint("source", "url", name="uq_claimed_faces_source_url"),
        sa.UniqueConstraint("release_id", "position", name="uq_claimed_faces_release_id_position"),
        sa.ForeignKeyConstraint(
            ["release_id"],
            ["claimed_releases.release_id"],
            name="fk_claimed_faces_release_id_claimed_releases",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_claimed_faces_face_id_faces", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["box", "box_id"],
            ["source_performers.source", "source_performers.source_id"],
            name="fk_claimed_faces_box_box_id_source_performers",
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
        comment="faces of a release, from pictures that this program has not seen; the row goes when its picture is seen",
    )
    op.create_index("ix_claimed_faces_box_box_id", "claimed_faces", ["box", "box_id"])
    op.create_index(
        "ix_claimed_faces_face_id",
        "claimed_faces",
        ["face_id"],
        sqlite_where=sa.text("face_id IS NOT NULL"),
        postgresql_where=sa.text("face_id IS NOT NULL"),
    )
