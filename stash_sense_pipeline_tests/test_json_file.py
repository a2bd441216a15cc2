"""Any JSON text gives a value or an error of one line, within seconds and a bounded amount of memory."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.json_file import SMALL, JsonLimits, parse_json, read_json

LIMITS = JsonLimits(1024**2, 1000)

REFUSED: dict[str, tuple[str, str]] = {
    "cut off": ('{"a": [1,\n2', "line 2: not valid JSON"),
    "empty": ("", "line 1: not valid JSON"),
    "two values": ("[] []", "line 1: not valid JSON"),
    "deep lists": ("[" * 900 + "]" * 900, "more than 32 levels"),
    "deep and closed": ("[" * 40 + "]" * 40, "more than 32 levels"),
    "deep objects": ('{"a":' * 40 + "1" + "}" * 40, "more than 32 levels"),
    "deep objects without an end": ('{"a":' * 100_000, "more than 32 levels|more than 1000 values"),
    "many values": ("[" + "0," * 2000 + "0]", "more than 1000 values"),
    "many lists": ("[" + "[]," * 2000 + "0]", "more than 1000 values"),
    "many escaped quotes in a text without an end": (
        "[" + "," * 2000 + '"' + '\\"' * 50_000,
        "more than 1000 values",
    ),
    "many keys": ("{" + ",".join(f'"{n}":0' for n in range(2000)) + "}", "more than 1000 values"),
    "a key twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
    "a key twice by an escape": ('{"a": 1, "\\u0061": 2}', "the key 'a' is given twice"),
    "a number of many digits": ("[\n" + "9" * 100_000 + "]", "line 2: the number 99999999999999999999"),
    "a number of 21 digits": ("-" + "9" * 21, "line 1: the number"),
    "a number beyond floats": ("\n\n1e999999", "line 3: the number 1e999999"),
    "a number of many decimals": ("0." + "1" * 100_000, "line 1: the number"),
    "NaN": ("[NaN]", "line 1: the number NaN"),
    "minus infinity": ("[-Infinity]", "line 1: the number -Infinity"),
    "an unpaired surrogate": ('["\\ud800"]', "an unpaired surrogate"),
    "an unpaired surrogate in a key": ('{"\\uDC00": 1}', "an unpaired surrogate"),
    "not UTF-8": ("\n\udcff", "line 2: it is not UTF-8"),
    "a byte order mark": ("\ufeff[]", "byte order mark"),
    "as UTF-16": ("\x00[\x00]", "not valid JSON"),
    "too long": (" " * 1024**2 + "[]", "more than 1048576 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_content_beyond_the_limits_is_one_line(tmp_path: Path, name: str) -> None:
    text, complaint = REFUSED[name]
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises((ValueError, OSError), match=complaint) as caught:
        read_json(path, LIMITS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_commas_in_texts_are_not_values() -> None:
    assert parse_json(json.dumps(["," * 5000, '\\"[,' * 900]), LIMITS) == ["," * 5000, '\\"[,' * 900]


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse_json(b'["\\ud83d\\ude00"]', LIMITS) == ["\U0001f600"]


def test_a_fifo_a_device_and_a_directory_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_json(path, SMALL)


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(1024**4)
    with pytest.raises(OSError, match="has more than"):
        read_json(tmp_path / "a.json", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["[]", "{}", '""', "[0]", "1.5", '{"a":0}', "[[[]]]", '"\\u0061"', '"'])
def test_a_small_file_takes_little_memory_and_time(unit: str) -> None:
    text = "[" + ",".join([unit] * (SMALL.size // (len(unit) + 1) - 2)) + "]"
    tracemalloc.start()
    begun = time.process_time()
    try:
        parse_json(text, SMALL)
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64 * 1024**2
    assert time.process_time() - begun < 5


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.slow
@given(TREES)
def test_what_json_writes_is_read(tree: object) -> None:
    try:
        text = json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = json.dumps(tree).encode()
        with pytest.raises(ValueError, match="an unpaired surrogate"):
            parse_json(text, LIMITS)
        return
    assert parse_json(text, LIMITS) == tree


@pytest.mark.slow
@given(st.data())
def test_randomly_damaged_json_is_a_value_error_or_a_value(data: st.DataObject) -> None:
    content = bytearray(b'{"version": "2026.01.01", "checksums": {"a": "b"}, "n": [1, 2.5, null, "\\u00e9"]}')
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(
            st.sampled_from(
                [b"", b"[", b"]", b'"', b"\\", b"\\ud800", b"1e999", b"\xff", b"\x00", b"{", b"NaN"]
            )
        )
    said = ""
    try:
        json.dumps(parse_json(bytes(content), LIMITS)).encode()
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
