"""Any YAML text gives content or errors that name the file, within seconds and a bounded amount of memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.yaml_file import parse_yaml, read_yaml

PATH = Path("a.yaml")


def bomb(levels: int, width: int = 9) -> str:
    """Each level lists the one before it `width` times."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


REFUSED: dict[str, tuple[str, str]] = {
    "an alias bomb": (bomb(12), "more than 400000 values, with aliases expanded|more than 32 levels"),
    "an alias bomb of mappings": (
        "a: &a {k: v}\n" + "\n".join(f"m{n}: &m{n} {{{', '.join(f'k{i}: *a' for i in range(999))}}}" for n in range(500)),
        "more than 400000 values",
    ),
    "a deep chain of aliases": (bomb(60, 1), "more than 32 levels, with aliases expanded"),
    "merge keys": ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "c.<<: is given twice"),
    "deep lists": ("a: " + "[" * 100_000, "1: not valid YAML: more than 32 levels"),
    "deep mappings": ("{a: " * 100_000, "1: not valid YAML: more than 32 levels"),
    "deep blocks": ("- " * 100_000, "1: not valid YAML: more than 32 levels"),
    "deep blocks by lines": ("".join(" " * n + "a:\n" for n in range(2000)), "not valid YAML: more than 32 levels"),
    "deep keys": ("? " * 100_000, "not valid YAML: more than 32 levels"),
    "many values": ("[" + "[]," * 500_000 + "]", "more than 400000 values"),
    "many lines": ("- \n" * 500_000, "more than 400000 values"),
    "many directives": ("%TAG !a! b\n" * 300_000 + "--- a", "1: not valid YAML: a line must not begin with %"),
    "a directive after another kind of line break": ("#\u2028%TAG ! b\n--- a", "a line must not begin with %"),
    "a long text": ("a: " + "x" * 200_000, "a text of more than 100000 characters"),
    "a long key": ("x" * 1000 + ": 1", "is no word"),
    "a key with a line break": ('"a\\nb": 1', "is no word"),
    "a key with an escape": ('"\\e[2J": 1', "is no word"),
    "a number in base 60": ("a: 1" + ":1" * 40_000, "1: not valid YAML: .* is too long for a number"),
    "a hexadecimal number": ("a: 0x" + "f" * 90_000, "is too long for a number"),
    "a hexadecimal number that is short": ("a: 0x" + "f" * 40, "is too large a number"),
    "a number of many digits": ("a: " + "9" * 9000, "is too long for a number"),
    "a binary number": ("a: 0b" + "1" * 60 + "11111", "is too long for a number|is too large"),
    "a time that is none": ("a: 2026-02-30", "1: not valid YAML: '2026-02-30' is not a valid value"),
    "a time with an odd zone": ("a: 2001-01-01T00:00:00+99:99", "is not a valid value"),
    "a time of year 0": ("a: 0000-01-01", "is not a valid value"),
    "a text tagged as a number": ("a: !!int x", "1: not valid YAML: the tag .* is unknown"),
    "a text tagged as a truth": ("a: !!bool x", "the tag .* is unknown"),
    "a text tagged as a time": ("a: !!timestamp x", "the tag .* is unknown"),
    "binary data": ("a: !!binary x", "the tag .* is unknown"),
    "a set": ("a: !!set {b}", "the tag .* is unknown"),
    "an object": ("a: !!python/object:os.system {}", "the tag .* is unknown"),
    "a scalar tagged as a list": ("a: !!seq x", "is not that of a text|is unknown"),
    "a NUL by an escape": ('a: "\\0"', "a text with a NUL"),
    "a NUL": ("a: \0", "not valid YAML|special characters"),
    "not UTF-8": ("a: 1\n\udcff", "2: not valid YAML: it is not UTF-8"),
    "as UTF-16": ("\udcff\udcfea\0", "it is not UTF-8"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "an alias of nothing": ("a: *b", "not valid YAML"),
    "itself": ("a: &x {b: *x}", "an alias that contains itself"),
    "an open quote": ('a: "' + "x" * 90_000, "not valid YAML"),
    "too long": ("#" * 17 * 1024**2, "cannot be read: it has more than 16777216 bytes"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_content_beyond_the_limits_is_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    text, complaint = REFUSED[name]
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    begun = time.process_time()
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        read_yaml(path).raise_problems()
    assert time.process_time() - begun < 15
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_moderate_number_of_aliases_is_expanded() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: !!str 12", PATH).data == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": "12",
    }


def test_of_many_problems_the_first_fifty_are_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_yaml("a: 1\n" * 1000, PATH).raise_problems()
    lines = str(caught.value).split("\n")
    assert lines[0] == "a.yaml: 999 errors, of which the first 50 are shown"
    assert len(lines) == 51


def test_a_fifo_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match="it is not a regular file"):
            read_yaml(path)


_READ = """
import resource, sys
from pathlib import Path
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.yaml_file import read_yaml
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_yaml(Path(sys.argv[1])).raise_problems()
except ConfigurationError:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "- a\n" * 390_000,
        "[" + "{}," * 390_000 + "]",
        "a: [" + "'x'," * 390_000 + "]",
        bomb(12),
        "- " * 8_000_000,
    ],
    ids=["lines", "mappings", "texts", "aliases", "depth"],
)
def test_the_largest_file_takes_less_than_a_gigabyte(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 1024


PIECES = st.sampled_from(
    ["a", "b: ", "- ", "? ", ": ", "[", "]", "{", "}", ", ", "&x ", "*x", "!t ", "!!int ", "|\n", ">-\n", "\n", "\n  ", "'",
     '"', "\\", "#", "%", "@", "---\n", "...\n", "<<: ", "1", "0x", ".inf", "2026-01-01", "\t", "\u2028", "\x85", "\udcff"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40))
def test_random_pieces_of_yaml_are_parsed_or_refused_in_lines(pieces: list[str]) -> None:
    said = "a.yaml:"
    try:
        file = parse_yaml("".join(pieces).encode("utf-8", "surrogateescape"), PATH)
        file.raise_problems()
    except ConfigurationError as error:
        said = str(error)
    assert said.startswith("a.yaml:")
