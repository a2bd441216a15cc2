"""Visible text: shows the control characters of text that others wrote, before it leaves the program.

A name, an id, a file name or an error text of a server can hold terminal escapes, line breaks and bidirectional marks.
They change what an operator sees. Errors, commands, logs and reports pass their text through this module.
"""

from __future__ import annotations

import re

# Control characters except tab and line feed, line and paragraph separators, bidirectional marks, invisible operators,
# interlinear annotations, tags, and lone surrogates. The joiners U+200C and U+200D are left out: words of several
# scripts need them.
_CONTROLS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_HIDDEN = re.compile(f"[{_CONTROLS}]")
_HIDDEN_IN_A_LINE = re.compile(f"[\t\n{_CONTROLS}]")


def visible(text: str) -> str:
    """The text with each hidden character as an escape such as `\\x1b` or `\\u202e`. Tabs and line feeds stay."""
    return text if text.isascii() and text.isprintable() else _HIDDEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """As `visible`, with tabs and line feeds escaped too. For a value that must stay on one line."""
    return text if text.isprintable() and text.isascii() else _HIDDEN_IN_A_LINE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
