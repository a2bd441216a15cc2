"""Adds the faces of a second model pack: the key of a face learns its detector, and each image a second verdict."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0022"
branch_labels = None
depends_on = None

_OLD_KEY = "uq_faces_source_image_id_face_index"
_NEW_KEY = "uq_faces_source_image_id_detector_digest_face_index"
_DETECTOR = (
    "SHA-256 of the detector of the first pack that processed the image: of its model file, or of that and "
    "the rules by which the pack finds faces"
)


def upgrade() -> None:
    """Existing faces keep their ids, crops and vectors, and are those of the first pack."""
    last = _last_face_id()
    with op.batch_alter_table("faces", recreate="auto", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.add_column(
            sa.Column(
                "second",
                sa.Boolean(),
                nullable=False,
                server_default=sa.false(),
                comment="the face is of the second pack; identity and the release of the first pack do not use it",
            )
        )
        table.drop_constraint(_OLD_KEY, type_="unique")
        table.create_unique_constraint(_NEW_KEY, ["source", "image_id", "detector_digest", "face_index"])
    _keep_last_face_id(last)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("source_images", "detector_digest", comment=_DETECTOR)
    _verdicts()
    _trusted_faces()


def _last_face_id() -> int | None:
    """The largest id that SQLite has given to a face; such an id is never given again."""
    if op.get_bind().dialect.name != "sqlite":
        return None
    found = op.get_bind().exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'faces'")
    return found.scalar()


def _keep_last_face_id(last: int | None) -> None:
    # A rebuilt table counts from the largest id that it holds.
    if last is not None:
        op.execute("DELETE FROM sqlite_sequence WHERE name = 'faces'")
        op.execute(
            sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('faces', :last)").bindparams(last=last)
        )


def _verdicts() -> None:
    op.create_table(
        "second_verdicts",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("detector_digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="done or rejected"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why the second pack has no face of the image"),
        sa.Column(
            "judged_by",
            sa.Text(),
            nullable=True,
            comment="acceptance criteria that the image was judged by, as text",
        ),
        sa.Column("processed_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("source", "image_id", name="pk_second_verdicts"),
        sa.ForeignKeyConstraint(
            ["source", "image_id"],
            ["source_images.source", "source_images.image_id"],
            name="fk_second_verdicts_source_image_id_source_images",
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
        comment="verdicts of the second pack on images that the first pack has judged",
    )


def _trusted_faces() -> None:
    op.create_table(
        "second_trusted_faces",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, comment="0 = best face of the performer"),
        sa.PrimaryKeyConstraint("face_id", name="pk_second_trusted_faces"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_second_trusted_faces_face_id_faces", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["performer_id"],
            ["identities.performer_id"],
            name="fk_second_trusted_faces_performer_id_identities",
        ),
        comment="faces of the second pack that represent performers; a release of that pack holds no others",
    )
    op.create_index("ix_second_trusted_faces_performer_id", "second_trusted_faces", ["performer_id"])
