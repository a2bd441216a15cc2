"""Name folding: names in one form for comparison."""

from __future__ import annotations

import re
import unicodedata

_INSIDE_WORDS = re.compile(r"['’`.]")
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def fold_name(name: str) -> str:
    """The words of a name in alphabetical order, without case, accents and punctuation.

    For example, `Zöe SAMPLE-O'Test` becomes `otest sample zoe`.
    """
    return " ".join(sorted(folded_words(name)))


def folded_words(name: str) -> list[str]:
    """The words of a name in their order, without case, accents and punctuation."""
    text = name
    if text.isascii():
        # Most names are letters and spaces, which need no patterns.
        if text.replace(" ", "").isalpha():
            return text.lower().split()
    else:
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        # Removes only the accents of Latin, Greek and Cyrillic: the marks of Japanese kana make other letters.
        text = unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
    return _BETWEEN_WORDS.sub(" ", _INSIDE_WORDS.sub("", text.casefold())).split()
