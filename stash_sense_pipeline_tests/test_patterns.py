"""Every regular expression of the package takes linear time on any text."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import stash_sense_pipeline
from stash_sense_pipeline.records import profile_sites

PACKAGE = Path(stash_sense_pipeline.__file__).parent
METHODS = ("match", "search", "fullmatch", "sub", "split", "findall", "finditer")
# The slowest linear expression takes a thirtieth of this for the longest text, a quadratic one four times as long.
SECONDS = 0.4
LENGTHS = (20, 200, 2_000, 40_000)
# A branch with more repetitions than this counts as unbounded.
MANY = 500


@dataclass(frozen=True)
class Use:
    """A regular expression and the method that is called with a text."""

    where: str
    pattern: str | bytes
    flags: int
    method: str


def uses() -> list[Use]:
    """The regular expressions of the package: constants with their uses in all modules, and literals in calls."""
    found: dict[tuple[str | bytes, int, str], Use] = {}
    texts = {
        path: path.read_text()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "sandbox" not in path.parts and "migrations" not in path.parts
    }
    # To parse all modules takes a second at each start of the tests.
    calls = tuple(f".{method}(" for method in METHODS)
    trees = {path: ast.parse(text) for path, text in texts.items() if any(call in text for call in calls)}
    constants: dict[str, list[tuple[str, str | bytes, int]]] = {}
    for module in pkgutil.walk_packages([str(PACKAGE)], f"{PACKAGE.name}."):
        if ".sandbox" in module.name or "migrations" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern):
                constants.setdefault(name, []).append((module.name, value.pattern, value.flags))
    for path, tree in trees.items():
        module_name = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            method, owner = node.func.attr, node.func.value
            if method not in METHODS or not isinstance(owner, ast.Name):
                continue
            if owner.id == "re":
                literal = _literal(node.args[0])
                if literal is not None:
                    flags = re.IGNORECASE if "IGNORECASE" in ast.unparse(node) else 0
                    where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                    found[(literal, flags, method)] = Use(where, literal, flags, method)
            for origin, pattern, flags in constants.get(owner.id, []):
                if origin == module_name:
                    found[(pattern, flags, method)] = Use(f"{origin}.{owner.id}", pattern, flags, method)
    for site in profile_sites.SITES:
        for form in site.forms:
            pattern = form.pattern
            found[(pattern.pattern, pattern.flags, "fullmatch")] = Use(
                f"profile_urls.{site.name}", pattern.pattern, pattern.flags, "fullmatch"
            )
    return list(found.values())


def _literal(node: ast.expr) -> str | bytes | None:
    """A literal pattern. In a formatted string, a plain word replaces each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "word" for part in node.values)
    return None


def attacks(pattern: str | bytes, flags: int) -> set[tuple[str, str, str]]:
    """Texts as (beginning, part that is repeated, end): a beginning that matches up to each repetition in the
    pattern, then what it repeats, and an end that fits nowhere.
    """
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    found: set[tuple[str, str, str]] = set()

    def walk(items: Any, before: str) -> str:
        for code, value in items:
            if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
                low, high, inner = value
                body = walk(inner, before)
                if high is codes.MAXREPEAT or high >= MANY:
                    single = _samples(inner)
                    # Also words of one character, as any two of them have a word boundary between them.
                    # Also the part before it: each beginning may search for a missing end.
                    units = {
                        body,
                        before,
                        before + body,
                        *single,
                        *("a" + each for each in single if "a" in single and each in "./-:= "),
                    }
                    for unit in units:
                        for start in {before, "", before[-1:]}:
                            found.update((start, unit, end) for end in ("\x00", "", "!", "\n", unit + "\x00"))
                before += body * max(low, 1)
            elif code is codes.SUBPATTERN:
                before += walk(value[3], before)
            elif code is codes.BRANCH:
                before += next(iter([walk(branch, before) for branch in value[1]]))
            elif code in (codes.ASSERT, codes.ASSERT_NOT):
                walk(value[1], before)
            elif code is codes.ATOMIC_GROUP:
                before += walk(value, before)
            else:
                before += next(iter(_samples([(code, value)])), "")
        return _shortest(items)

    walk(parser.parse(text, flags & re.VERBOSE), "")
    return {attack for attack in found if attack[1]}


def _shortest(items: Any) -> str:
    out = ""
    for code, value in items:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            out += _shortest(value[2]) * max(value[0], 1)
        elif code is codes.SUBPATTERN:
            out += _shortest(value[3])
        elif code is codes.BRANCH:
            out += _shortest(value[1][0])
        elif code is codes.ATOMIC_GROUP:
            out += _shortest(value)
        else:
            out += next(iter(_samples([(code, value)])), "")
    return out


