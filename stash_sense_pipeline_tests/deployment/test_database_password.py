"""The password of the database: made once, taken from .env where it is given, readable for those who need it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stash_sense_pipeline.deployment.database_password import write_password
from stash_sense_pipeline.foundation.errors import ConfigurationError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The variables of the service, without a password."""
    return {
        "POSTGRES_PASSWORD_FILE": str(tmp_path / "server" / "postgres"),
        "PGPASSFILE": str(tmp_path / "data" / ".pgpass"),
    }


def stored(files: dict[str, str]) -> tuple[str, str]:
    return Path(files["POSTGRES_PASSWORD_FILE"]).read_text(), Path(files["PGPASSFILE"]).read_text()


def test_a_first_start_makes_a_password_and_the_next_keeps_it(files: dict[str, str]) -> None:
    assert write_password(files) == "password of PostgreSQL: made"
    password, clients = stored(files)
    assert len(password) == 48
    assert clients == f"*:*:*:*:{password}\n"
    assert write_password(files) == "password of PostgreSQL: the stored one"
    assert stored(files) == (password, clients)


def test_two_deployments_have_two_passwords(files: dict[str, str], tmp_path: Path) -> None:
    write_password(files)
    other = {name: value.replace(str(tmp_path), str(tmp_path / "other")) for name, value in files.items()}
    write_password(other)
    assert stored(files)[0] != stored(other)[0]


def test_the_password_of_an_older_env_file_is_used_and_stays_when_it_is_removed(
    files: dict[str, str],
) -> None:
    assert (
        write_password({**files, "POSTGRES_PASSWORD": "fromtheenvfile"})
        == "password of PostgreSQL: POSTGRES_PASSWORD of .env"
    )
    assert stored(files) == ("fromtheenvfile", "*:*:*:*:fromtheenvfile\n")
    write_password(files)
    assert stored(files)[0] == "fromtheenvfile"


def test_a_password_with_separators_is_escaped_for_the_client(files: dict[str, str]) -> None:
    write_password({**files, "POSTGRES_PASSWORD": r"a:b\c"})
    assert stored(files) == (r"a:b\c", "*:*:*:*:a\\:b\\\\c\n")


def test_only_the_owner_reads_the_file_of_the_clients_and_any_user_that_of_the_server(
    files: dict[str, str],
) -> None:
    """The client library ignores a file that others can read; the server runs as another user."""
    write_password(files)
    assert stat.S_IMODE(Path(files["PGPASSFILE"]).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(files["POSTGRES_PASSWORD_FILE"]).stat().st_mode) == 0o444


def test_a_file_that_cannot_be_written_and_a_control_character_are_errors_of_one_line(
    files: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "server").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"POSTGRES_PASSWORD_FILE: .* cannot be"):
        write_password(files)
    with pytest.raises(ConfigurationError, match="control character"):
        write_password({**files, "POSTGRES_PASSWORD": "a\tb"})


@pytest.mark.slow
def test_the_service_prints_what_it_did_or_one_line_that_says_what_is_wrong(
    files: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "stash_sense_pipeline.deployment.database_password"]
    done = subprocess.run(
        command, env={**os.environ, **files}, capture_output=True, text=True, check=False, timeout=240
    )
    assert (done.returncode, done.stdout) == (0, "password of PostgreSQL: made\n"), done.stderr
    assert stored(files)[0]
    broken = {**files, "POSTGRES_PASSWORD_FILE": str(tmp_path / "data" / ".pgpass" / "postgres")}
    failed = subprocess.run(
        command, env={**os.environ, **broken}, capture_output=True, text=True, check=False, timeout=240
    )
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("stash-sense: POSTGRES_PASSWORD_FILE: ")
