"""No log record holds a key, token or password, whichever logger wrote it."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from stash_sense_pipeline.privacy.redaction.log_redaction import keep_secrets_out_of_logs, redacted

KEY = "k3y-of-a-stash-box-0123456789"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    before = logging.getLogRecordFactory()
    keep_secrets_out_of_logs([KEY, "a/secret+with signs", "short-k3y", "short-k3y-and-more"])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        (f"asking with {KEY}", (), "asking with ***"),
        ("asking with %s", (KEY,), "asking with ***"),
        ("headers: %s", ({"ApiKey": "another-unknown"},), "headers: {'ApiKey': '***'}"),
        ("GET /?api_key=abcdefgh&page=2", (), "GET /?api_key=***&page=2"),
        ("Authorization: Bearer abcdefghij", (), "Authorization: ***"),
        ("postgresql://me:pa55word@db/catalog", (), "postgresql://me:***@db/catalog"),
        ("Authorization: Basic bWU6cGE1NXdvcmQ=", (), "Authorization: ***"),
        ("STASHDB_API_KEY=abcdefgh is wrong", (), "STASHDB_API_KEY=*** is wrong"),
        ("cloning https://ghp0123456789@git.example/a", (), "cloning https://***@git.example/a"),
        ("GET /?q=a%2Fsecret%2Bwith%20signs", (), "GET /?q=***"),
        ("short-k3y and short-k3y-and-more", (), "*** and ***"),
        ("stashdb: records 10/200", (), "stashdb: records 10/200"),
        ("%d faces of %s", (3, "stashdb"), "3 faces of stashdb"),
        ("the token bucket is empty", (), "the token bucket is empty"),
    ],
)
def test_a_log_record_is_written_without_secrets(
    logged: io.StringIO, message: str, arguments: tuple[object, ...], shown: str
) -> None:
    logging.getLogger("some.library").warning(message, *arguments)
    assert logged.getvalue() == f"{shown}\n"


def test_a_traceback_is_written_without_secrets(logged: io.StringIO) -> None:
    try:
        raise RuntimeError(f"refused: {KEY}")
    except RuntimeError:
        logging.getLogger("some.library.deep").exception("failed")
    assert "refused: ***" in logged.getvalue()
    assert KEY not in logged.getvalue()


def test_a_second_call_adds_secrets_to_the_installed_redaction(logged: io.StringIO) -> None:
    assert keep_secrets_out_of_logs(["another-secret"]) is keep_secrets_out_of_logs([])
    logging.getLogger("some.library").info("%s %s", KEY, "another-secret")
    assert logged.getvalue() == "*** ***\n"


@pytest.mark.parametrize("arguments", [({"b": 1},), (1, 2)])
def test_a_log_call_with_wrong_arguments_raises_no_error(
    logged: io.StringIO, arguments: tuple[object, ...]
) -> None:
    make = logging.getLogRecordFactory()
    assert make("a.library", logging.INFO, __file__, 1, "%(a)s", arguments, None).msg == "%(a)s"


@pytest.mark.parametrize(
    "said",
    [f"key {KEY} is unknown", "key k3y%2Fof is unknown", f"apikey={KEY}", 'refused: "ab\\"cd-0123"', "https://a.example/?token=abcdefgh"],
)  # fmt: skip
def test_the_text_of_a_server_is_redacted_by_value_and_by_form(said: str) -> None:
    shown = redacted(said, [KEY, "k3y/of", 'ab"cd-0123'])
    assert "***" in shown
    assert not any(secret in shown for secret in (KEY, "k3y%2Fof", "cd-0123", "abcdefgh"))


@pytest.mark.parametrize(
    "written",
    [
        lambda key: key.lower(),
        lambda key: key.upper(),
        lambda key: key.replace("/", "\\/"),
        lambda key: json.dumps(json.dumps(key)),
        lambda key: html.escape(html.escape(key)),
        lambda key: key.replace("+", "&#43;").replace("/", "&#x2F;"),
        lambda key: quote(quote(key, safe=""), safe=""),
        lambda key: base64.b64encode(key.encode()).decode(),
    ],
)
def test_a_key_is_found_in_any_case_and_however_it_is_escaped(written: Callable[[str], str]) -> None:
    key = 'Ab/cd+ef&gh"ij<kl=01'
    assert redacted(f"refused {written(key)} here", [key]) == "refused *** here".replace(
        "***", '"\\"***\\""' if written(key).startswith('"') else "***"
    )


def test_a_text_of_many_backslashes_is_read_in_linear_time() -> None:
    started = time.process_time()
    assert redacted("\\" * 20_000 + "%25" * 5_000, ["/b+c/defgh"])
    assert time.process_time() - started < 5
