"""Adds the tattoos in pictures of faces: what was searched, what was found, crops and vectors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the empty tables."""
    _scans()
    _detections()
    op.create_table(
        "tattoo_crops",
        sa.Column("tattoo_id", sa.Integer(), nullable=False),
        sa.Column("png", sa.LargeBinary(), nullable=False, comment="224x224 RGB, lossless"),
        sa.PrimaryKeyConstraint("tattoo_id", name="pk_tattoo_crops"),
        _of_tattoo("tattoo_crops"),
        comment="tattoos that wait for an embedding",
    )
    op.create_table(
        "tattoo_embeddings",
        sa.Column("tattoo_id", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False, comment="little-endian float32 of length 1"),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tattoo_id", name="pk_tattoo_embeddings"),
        _of_tattoo("tattoo_embeddings"),
    )


def _scans() -> None:
    op.create_table(
        "tattoo_scans",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("detector_digest", sa.Text(), nullable=False),
        sa.Column(
            "tattoos",
            sa.Integer(),
            nullable=True,
            comment="number of tattoos in the picture of the face; null: it shows several people and was not searched",
        ),
        sa.Column("scanned_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("face_id", name="pk_tattoo_scans"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_tattoo_scans_face_id_faces", ondelete="CASCADE"
        ),
        comment="pictures of faces that were searched for tattoos, also those without one; goes with the face",
    )


def _detections() -> None:
    op.create_table(
        "tattoo_detections",
        sa.Column("tattoo_id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column(
            "tattoo_index", sa.Integer(), nullable=False, comment="order by confidence inside the picture"
        ),
        sa.Column(
            "x", sa.Float(), nullable=False, comment="left edge, 0..1 of the width of the upright picture"
        ),
        sa.Column(
            "y", sa.Float(), nullable=False, comment="upper edge, 0..1 of the height of the upright picture"
        ),
        sa.Column("width", sa.Float(), nullable=False, comment="0..1 of the width of the picture"),
        sa.Column("height", sa.Float(), nullable=False, comment="0..1 of the height of the picture"),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column(
            "location_hint", sa.Text(), nullable=True, comment="part of the picture, such as left upper body"
        ),
        sa.PrimaryKeyConstraint("tattoo_id", name="pk_tattoo_detections"),
        sa.UniqueConstraint("face_id", "tattoo_index", name="uq_tattoo_detections_face_id_tattoo_index"),
        sa.ForeignKeyConstraint(
            ["face_id"],
            ["tattoo_scans.face_id"],
            name="fk_tattoo_detections_face_id_tattoo_scans",
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
        comment="tattoos in pictures with one person",
    )


def _of_tattoo(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tattoo_id"],
        ["tattoo_detections.tattoo_id"],
        name=f"fk_{table}_tattoo_id_tattoo_detections",
        ondelete="CASCADE",
    )
