"""The tables for analysis: the query of each, over columns that the data inventory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.data_inventory import PURPOSES
from stash_sense_pipeline.privacy.redaction.analysed_columns import analysed_column


@dataclass(frozen=True)
class FrameColumn:
    """A column of a frame: a column of the catalog under its own name."""

    column: sa.Column[Any]
    nullable: bool

    @property
    def name(self) -> str:
        """Its name in the frame."""
        return str(self.column.name)

    @property
    def meaning(self) -> str:
        """What it holds: the comment of the catalog, or why it is stored."""
        return str(self.column.comment or PURPOSES[self.column.table.name][self.name].why)


@dataclass(frozen=True)
class FrameTable:
    """A table for analysis. `key` orders its rows and identifies each; a column of it need not be in the frame."""

    name: str
    columns: Sequence[FrameColumn]
    source: sa.FromClause
    key: Sequence[sa.Column[Any]]
    only: sa.ColumnElement[bool]

    def query(self, after: Sequence[Any] | None = None, rows: int | None = None) -> sa.Select[Any]:
        """The columns of the frame, then the key. With `after`, only rows behind that key; at most `rows` rows."""
        chosen = [each.column for each in self.columns]
        ordered = [each.label(f"key_{place}") for place, each in enumerate(self.key)]
        found = sa.select(*chosen, *ordered).select_from(self.source).where(self.only).order_by(*self.key)
        if after is not None:
            found = found.where(sa.tuple_(*self.key) > sa.tuple_(*after))
        return found if rows is None else found.limit(rows)


def _columns(table: sa.Table, *names: str, optional: bool = False) -> list[FrameColumn]:
    """Columns of a table by name; `optional` for a table that not every row has. Raises as analysed_column."""
    found = [table.c[analysed_column(table.name, name)] for name in names]
    return [FrameColumn(column, optional or bool(column.nullable)) for column in found]


_people, _members = schema.source_performers, schema.identity_members
_links, _images, _faces = schema.performer_images, schema.source_images, schema.faces
_trusted, _embeddings, _evidence = schema.trusted_faces, schema.embeddings, schema.identity_evidence
_FOUND_SUPPRESSED = "suppressed"


def _is_live(source: sa.ColumnElement[Any], source_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """The condition that the record is stored and not deleted at its source."""
    record = sa.alias(_people)
    return sa.exists().where(
        record.c.source == source, record.c.source_id == source_id, record.c.deleted_at.is_(None)
    )


def _is_shown(source: sa.ColumnElement[Any], image_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """The condition that a live record shows the image, and that it is not suppressed."""
    link, record, image = sa.alias(_links), sa.alias(_people), sa.alias(_images)
    return sa.exists().where(
        link.c.source == source,
        link.c.image_id == image_id,
        record.c.source == link.c.source,
        record.c.source_id == link.c.source_id,
        record.c.deleted_at.is_(None),
        image.c.source == link.c.source,
        image.c.image_id == link.c.image_id,
        image.c.reason.is_distinct_from(_FOUND_SUPPRESSED),
    )


def _same_record(one: sa.Table, other: sa.Table) -> sa.ColumnElement[bool]:
    return (one.c.source == other.c.source) & (one.c.source_id == other.c.source_id)


_PERFORMERS = FrameTable(
    "performers",
    [
        *_columns(_people, "source", "source_id"),
        *_columns(_members, "performer_id", optional=True),
        *_columns(_people, "name", "disambiguation", "gender", "birth_date", "death_date", "country"),
        *_columns(_people, "ethnicity", "eye_color", "hair_color", "height_cm"),
        *_columns(_people, "career_start_year", "career_end_year", "updated_at", "first_seen_at"),
        *_columns(_people, "changed_at"),
    ],
    _people.outerjoin(_members, _same_record(_members, _people)),
    [_people.c.source, _people.c.source_id],
    _people.c.deleted_at.is_(None),
)
_IMAGES = FrameTable(
    "images",
    [
        *_columns(_links, "source", "source_id", "image_id"),
        *_columns(_images, "url", "width", "height", "state", "reason", "attempts"),
        *_columns(_images, "processed_at", "first_seen_at"),
    ],
    _links.join(_images, (_images.c.source == _links.c.source) & (_images.c.image_id == _links.c.image_id)),
    [_links.c.source, _links.c.source_id, _links.c.image_id],
    _is_live(_links.c.source, _links.c.source_id) & _images.c.reason.is_distinct_from(_FOUND_SUPPRESSED),
)
_FACES = FrameTable(
    "faces",
    [
        *_columns(_faces, "face_id", "source", "image_id", "face_index"),
        *_columns(_trusted, "performer_id", "rank", optional=True),
        *_columns(_faces, "detection_confidence", "x1", "y1", "x2", "y2", "yaw", "roll", "blur", "quality"),
        *_columns(_faces, "pack", "detector_digest", "created_at"),
    ],
    _faces.outerjoin(_trusted, _trusted.c.face_id == _faces.c.face_id),
    [_faces.c.face_id],
    _is_shown(_faces.c.source, _faces.c.image_id),
)
_IDENTITIES = FrameTable(
    "identities",
    [
        *_columns(_members, "performer_id", "source", "source_id"),
        *_columns(schema.identities, "created_at"),
    ],
    _members.join(schema.identities, schema.identities.c.performer_id == _members.c.performer_id),
    [_members.c.performer_id, _members.c.source, _members.c.source_id],
    _is_live(_members.c.source, _members.c.source_id),
)
_EVIDENCE = FrameTable(
    "evidence",
    [
        *_columns(_evidence, "source_a", "source_id_a", "source_b", "source_id_b", "kind", "weight"),
        *_columns(_evidence, "verdict", "reason", "first_seen_at"),
    ],
    _evidence,
    [
        *(_evidence.c.source_a, _evidence.c.source_id_a, _evidence.c.source_b, _evidence.c.source_id_b),
        *(_evidence.c.kind, _evidence.c.key),
    ],
    _is_live(_evidence.c.source_a, _evidence.c.source_id_a)
    & _is_live(_evidence.c.source_b, _evidence.c.source_id_b),
)
_EMBEDDINGS = FrameTable(
    "embeddings",
    _columns(_embeddings, "face_id", "model", "pack", "model_digest", "vector"),
    _embeddings.join(_faces, _faces.c.face_id == _embeddings.c.face_id),
    [_embeddings.c.face_id, _embeddings.c.model],
    _is_shown(_faces.c.source, _faces.c.image_id),
)
TABLES: Mapping[str, FrameTable] = {
    table.name: table for table in (_PERFORMERS, _IMAGES, _FACES, _IDENTITIES, _EVIDENCE, _EMBEDDINGS)
}


def frame_table(name: str) -> FrameTable:
    """The table of this name. Raises ConfigurationError for an unknown one."""
    if name not in TABLES:
        raise ConfigurationError(
            f"there is no table {name!r} for analysis; choose one of {', '.join(TABLES)}"
        )
    return TABLES[name]


def of_model(model: str, digest: str | None) -> FrameTable:
    """The embeddings of one model, and with `digest` of one network only."""
    only = _EMBEDDINGS.only & (_embeddings.c.model == model)
    if digest is not None:
        only &= _embeddings.c.model_digest == digest
    return FrameTable("embeddings", _EMBEDDINGS.columns, _EMBEDDINGS.source, _EMBEDDINGS.key, only)
