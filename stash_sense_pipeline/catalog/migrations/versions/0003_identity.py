"""Orders evidence by its records; adds the state for incremental identity runs, templates and collisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rebuilds the table of evidence with another primary key, and adds the tables."""
    _evidence()
    _runs()
    _faces()


def _evidence() -> None:
    op.rename_table("identity_evidence", "old_evidence")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE old_evidence DROP CONSTRAINT pk_identity_evidence")
    keys = ("source_a", "source_id_a", "source_b", "source_id_b", "kind")
    op.create_table(
        "identity_evidence",
        *(sa.Column(name, sa.Text(), nullable=False) for name in keys),
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
        sa.PrimaryKeyConstraint(*keys, "key", name="pk_identity_evidence"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_identity_evidence_source_b", "identity_evidence", ["source_b", "source_id_b"])
    columns = ", ".join((*keys, "key", "weight", "verdict", "reason", "first_seen_at"))
    op.execute(f"INSERT INTO identity_evidence ({columns}) SELECT {columns} FROM old_evidence")
    op.drop_table("old_evidence")


def _runs() -> None:
    op.create_table(
        "identity_runs",
        sa.Column("run", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column(
            "rules",
            sa.Text(),
            nullable=False,
            comment="digest of all that the result depends on but records",
        ),
        sa.Column("records", sa.Integer(), nullable=False, comment="rows of identity_records after it"),
        sa.Column(
            "detail",
            sa.JSON(),
            nullable=False,
            comment="counts, and the face thresholds with what they rest on",
        ),
        sa.PrimaryKeyConstraint("run", name="pk_identity_runs"),
        comment="runs that changed something; the last one is what an incremental run goes on from",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identity_records",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False, comment="which state of the record identity last saw"),
        sa.Column("pictures", sa.Text(), nullable=True, comment="which pictures and faces it had then"),
        sa.PrimaryKeyConstraint("number", name="pk_identity_records"),
        sa.UniqueConstraint("source", "source_id", name="uq_identity_records_source_source_id"),
        _of_performer("identity_records"),
    )
    op.create_table(
        "identity_keys",
        sa.Column(
            "digest", sa.BigInteger(), nullable=False, comment="64 bits of a page, name, date or picture"
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "number", name="pk_identity_keys"),
        sa.ForeignKeyConstraint(
            ["number"],
            ["identity_records.number"],
            name="fk_identity_keys_number_identity_records",
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_identity_keys_number", "identity_keys", ["number"])
    op.create_table(
        "identity_hubs",
        sa.Column("digest", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="a page on too many records to prove anything"),
        sa.Column("holders", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_identity_hubs"),
    )


def _faces() -> None:
    op.create_table(
        "face_templates",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column(
            "faces", sa.Integer(), nullable=False, comment="how many different pictures it is the mean of"
        ),
        sa.Column("models", sa.Text(), nullable=False, comment="digest of the embedders"),
        sa.Column(
            "vector",
            sa.LargeBinary(),
            nullable=False,
            comment="little-endian float16: the unit mean vector of each embedder, one after another",
        ),
        sa.PrimaryKeyConstraint("source", "source_id", name="pk_face_templates"),
        _of_performer("face_templates"),
    )
    op.create_table(
        "face_collisions",
        sa.Column("face_id", sa.Integer(), nullable=False),
        sa.Column("performer_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("nearer_to", sa.Integer(), nullable=False),
        sa.Column(
            "similarity",
            sa.Float(),
            nullable=False,
            comment="mean cosine to the own performer's other faces",
        ),
        sa.Column(
            "nearer_similarity", sa.Float(), nullable=False, comment="mean cosine to the other performer's"
        ),
        sa.Column("found_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("face_id", name="pk_face_collisions"),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.face_id"], name="fk_face_collisions_face_id_faces", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["performer_id"],
            ["identities.performer_id"],
            name="fk_face_collisions_performer_id_identities",
        ),
        sa.ForeignKeyConstraint(
            ["nearer_to"], ["identities.performer_id"], name="fk_face_collisions_nearer_to_identities"
        ),
        comment="faces that look like another performer more than like their own: kept out of releases, not deleted",
    )
    op.create_index("ix_face_collisions_performer_id", "face_collisions", ["performer_id"])
    op.create_index("ix_face_collisions_nearer_to", "face_collisions", ["nearer_to"])


def _of_performer(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["source", "source_id"],
        ["source_performers.source", "source_performers.source_id"],
        name=f"fk_{table}_source_source_id_source_performers",
        ondelete="CASCADE",
    )
