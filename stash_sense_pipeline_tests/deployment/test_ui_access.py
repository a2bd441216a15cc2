"""Who may use the UI: hosts, origins, path prefix and password from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.deployment.ui_access import (
    parse_authority,
    read_password,
    read_ui_access,
    same_origin,
)
from stash_sense_pipeline.foundation.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def password_file(directory: Path, content: bytes = b"correct horse\n", mode: int = 0o600) -> Path:
    path = directory / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:3000", "localhost.", "127.0.0.1:3000", "127.8.9.1", "[::1]:3000", "[::1]"],
)
def test_loopback_names_are_always_hosts(host: str) -> None:
    assert read_ui_access({}, Path.cwd(), LOOPBACK).answers_to(host)


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil",
        "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0.0.0.0", "[::]", "10.0.0.5", "8.8.8.8:3000", "::1",
        "localhost:99999", "localhost:", "localhost:80:80", "localhost/", "localhost, evil.example", "lоcalhost",
        "[::1", "[::ffff:8.8.8.8]", "127.0.0.1\n", "localhost\x00", "*", ".", "..",
    ],
)  # fmt: skip
def test_a_ui_on_loopback_answers_to_no_other_name(host: str) -> None:
    assert not read_ui_access({}, Path.cwd(), LOOPBACK).answers_to(host)


def test_configured_names_and_the_address_it_listens_on_are_hosts() -> None:
    variables = {"STASH_SENSE_UI_HOSTS": " Pipeline.Example , tower.local,192.168.1.7,[2001:DB8::7]"}
    access = read_ui_access(variables, Path.cwd(), "10.0.0.5")
    for host in (
        "pipeline.example",
        "PIPELINE.example.:443",
        "tower.local:3000",
        "192.168.1.7",
        "10.0.0.5:1",
    ):
        assert access.answers_to(host)
    assert access.answers_to("[2001:db8:0::7]:3000")
    for host in ("example", "a.pipeline.example", "10.0.0.6", "192.168.1.8"):
        assert not access.answers_to(host)


def test_a_ui_on_all_addresses_answers_to_any_address_but_to_no_name() -> None:
    """A rebinding attack needs a name; which addresses a published port has is not known inside a container."""
    for bound in ("0.0.0.0", "::"):
        access = read_ui_access({}, Path.cwd(), bound)
        assert access.answers_to("192.168.1.7:3000")
        assert access.answers_to("[2001:db8::7]:3000")
        for host in ("tower.local", "evil.example", "0.0.0.0", "[::]"):
            assert not access.answers_to(host)


@pytest.mark.parametrize(
    "text", ["*", "http://x", "x:80", "a b", "x/y", "*.x", "-x", "x..y", "ü.example", "x\ty"]
)
def test_an_invalid_configured_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"STASH_SENSE_UI_HOSTS: .* is not a host name") as caught:
        read_ui_access({"STASH_SENSE_UI_HOSTS": f"good.example,{text}"}, Path.cwd(), LOOPBACK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["x", "/x/", "//x", "/x//y", "/../x", "/.", "/x y", "/x?y", "/x%2f", "http://x"]
)
def test_an_invalid_path_prefix_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="STASH_SENSE_UI_PATH_PREFIX"):
        read_ui_access({"STASH_SENSE_UI_PATH_PREFIX": text}, Path.cwd(), LOOPBACK)


def test_a_valid_path_prefix_is_accepted() -> None:
    for text in ("/pipeline", "/a/b-c_d.e~f"):
        access = read_ui_access({"STASH_SENSE_UI_PATH_PREFIX": text}, Path.cwd(), LOOPBACK)
        assert access.path_prefix == text


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1:3000", True),
        ("https://pipeline.example", "pipeline.example", True),
        ("https://pipeline.example", "pipeline.example:443", True),
        ("http://pipeline.example:80", "pipeline.example", True),
        ("HTTP://[::1]:3000", "[0:0::1]:3000", True),
        ("http://127.0.0.1:3001", "127.0.0.1:3000", False),
        ("http://localhost:3000", "127.0.0.1:3000", False),
        ("http://127.0.0.1", "127.0.0.1:3000", False),
        ("https://evil.example", "pipeline.example", False),
        ("http://127.0.0.1:3000.evil.example", "127.0.0.1:3000", False),
        ("http://evil.example#127.0.0.1:3000", "127.0.0.1:3000", False),
        ("http://evil@127.0.0.1:3000", "127.0.0.1:3000", False),
        ("null", "127.0.0.1:3000", False),
        ("", "127.0.0.1:3000", False),
        ("file://", "127.0.0.1:3000", False),
        ("chrome-extension://127.0.0.1:3000", "127.0.0.1:3000", False),
        ("127.0.0.1:3000", "127.0.0.1:3000", False),
    ],
)
def test_an_origin_is_the_same_only_with_host_and_port(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused_without_an_exception(text: str) -> None:
    parsed = parse_authority(text)
    assert parsed is None or parsed[0]
    same_origin(text, text)
    same_origin(f"http://{text}", "127.0.0.1:3000")
    read_ui_access({}, Path.cwd(), LOOPBACK).answers_to(text)


def test_the_password_is_the_line_in_its_file(tmp_path: Path) -> None:
    for content in (b"s\xc3\xbc\xc3\x9f :word", b"s\xc3\xbc\xc3\x9f :word\n", b"s\xc3\xbc\xc3\x9f :word\r\n"):
        password_file(tmp_path, content)
        access = read_ui_access({"STASH_SENSE_UI_PASSWORD_FILE": "password"}, tmp_path, LOOPBACK)
        assert access.is_password("süß :word")
        assert not any(map(access.is_password, ("", "süß :word\n", "süß", "SÜSS :WORD")))
        assert "süß" not in repr(access)
        assert repr(access.password) not in repr(access)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"   \n", "is empty"),
        (b"one\ntwo\n", "more than one line"),
        (b"a\x00b", "more than one line, or a control character"),
        (b"\xff\xfe", "is not a text file"),
        (b"x" * 5000, "larger than"),
    ],
)
def test_a_file_without_exactly_one_line_of_text_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_password(password_file(tmp_path, content))
    assert str(caught.value).startswith("STASH_SENSE_UI_PASSWORD_FILE: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o601, 0o666])
def test_a_password_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"open to other users \(mode {mode:o}\); run chmod 600"):
        read_password(password_file(tmp_path, mode=mode))


def test_a_missing_password_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_password(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_password(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigurationError, match="is not a file"):
        read_password(tmp_path / "pipe")


def test_a_password_in_the_environment_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="STASH_SENSE_UI_PASSWORD_FILE") as caught:
        read_ui_access({"STASH_SENSE_UI_PASSWORD": "hunter2hunter2"}, Path.cwd(), LOOPBACK)
    assert "hunter2" not in str(caught.value)
