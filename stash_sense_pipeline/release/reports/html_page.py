"""Writes the blocks of a report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stash_sense_pipeline.foundation.tables.html_writer import html_lines, html_text
from stash_sense_pipeline.release.reports.document import Block, Heading, Picture, TableBlock, Text

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
img { max-width: 100%; height: auto; background: #fff; }
nav ul { columns: 18rem; }
.table { overflow-x: auto; margin: 1rem 0; position: relative; }
table { border-collapse: collapse; }
/* The heading above says the same; a screen reader needs it at the table. */
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { border: 1px solid #8888; padding: .25rem .6rem; text-align: left; vertical-align: top; }
td[data-value] { text-align: right; font-variant-numeric: tabular-nums; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
"""
# Without the script, the tables are as they were written. It turns each column name into a button that sorts.
_SCRIPT = """\
"use strict";
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const value = (row) => {
        const cell = row.cells[column];
        if (!cell) return null;
        const number = parseFloat(cell.dataset.value ?? cell.textContent);
        return Number.isNaN(number) ? cell.textContent : number;
      };
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        const both = typeof a === "number" && typeof b === "number";
        return both ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
      };
      const rows = [...table.tBodies[0].rows].sort(compare);
      if (order === "descending") rows.reverse();
      table.tBodies[0].append(...rows);
    });
  });
}
"""


def html_page(title: str, blocks: Iterable[Block], pictures: Mapping[str, bytes]) -> str:
    """The page. `pictures` has the PNG of each picture by its file name. Each row of a table is one line.

    The policy in the page lets the browser load nothing, and run only the script of this module.
    """
    found = list(blocks)
    script = base64.b64encode(hashlib.sha256(f"\n{_SCRIPT}".encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="referrer" content="no-referrer">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html_text(title)}</title>",
        f"<style>\n{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        *_opening(found),
        *(line for block in found for line in _lines(block, pictures)),
        "</main>",
        f"<script>\n{_SCRIPT}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _opening(blocks: Sequence[Block]) -> Iterator[str]:
    """Links to the sections."""
    yield '<nav aria-label="Sections"><ul>'
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            yield f'<li><a href="#{_anchor(block)}">{html_text(block.text)}</a></li>'
    yield "</ul></nav>"


def _anchor(heading: Heading) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.text.lower()).strip("-")


def _lines(block: Block, pictures: Mapping[str, bytes]) -> Iterator[str]:
    match block:
        case Heading():
            anchor = f' id="{_anchor(block)}"' if block.level == 2 else ""
            yield f"<h{block.level}{anchor}>{html_text(block.text)}</h{block.level}>"
        case Text():
            text = html_text(block.text)
            yield f"<p><strong>{text}</strong></p>" if block.strong else f"<p>{text}</p>"
        case TableBlock():
            # A wide table scrolls by itself, also by the keyboard.
            label = html_text(block.caption)
            yield f'<div class="table" role="group" aria-label="{label}" tabindex="0">'
            yield from html_lines(block.table, block.caption)
            yield "</div>"
        case Picture():
            content = base64.b64encode(pictures[block.file]).decode()
            yield f'<img alt="{html_text(block.shows)}" src="data:image/png;base64,{content}">'
