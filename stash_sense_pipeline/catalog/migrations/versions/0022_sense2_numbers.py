"""Adds the permanent numbers of records and faces in sense2 releases, and the list of these releases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the empty tables. The first sense2 release fills them."""
    _performers()
    _faces()
    op.create_table(
        "sense2_releases",
        sa.Column("version", sa.Text(), nullable=False, comment="YYYY.MM.DD"),
        sa.Column("published_at", sa.Text(), nullable=False),
        sa.Column("detector_digest", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="embedder name"),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("links_digest", sa.Text(), nullable=False, comment="SHA-256 of performer_links.json"),
        sa.Column("aliases_digest", sa.Text(), nullable=False, comment="SHA-256 of aliases.json"),
        sa.PrimaryKeyConstraint("version", name="pk_sense2_releases"),
        comment="published sense2 releases; the newest is the state that the numbers describe",
    )


def _performers() -> None:
    op.create_table(
        "sense2_performers",
        sa.Column(
            "number",
            sa.Integer(),
            nullable=False,
            autoincrement=True,
            comment="performers.id in sense2 releases",
        ),
        sa.Column(
            "source",
            sa.Text(),
            nullable=True,
            comment="with source_id: the record; both are null after an erasure",
        ),
        sa.Column("source_id", sa.Text(), nullable=True),
        sa.Column(
            "digest",
            sa.Text(),
            nullable=True,
            comment="SHA-256 of the row as the newest release holds it; null = not in it, or erased",
        ),
        sa.Column(
            "published", sa.Boolean(), nullable=False, comment="true: the newest release holds the number"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_sense2_performers"),
        sa.UniqueConstraint("source", "source_id", name="uq_sense2_performers_source_source_id"),
        sqlite_autoincrement=True,
        comment="permanent numbers of stash-box records; a row is never deleted, so that no number is used twice",
    )


def _faces() -> None:
    op.create_table(
        "sense2_faces",
        sa.Column(
            "embedding_index",
            sa.Integer(),
            nullable=False,
            autoincrement=False,
            comment="key of the vector in sense2 releases, from 0",
        ),
        sa.Column(
            "source",
            sa.Text(),
            nullable=True,
            comment="with image_id, face_index: the face; all are null after an erasure",
        ),
        sa.Column("image_id", sa.Text(), nullable=True),
        sa.Column("face_index", sa.Integer(), nullable=True),
        sa.Column(
            "owner",
            sa.Integer(),
            nullable=True,
            comment="number of the record that the newest release shows the face under; null = none, or erased",
        ),
        sa.Column(
            "digest",
            sa.Text(),
            nullable=True,
            comment="SHA-256 of row and vector as the newest release holds them; null = not in it, or erased",
        ),
        sa.Column(
            "published", sa.Boolean(), nullable=False, comment="true: the newest release holds the face"
        ),
        sa.PrimaryKeyConstraint("embedding_index", name="pk_sense2_faces"),
        sa.UniqueConstraint(
            "source", "image_id", "face_index", name="uq_sense2_faces_source_image_id_face_index"
        ),
        comment="permanent indices of published faces; a row is never deleted, so that no index is used twice",
    )
