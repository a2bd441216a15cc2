"""Finds mentions of erased people in texts: names, ids and URLs, in every form that the program writes."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.records.record_key import RecordKey

# Replaces a text that named an erased person.
ERASED = "(erased)"
# A shorter ASCII text is in nearly every line. A name in another script may be one character.
_SHORTEST = 3
_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"""(?:\\x[0-9a-fA-F]{2})+|[\\%]u[0-9a-fA-F]{4}|\\U000[0-9a-fA-F]{5}|\\["'\\/bfnrt]""")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# A message may quote another message, and each level escapes the quoted text again.
_MOST_ESCAPED = 5
# Signs that replace the blanks of a name in a query, a URL or a file name.
_JOINED = str.maketrans("+_-", "   ")
# None of these characters may follow an id: `boxa:anna` is not mentioned in `boxa:anna-maria`.
_END_OF_ID = r"(?![\w.%/@+~=&-])"


def mentions(texts: Iterable[str]) -> Callable[[str], bool]:
    """Returns a function that is true for a line with one of `texts` as whole words.

    The text may be in any case, escaped as in JSON, Python, CSV, HTML or a URL, also several times, and with other signs
    for blanks. Texts of one or two ASCII characters are not searched.
    """
    wanted = {text for text in texts if len(text) >= _SHORTEST or not text.isascii()}
    # The program writes hidden characters as escapes.
    wanted |= {visible_line(text) for text in wanted}
    wanted |= {text.translate(_JOINED) for text in wanted if " " in text}
    search = _Search(wanted, r"(?!\w)")
    return lambda line: any(
        search(_as_compared(reading)) or search(_as_compared(reading.translate(_JOINED)))
        for reading in _readings(line)
    )


def mentions_records(records: Collection[RecordKey]) -> Callable[[Any], bool]:
    """Returns a function that is true for a value of a JSON or text column that names one of these records.

    A record is named by `source:id` in a text, or by a text or key that is the id.
    """
    ids = {_as_compared(source_id) for _, source_id in records}
    search = _Search((f"{source}:{source_id}" for source, source_id in records), _END_OF_ID)

    def names_one(value: Any) -> bool:
        return any(
            compared in ids or search(compared) for compared in map(_as_compared, texts_of(value)) if compared
        )

    return names_one


class _Search:
    """Searches a text for any of many texts.

    Each is searched only in texts that contain the rarest of its words: one pattern with the texts of ten thousand
    people would take minutes per megabyte.
    """

    def __init__(self, texts: Iterable[str], end: str) -> None:
        words_of = {text: _WORD.findall(text) for text in set(map(_as_compared, texts)) if text}
        counts = Counter(word for words in words_of.values() for word in words)
        self._end = end
        self._by_word: defaultdict[str, list[str]] = defaultdict(list)
        for text, words in words_of.items():
            # A text without a word is searched in every text.
            self._by_word[min(words, key=counts.__getitem__, default="")].append(text)

    def __call__(self, compared: str) -> bool:
        return any(
            re.search(rf"(?<!\w){re.escape(text)}{self._end}", compared)
            for word in {"", *_WORD.findall(compared)}
            for text in self._by_word.get(word, ())
        )


def _readings(line: str) -> Iterator[str]:
    """The line, and its forms with escapes resolved, one kind after the other, repeatedly."""
    yield line
    plain = line
    for _ in range(_MOST_ESCAPED):
        before = plain
        for without in (_unescaped, unquote, html.unescape):
            if (opened := without(plain)) != plain:
                yield opened
                plain = opened
        if plain == before:
            return


def _unescaped(text: str) -> str:
    """Resolves the escapes of JSON, Python and old JavaScript.

    Two JSON escapes are one character above U+FFFF; Python escapes may be bytes.
    """
    if "\\" not in text and "%" not in text:
        return text
    return _ESCAPE.sub(_character, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(match: re.Match[str]) -> str:
    escape = match[0][1:]
    if escape.startswith("x"):
        content = bytes.fromhex(match[0].replace("\\x", ""))
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content.decode("latin-1")
    if len(escape) > 1:
        number = int(escape[1:], 16)
        return chr(number) if number <= sys.maxunicode else match[0]
    return _ESCAPED.get(escape, escape)


def _as_compared(text: str) -> str:
    """The text without case, entities and repeated blanks, and with the bars and quotes that reports replace."""
    plain = html.unescape(text).replace("\\|", "/").replace("|", "/").replace('""', '"')
    return unicodedata.normalize("NFC", " ".join(plain.split()).casefold())


def texts_of(value: Any) -> Iterator[str]:
    """All texts of a JSON value, including the keys."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
