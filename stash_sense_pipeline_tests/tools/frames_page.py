"""Runs the blocks of docs/frames.md on a catalog of invented people, and writes their output and the columns into it."""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from stash_sense_pipeline.foundation.files import sqlite_url
from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.frames.reading import dtype_of
from stash_sense_pipeline.frames.tables import TABLES
from stash_sense_pipeline_tests.release.worlds import make_catalog
from stash_sense_pipeline_tests.tools.generated_docs import DOCS

PAGE = DOCS / "frames.md"
SHOWN_URL = "sqlite:////srv/stash-sense/catalog.db"
_BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)
_COLUMNS = "## Columns\n"


def played(page: str, directory: Path) -> str:
    """The page with the output of each block below it, and with the columns of each frame at the end."""
    make_catalog(directory / "catalog.db").dispose()
    names: dict[str, Any] = {}

    def with_output(block: re.Match[str]) -> str:
        code = block["code"].replace(SHOWN_URL, sqlite_url(directory / "catalog.db"))
        shown = _run(code, names)
        output = f"\n```text\n{shown}\n```\n" if shown else ""
        return f"```python\n{block['code']}```\n{output}"

    with pd.option_context("display.width", 110, "display.max_columns", None):
        text = _BLOCK.sub(with_output, page)
    before = text.partition(_COLUMNS)[0]
    return before + "\n".join([_COLUMNS, *_columns()])


def _run(code: str, names: dict[str, Any]) -> str:
    """Runs the code as a notebook does, and returns what its last expression shows."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "docs/frames.md", "exec"), names)
    if last is None:
        return ""
    value = eval(compile(ast.Expression(last.value), "docs/frames.md", "eval"), names)  # type: ignore[attr-defined]
    lines = (str(value) if isinstance(value, pd.DataFrame | pd.Series) else repr(value)).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _columns() -> Iterator[str]:
    for name, table in TABLES.items():
        rows = [(each.name, dtype_of(each), each.meaning) for each in table.columns]
        yield from (
            f"### {name}\n",
            *markdown_lines(table_of(("column", "dtype", "what it is, or is for"), rows)),
            "",
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(played(PAGE.read_text(), Path(place)))
