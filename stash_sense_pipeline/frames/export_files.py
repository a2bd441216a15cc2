"""Writes tables for analysis as CSV, JSON lines or Parquet, chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import replacing
from stash_sense_pipeline.foundation.tables.csv_writer import csv_text
from stash_sense_pipeline.foundation.tables.table import Table, is_missing
from stash_sense_pipeline.frames.reading import dtype_of
from stash_sense_pipeline.frames.tables import FrameTable

_Frames = Iterable[pd.DataFrame]


class ExportFormat(StrEnum):
    """The kinds of files."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


def write_export(table: FrameTable, frames: _Frames, form: ExportFormat, path: Path) -> int:
    """Writes the frames of a table into a file that only its owner may read, and returns the number of rows.

    The file is replaced when it is complete. Raises ConfigurationError for Parquet without pyarrow.
    """
    counted = _Counted(frames)
    if form is ExportFormat.PARQUET:
        _require_pyarrow()
        with replacing(path) as temporary:
            _write_parquet(table, counted, temporary)
    else:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            for text in export_text(counted, form):
                stream.write(text)
    return counted.rows


def export_text(frames: _Frames, form: ExportFormat) -> Iterator[str]:
    """The text of each frame, as CSV or as JSON lines. Both show no control character to a terminal.

    JSON lines hold each value exactly. In CSV, text that a spreadsheet would take for a formula gets a leading quote.
    Raises ConfigurationError for Parquet, which is not text.
    """
    if form is ExportFormat.PARQUET:
        raise ConfigurationError("Parquet is not text; give a file with --to")
    write: Callable[..., str] = csv_text if form is ExportFormat.CSV else _json_lines
    for place, frame in enumerate(frames):
        yield write(Table(_with_lists(frame)), header=place == 0)


class _Counted:
    """Passes frames on and counts their rows."""

    def __init__(self, frames: _Frames) -> None:
        self.rows = 0
        self._frames = frames

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for frame in self._frames:
            self.rows += len(frame)
            yield frame


def _json_lines(table: Table, *, header: bool) -> str:
    names = table.columns
    rows = (dict(zip(names, row, strict=True)) for row in table.cells())
    return "".join(json.dumps(row, default=_json_value) + "\n" for row in rows)


def _json_value(value: Any) -> str:
    return str(value.isoformat())


def _with_lists(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with vectors as lists of numbers: an array as a cell has no truth value."""
    if "vector" not in frame:
        return frame
    return frame.assign(vector=pd.Series([each.tolist() for each in frame["vector"]], dtype=object))


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "Parquet needs pyarrow, which is not installed: pip install 'stash-sense-pipeline[parquet]', or choose csv or"
            " jsonl"
        ) from None


def _write_parquet(table: FrameTable, frames: _Frames, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "string": pa.string(),
        "int64": pa.int64(),
        "Int64": pa.int64(),
        "float64": pa.float64(),
        "object": pa.list_(pa.float32()),
    }
    schema = pa.schema(
        [
            pa.field(each.name, kinds.get(dtype_of(each), pa.timestamp("us", "UTC")), nullable=each.nullable)
            for each in table.columns
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for frame in frames:
            columns = {
                each.name: [None if is_missing(value) else value for value in frame[each.name]]
                if dtype_of(each) != "object"
                else list(frame[each.name])
                for each in table.columns
            }
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
