"""Every writer of tables shows any text as text: no formula, no markup, no second line, no control character."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import dagster as dg
import markdown
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.tables.csv_writer import csv_text
from stash_sense_pipeline.foundation.tables.html_writer import html_lines
from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.foundation.tables.spreadsheet_cells import spreadsheet_cell
from stash_sense_pipeline.foundation.tables.table import Table, one_line, table_of
from stash_sense_pipeline.foundation.visible_text import visible, visible_line
from stash_sense_pipeline.orchestration.table_metadata import table_metadata
from stash_sense_pipeline.privacy.redaction.mentions import mentions
from stash_sense_pipeline_tests.hostile_texts import HOSTILE

COLUMNS = ("name", "number", "share")
FORMATS = {"share": ".1%"}
WRITERS = {
    "CSV": lambda table: csv_text(table).rstrip("\n").split("\n"),
    "Markdown": markdown_lines,
    "HTML": lambda table: html_lines(table, "A caption"),
    "Dagster": lambda table: [str(row.data) for row in table_metadata(table).records],
}


class Cells(HTMLParser):
    """The texts of the cells of a page, and all tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.tags[-1][0] in ("td", "th"):
            self.rows[-1][-1] += data


def of(text: str) -> Table:
    return table_of(COLUMNS, [(text, 7, 0.25), ("last", 8, None)], FORMATS)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_hostile_text_is_one_line_without_control_characters(writer: str, text: str) -> None:
    lines = WRITERS[writer](of(text))
    harmless = WRITERS[writer](of("Ann"))
    assert len(lines) == len(harmless)
    for line in lines:
        assert visible_line(line) == line
        assert "\n" not in line


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("writer", ["CSV", "Markdown", "HTML"])
def test_an_erasure_finds_a_hostile_name_as_each_writer_writes_it(writer: str, text: str) -> None:
    name = f"Mira {text} Quill"
    found = [line for line in WRITERS[writer](of(name)) if mentions([name])(line)]
    assert len(found) == 1


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_markdown_is_rendered_as_the_text_itself(text: str) -> None:
    lines = markdown_lines(of(text))
    page = Cells(markdown.markdown("\n".join(lines), extensions=["tables"]))
    assert {tag for tag, _ in page.tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert {names for _, names in page.tags} == {()}
    assert [row[0].strip() for row in page.rows] == ["name", one_line(text), "last"]
    assert [[cell.strip() for cell in row[1:]] for row in page.rows[1:]] == [["7", "25.0%"], ["8", ""]]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_html_holds_the_text_itself_and_no_tag_of_it(text: str) -> None:
    page = Cells("\n".join(html_lines(of(text), text)))
    assert {tag for tag, _ in page.tags} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, names in page.tags for name in names} == {"scope", "data-value"}
    assert [row[0] for row in page.rows] == ["name", one_line(text), "last"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_metadata_holds_the_visible_text_and_plain_numbers(text: str) -> None:
    value = table_metadata(of(text))
    assert [dict(row.data) for row in value.records] == [
        {"name": one_line(text), "number": 7, "share": "25.0%"},
        {"name": "last", "number": 8, "share": None},
    ]
    assert [column.type for column in value.schema.columns] == ["string", "int", "string"]


def test_metadata_without_rows_has_the_columns() -> None:
    value = table_metadata(table_of(COLUMNS, []))
    assert value.records == []
    assert [column.name for column in value.schema.columns] == list(COLUMNS)
    assert isinstance(value, dg.TableMetadataValue)


def test_an_empty_table_says_so_in_a_report_and_keeps_its_columns_in_csv() -> None:
    table = table_of(COLUMNS, [])
    assert markdown_lines(table) == ["None."]
    assert html_lines(table, "x") == ["<p>None.</p>"]
    assert csv_text(table) == '"name","number","share"\n'


CELLS = st.one_of(
    st.none(),
    st.text(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.text(), CELLS, st.integers(-(2**62), 2**62), st.floats(-1e300, 1e300))))
def test_csv_read_back_equals_the_table(rows: list[tuple[object, ...]]) -> None:
    table = table_of(("text", "mixed", "whole", "number"), rows)
    written = csv_text(table)
    assert visible(written) == written
    read = list(csv.reader(io.StringIO(written)))
    assert read[0] == ["text", "mixed", "whole", "number"]
    for row, line in zip(rows, read[1:], strict=True):
        text, mixed, whole, number = row
        assert line[0] == spreadsheet_cell(str(text))
        assert int(line[2]) == whole
        assert float(line[3]) == number
        if isinstance(mixed, bool):
            assert line[1] == ("yes" if mixed else "no")
        elif isinstance(mixed, int | float):
            assert type(mixed)(line[1]) == mixed
        else:
            assert line[1] == ("" if mixed is None else spreadsheet_cell(mixed))
    assert not any(cell[:1] in ("=", "@", "\uff1d", "\t", "\r") for line in read for cell in line)
    again = pd.read_csv(io.StringIO(written), keep_default_na=False, dtype={"text": str, "mixed": str})
    if rows:
        assert again["whole"].tolist() == [row[2] for row in rows]


@pytest.mark.slow
@given(st.text(), st.integers(), st.floats())
def test_a_table_of_any_cells_has_as_many_lines_as_rows(text: str, whole: int, number: float) -> None:
    table = table_of(("a", "b", "c"), [(text, whole if abs(whole) < 2**63 else 0, number)] * 3)
    assert len(markdown_lines(table)) == 5
    assert len(html_lines(table, text)) == 7
    assert len(csv_text(table).splitlines()) == 4


def test_whole_numbers_beside_missing_ones_stay_whole() -> None:
    table = table_of(("a", "b"), [(None, 1), (3, 2)])
    assert markdown_lines(table)[2:] == ["|  | 1 |", "| 3 | 2 |"]
    assert str(table.frame["b"].dtype) == "int64"
