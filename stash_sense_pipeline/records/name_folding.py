"""Name folding: names in one form for comparison."""

from __future__ import annotations

import re
import unicodedata


def fold_name(name: str) -> str:
    """The words of a name in alphabetical order, without case, accents and punctuation.

    For example, `Zöe SAMPLE-O'Test` becomes `otest sample zoe`.
    """
    return " ".join(sorted(folded_words(name)))


def folded_words(name: str) -> list[str]:
    """The words of a name in their order, without case, accents and punctuation."""
    text = name
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        # Removes only the accents of Latin, Greek and Cyrillic: the marks of Japanese kana make other letters.
        text = unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
    words = re.sub(r"['’`.]", "", text.casefold())
    return re.sub(r"[\W_]+", " ", words).split()
