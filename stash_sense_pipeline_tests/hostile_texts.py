"""Texts that mean something to a spreadsheet, to Markdown, to HTML or to a terminal, for every writer of tables."""

from __future__ import annotations

HOSTILE = {
    "a formula": '=HYPERLINK("https://evil.example","x")',
    "a formula with plus": "+1+cmd|' /C calc'!A0",
    "a formula with minus": "-2+3",
    "a formula with at": "@SUM(A1)",
    "a formula behind a tab": "\t=1",
    "a formula behind a line": "\r\n=1",
    "a full-width formula": "\uff1d1",
    "cells of a table": "one|two || three",
    "a line of a table": "a\nb | c |\n|---|---|\n| d",
    "marks of Markdown": "*a* _b_ __c__ `d` ~~e~~ # f",
    "a link of Markdown": "[a](javascript:alert(1)) ![b](https://evil.example/x.png)",
    "escapes": r"\\ \| \n \x1b",
    "a tag": "<script>alert(1)</script><b onclick=x>",
    "an end of the cell": '</td></tr></table><img src="x" onerror=alert(1)>',
    "a reference": "&lt;b&gt; &#60; &amp;amp;",
    "quotes": "quo\"te, comma; semi'colon",
    "a colour of a terminal": "\x1b[31mred\x1b]0;title\x07",
    "zero bytes": "a\x00b\x7f\x9b",
    "right to left": "right\u202eleft \u2066isolated",
    "separators": "a\u2028b\u2029c\x85d\x1ce",
    "tags of Unicode": "flag\U000e0041",
    "a lone surrogate": "lone\ud800",
    "a byte order mark": "\ufeff=1",
    "nothing": "",
    "blanks": "   ",
    "None": "None",
    "a number": "1e5",
}
