"""Visible text: no control character from outside reaches a terminal, a log or an error."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import stash_sense_pipeline
from stash_sense_pipeline.cli.common import echo, print_table
from stash_sense_pipeline.foundation.errors import Outcome, SourceError, StashSenseError
from stash_sense_pipeline.foundation.visible_text import visible, visible_line
from stash_sense_pipeline.privacy.redaction.log_redaction import keep_secrets_out_of_logs

PACKAGE = Path(stash_sense_pipeline.__file__).parent
TEXT = st.text(st.characters(codec=None, categories=None))
HOSTILE = "\x1b]0;title\x07\x1b[2J\r\u202egnp.exe\u2066\u200b\x9b31m\u2028\ud800"


def hidden(text: str, allowed: str = "") -> list[str]:
    """The characters of the text that a terminal interprets or does not show."""
    bidirectional = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return [
        character
        for character in text
        if character not in allowed
        and (
            unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(character) in bidirectional
        )
    ]


@given(TEXT)
def test_no_hidden_character_is_left_but_tab_and_line_feed(text):
    assert hidden(visible(text), allowed="\t\n") == []
    assert hidden(visible_line(text)) == []


@given(TEXT)
def test_visible_text_can_be_encoded_and_is_unchanged_by_a_second_pass(text):
    shown = visible(text)
    shown.encode()
    assert visible(shown) == shown


@pytest.mark.parametrize(
    "text", ["", "plain", "ä é ß", "日本語", "name with 👩\u200d🦰", "می\u200cخواهم", "a\tb\nc"]
)
def test_text_without_hidden_characters_is_unchanged(text):
    assert visible(text) == text


def test_hidden_characters_are_shown_as_escapes():
    assert visible("a\x1b[2J\u202eb\U000e0041") == "a\\x1b[2J\\u202eb\\U000e0041"
    assert visible_line("a\nb") == "a\\nb"


def test_the_text_of_an_error_holds_no_hidden_character():
    assert hidden(str(StashSenseError(HOSTILE))) == []
    assert hidden(str(SourceError("boxed", Outcome.TIMEOUT, HOSTILE))) == []


def test_a_command_prints_no_hidden_character():
    import click

    @click.command()
    def command() -> None:
        echo(HOSTILE)
        echo(HOSTILE, err=True)
        print_table([{"name": HOSTILE + "\n"}], "none")

    result = CliRunner().invoke(command)
    assert result.exception is None
    assert hidden(result.output, allowed="\n") == []
    assert len(result.output.splitlines()) == 4


def test_a_log_record_holds_no_hidden_character(caplog):
    before = logging.getLogRecordFactory()
    keep_secrets_out_of_logs([])
    try:
        with caplog.at_level(logging.WARNING):
            logging.getLogger("tested").warning("%s said %s", "boxed", HOSTILE)
        assert hidden(caplog.records[0].getMessage()) == []
    finally:
        logging.setLogRecordFactory(before)


@pytest.mark.slow
def test_only_the_echo_function_prints_to_the_terminal():
    """Output that does not pass through `visible` could show hidden characters."""
    printing = re.compile(r"click\.s?echo\(|\bprint\(|sys\.(stdout|stderr)\.write")
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "sandbox" not in path.parts and path.name != "common.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if printing.search(line) and "click.echo(visible(" not in line
    ]
    assert found == []
