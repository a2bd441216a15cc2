"""`stash-sense export`: each table in each format, complete or not at all, and nothing of people who asked to leave."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from stash_sense_pipeline import frames
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.cli.catalog import _EXPORTED
from stash_sense_pipeline.foundation.tables.spreadsheet_cells import spreadsheet_cell
from stash_sense_pipeline.foundation.visible_text import visible
from stash_sense_pipeline.frames.tables import TABLES
from stash_sense_pipeline_tests.frames.world import KEY, ask_to_leave, fill

SOURCES = """\
stash_boxes:
  boxa: {enabled: true, connector: stash_box, url: "http://127.0.0.1:9/graphql", host: boxa.example}
  boxb: {enabled: true, connector: stash_box, url: "http://127.0.0.1:9/graphql", host: boxb.example}
"""
TEXT = ["csv", "jsonl"]


@pytest.fixture
def data(tmp_path: Path, any_catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(any_catalog)
    (tmp_path / "sources.yaml").write_text(SOURCES)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("STASH_SENSE_SOURCES", str(tmp_path / "sources.yaml"))
    monkeypatch.setenv("STASH_SENSE_CATALOG_URL", any_catalog.url.render_as_string(hide_password=False))
    # Small chunks, so that every file is of several.
    monkeypatch.setattr(frames, "CHUNK_ROWS", 7)
    return tmp_path


def export(*words: str) -> Result:
    return CliRunner().invoke(main, ["export", *words])


def whole(name: str) -> pd.DataFrame:
    return pd.concat(list(frames.chunks(name, os.environ["STASH_SENSE_CATALOG_URL"], 1_000)))


def test_the_command_knows_every_table() -> None:
    assert tuple(TABLES) == _EXPORTED


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_json_lines_hold_every_value(data: Path, table: str) -> None:
    said = export(table, "--format", "jsonl")
    assert said.exit_code == 0, said.output
    assert said.output.isascii()
    assert visible(said.output) == said.output
    rows = [json.loads(line) for line in said.output.splitlines()]
    frame = whole(table)
    assert len(rows) == len(frame)
    for row, values in zip(rows, frame.itertuples(index=False, name=None), strict=True):
        for got, value in zip(row.values(), values, strict=True):
            if isinstance(value, pd.Timestamp):
                assert pd.Timestamp(got) == value
            elif hasattr(value, "tolist") and table == "embeddings":
                assert got == (value.tolist())
            else:
                assert got is None if pd.isna(value) else got == value


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_csv_is_harmless_in_a_spreadsheet_and_complete(data: Path, table: str) -> None:
    said = export(table, "--format", "csv")
    assert said.exit_code == 0, said.output
    assert visible(said.output) == said.output
    rows = list(csv.reader(io.StringIO(said.output)))
    frame = whole(table)
    assert rows[0] == list(frame.columns)
    assert len(rows) == len(frame) + 1
    if table == "performers":
        place = rows[0].index("name")
        assert [row[place] for row in rows[1:]] == [spreadsheet_cell(name) for name in frame["name"]]


@pytest.mark.parametrize("table", TABLES)
def test_parquet_read_back_is_the_frame(data: Path, table: str) -> None:
    said = export(table, "--format", "parquet", "--to", str(data / "out.parquet"))
    assert said.exit_code == 0, said.output
    read = pq.read_table(data / "out.parquet")
    frame = whole(table).reset_index(drop=True)
    assert f"wrote {len(frame):,} rows of {table} to {data / 'out.parquet'}" in said.output
    for name in frame.columns:
        got, expected = read[name].to_pylist(), list(frame[name])
        if name == "vector":
            assert got == [each.tolist() for each in expected]
        else:
            assert got == [None if pd.isna(each) else each for each in expected]


@pytest.mark.slow
@pytest.mark.parametrize("form", TEXT)
def test_a_file_is_private_and_holds_what_is_printed(data: Path, form: str) -> None:
    path = data / "out"
    said = export("performers", "--format", form, "--to", str(path))
    assert said.exit_code == 0, said.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text(encoding="utf-8") == export("performers", "--format", form).output


@pytest.mark.parametrize("form", [*TEXT, "parquet"])
def test_an_export_that_fails_leaves_the_old_file(data: Path, any_catalog: sa.Engine, form: str) -> None:
    path = data / "out"
    path.write_text("old")
    ask_to_leave(any_catalog, "boxa:p04")
    said = export("faces", "--format", form, "--to", str(path))
    assert said.exit_code == 1
    assert "entries of the suppression list are not applied" in said.output
    assert "run stash-sense suppress apply first" in said.output
    assert path.read_text() == "old"
    assert not [each for each in data.iterdir() if each.name.endswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("with_key", [True, False])
def test_an_entry_of_the_file_that_was_not_imported_is_respected(data: Path, with_key: bool) -> None:
    if with_key:
        (data / "suppression.key").write_text(KEY.hex())
    path = data / "suppressions.yaml"
    path.write_text("- {target: 'boxa:p04', reason: asked, date: 2026-11-20}\n")
    for table in TABLES:
        said = export(table, "--format", "jsonl")
        assert said.exit_code == 1
        assert "suppressions.yaml has entries that the catalog does not know yet" in said.output
        assert "p04" not in said.output
    applied = CliRunner().invoke(main, ["suppress", "apply"])
    assert applied.exit_code == 0, applied.output
    for table in TABLES:
        said = export(table, "--format", "jsonl")
        assert said.exit_code == 0, said.output
        assert '"p04"' not in said.output
        assert "Zqperson 4 " not in said.output


def test_parquet_without_pyarrow_or_a_file_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = export("faces", "--format", "parquet")
    assert said.exit_code == 2
    assert said.output.splitlines() == ["stash-sense: Parquet is not text; give a file with --to"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = export("faces", "--format", "parquet", "--to", str(data / "out"))
    assert said.exit_code == 2
    (line,) = said.output.splitlines()
    assert "pip install 'stash-sense-pipeline[parquet]'" in line
    assert not (data / "out").exists()
