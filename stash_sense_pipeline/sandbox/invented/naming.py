"""Invented names and handles, in several scripts."""

from __future__ import annotations

import random
import unicodedata
from enum import Enum


class Style(Enum):
    """The script and the form of a name."""

    LATIN = "latin"
    MARKED = "marked"
    SINGLE = "single"
    THREE_PARTS = "three parts"
    KANA = "kana"
    CYRILLIC = "cyrillic"
    HANGUL = "hangul"


STYLES = (
    *(Style.LATIN,) * 11,
    *(Style.MARKED,) * 2,
    *(Style.SINGLE,) * 2,
    *(Style.THREE_PARTS,) * 1,
    *(Style.KANA,) * 3,
    *(Style.CYRILLIC,) * 1,
    *(Style.HANGUL,) * 1,
)

_ONSETS = (
    "br",
    "v",
    "z",
    "qu",
    "th",
    "kr",
    "dr",
    "fl",
    "gl",
    "m",
    "n",
    "l",
    "sk",
    "t",
    "x",
    "y",
    "j",
    "pl",
    "sw",
    "gw",
)
_VOWELS = ("a", "e", "i", "o", "u", "ae", "ia", "ei", "oo", "yo")
_ENDS = ("", "n", "r", "l", "x", "th", "sk", "m", "v", "zz")
_MARKS = {"a": "âåä", "e": "ëêė", "i": "ïî", "o": "öø", "u": "üû"}
_KANA = {
    "ゾ": "zo",
    "ミ": "mi",
    "ケ": "ke",
    "ラ": "ra",
    "ヴ": "vu",
    "ノ": "no",
    "サ": "sa",
    "ポ": "po",
    "リ": "ri",
    "ヨ": "yo",
    "テ": "te",
    "グ": "gu",
}
_CYRILLIC = ("зол", "вэк", "мур", "тру", "бло", "нэз", "гри", "хов", "пял", "шук")
_FIRST_HANGUL, _HANGUL_COUNT = 0xAC00, 11_172


def invent_name(rng: random.Random, style: Style) -> str:
    """A name of the given style."""
    match style:
        case Style.SINGLE:
            return _word(rng, 3)
        case Style.THREE_PARTS:
            return f"{_word(rng, 2)} {_word(rng, 1)} {_word(rng, 2)}"
        case Style.MARKED:
            return f"{_marked(rng, _word(rng, 2))} {_marked(rng, _word(rng, 2))}"
        case Style.KANA:
            return f"{_pick(rng, tuple(_KANA), 3)} {_pick(rng, tuple(_KANA), 3)}"
        case Style.CYRILLIC:
            return f"{_pick(rng, _CYRILLIC, 2).capitalize()} {_pick(rng, _CYRILLIC, 2).capitalize()}"
        case Style.HANGUL:
            return "".join(chr(_FIRST_HANGUL + rng.randrange(_HANGUL_COUNT)) for _ in range(4))
        case Style.LATIN:
            return f"{_word(rng, 2)} {_word(rng, 2)}"


def romanised(name: str) -> str | None:
    """The Latin spelling of a kana name, given name first; None for any other script."""
    words = name.split(" ")
    if not all(letter in _KANA for word in words for letter in word):
        return None
    return " ".join("".join(_KANA[letter] for letter in word).capitalize() for word in reversed(words))


def plain(name: str) -> str:
    """The name without diacritics."""
    decomposed = unicodedata.normalize("NFKD", name.replace("ø", "o"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def invent_handle(rng: random.Random) -> str:
    """A user name for a social site."""
    return f"{_word(rng, 2).lower()}_{_word(rng, 1).lower()}{rng.randrange(10, 9999)}"


def slug(name: str) -> str:
    """The name in a URL: its ASCII letters and digits, joined by hyphens; may be empty."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in plain(name).lower())
    return "-".join(part for part in kept.split("-") if part)


def _word(rng: random.Random, syllables: int) -> str:
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(_ENDS)).capitalize()


def _marked(rng: random.Random, word: str) -> str:
    places = [place for place, letter in enumerate(word) if letter in _MARKS]
    if not places:
        return word
    place = rng.choice(places)
    return word[:place] + rng.choice(_MARKS[word[place]]) + word[place + 1 :]


def _pick(rng: random.Random, syllables: tuple[str, ...], count: int) -> str:
    return "".join(rng.choice(syllables) for _ in range(count))