_PROBES = "a A0_ .-/:%@#?&=+,;|()[]{}<>'\"\\~\t\n\u00e9"
_CLASSES = {
    codes.CATEGORY_DIGIT: "0",
    codes.CATEGORY_WORD: "a",
    codes.CATEGORY_SPACE: " ",
    codes.CATEGORY_NOT_DIGIT: "a",
    codes.CATEGORY_NOT_WORD: "-",
    codes.CATEGORY_NOT_SPACE: "a",
}


def _samples(items: Any) -> list[str]:
    """Characters that a single element of a pattern takes, of several kinds where it takes several."""
    out: list[str] = []
    for code, value in items:
        if code is codes.LITERAL:
            out.append(chr(value))
        elif code is codes.NOT_LITERAL:
            out += [probe for probe in "a /" if ord(probe) != value]
        elif code is codes.ANY:
            # A quoted text may be unterminated, and each of its escaped quotes may begin another one.
            out += ["a", " ", "/", '"']
        elif code is codes.CATEGORY:
            out.append(_CLASSES[value])
        elif code is codes.IN:
            out += [probe for probe in _PROBES if _takes(value, probe)]
        elif code is codes.SUBPATTERN:
            out += _samples(value[3])
        elif code is codes.BRANCH:
            out += [_shortest(branch) for branch in value[1]]
    return out


def _takes(members: Any, character: str) -> bool:
    negated = members[0][0] is codes.NEGATE
    inside = any(
        (code is codes.LITERAL and value == ord(character))
        or (code is codes.RANGE and value[0] <= ord(character) <= value[1])
        or (code is codes.CATEGORY and re.match(_CATEGORY_TEXT[value], character) is not None)
        for code, value in members
    )
    return inside != negated


_CATEGORY_TEXT = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_NOT_WORD: r"\W",
    codes.CATEGORY_NOT_SPACE: r"\S",
}


class TooSlowError(Exception):
    """A text took longer than the limit."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooSlowError after so much CPU time. The `re` engine checks for signals while it runs."""

    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def slow_text(use: Use) -> str | None:
    """A description of an attack that takes too long, or None."""
    compiled = re.compile(
        use.pattern, use.flags & ~re.UNICODE if isinstance(use.pattern, bytes) else use.flags
    )
    for start, unit, end in sorted(attacks(use.pattern, use.flags)):
        for length in LENGTHS:
            text: Any = start + unit * (length // len(unit)) + end
            if isinstance(use.pattern, bytes):
                text = text.encode("latin-1", "replace")
            arguments = ("", text) if use.method == "sub" else (text,)
            call = partial(_is_slow, getattr(compiled, use.method), arguments)
            # Other threads and the garbage collector take processor time too.
            if call() and call():
                return f"{start!r} + {unit!r} * {length // len(unit)} + {end!r}"
    return None


def _is_slow(method: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    begun = time.process_time()
    try:
        with within(SECONDS):
            result = method(*arguments)
            if isinstance(result, Iterator):
                list(result)
    except TooSlowError:
        return True
    # A search with many short matches does not check for signals between them.
    return time.process_time() - begun > SECONDS


USES = uses()


@pytest.mark.slow
@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where}-{use.method}")
def test_a_regular_expression_takes_linear_time(use: Use) -> None:
    assert slow_text(use) is None


def test_the_expressions_of_the_package_are_found() -> None:
    assert len(USES) > 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"https?://[^\s/@]+\.?[^\s/@]*/\S+", "fullmatch"),
        (r"(a+)+b", "match"),
        (r"\s+$", "sub"),
        (r"[a-z]+@", "search"),
        (r"(\w+\s?)*!", "match"),
        (r"/\*.*?\*/", "sub"),
    ],
)
def test_the_attacks_find_expressions_that_are_known_to_be_slow(pattern: str, method: str) -> None:
    assert slow_text(Use("", pattern, re.DOTALL, method)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("length", [200_000, 2_000_000])
def test_a_long_target_of_a_suppression_is_refused_at_once(length: int) -> None:
    from stash_sense_pipeline.foundation.errors import ConfigurationError
    from stash_sense_pipeline.privacy.suppression.suppression_file import check_target

    begun = time.process_time()
    for text in ("http://" + "a" * length, "a" * length + ":", "sealed:" + "0" * length, "s:" + "x" * length):
        with pytest.raises(ConfigurationError):
            check_target(text, ["stashdb"])
    assert time.process_time() - begun < 1
