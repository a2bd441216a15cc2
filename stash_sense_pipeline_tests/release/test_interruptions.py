"""Interrupted publishes: errors, kills and full disks at every step leave a complete release."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release import assembly, promotion, publish
from stash_sense_pipeline.release.build.staging import Staging
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import clear_leftovers
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.versions import latest_release, published_versions
from stash_sense_pipeline_tests.release.changes import (
    FIRST,
    NEXT,
    fingerprint,
    forget_a_face,
    opened,
    rename_a_performer,
)

from .conftest import DAY
from .worlds import SPEC

# The steps of a publish in order, each with the module that calls it.
STEPS = {
    "stage_indices": publish,
    "stage_performers_db": publish,
    "write_json_files": assembly,
    "write_manifest": assembly,
    "verify_release": assembly,
    "prove_release": publish,
    "write_report": promotion,
    "write_zip": promotion,
    "_point_latest": promotion,
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_leaves_the_last_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    before = fingerprint(data / "releases")

    def broken(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, broken)
        with pytest.raises((ReleaseError, OSError), match="No space left"):
            publish_release(engine, data, "broken", SPEC, DAY)
    assert fingerprint(data / "releases") == before
    assert not list((data / "staging").iterdir())
    report = publish_release(engine, data, "again", SPEC, DAY)
    assert latest_release(data / "releases") == report.path.resolve()
    assert not failures(verify_release(report.path))


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process and returns its status, as os.waitpid reports it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def die(*args: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Before each step, and after those that run beside another one or change what is published. After any other step is
# before the next.
MOMENTS = [(step, "before") for step in STEPS]
MOMENTS += [(step, "after") for step in ("write_report", "write_zip", "_point_latest")]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "moment"), MOMENTS)
def test_a_kill_at_any_step_leaves_a_whole_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    engine.dispose()
    before = fingerprint(data / "releases")
    real = getattr(STEPS[step], step)

    def killed(*args: Any, **options: Any) -> None:
        if moment == "after":
            real(*args, **options)
        die()

    monkeypatch.setattr(STEPS[step], step, killed)
    status = in_child(lambda: publish_release(opened(data), data, "killed", SPEC, DAY) and None)
    assert os.WIFSIGNALED(status)
    monkeypatch.undo()
    if (step, moment) == ("_point_latest", "after"):
        assert latest_release(data / "releases") == (data / "releases" / NEXT).resolve()
    else:
        assert fingerprint(data / "releases") == before
    check_recovery(data)


@pytest.mark.slow
@pytest.mark.parametrize("renames", [1, 2, 3, 4, 5])
def test_a_kill_between_the_renames_leaves_a_whole_release(
    data: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    engine.dispose()
    real = promotion.write_zip
    done = []

    def counting(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*args: Any) -> Any:
            # The report is written in parallel to the zip. Renames of its files do not count.
            if args[0].parent.name != "report":
                if len(done) == renames:
                    die()
                done.append(args)
            return rename(*args)

        return renamed

    def from_here(*args: Any) -> None:
        monkeypatch.setattr(Path, "rename", counting(Path.rename))
        monkeypatch.setattr(Path, "replace", counting(Path.replace))
        real(*args)

    monkeypatch.setattr(promotion, "write_zip", from_here)
    status = in_child(lambda: publish_release(opened(data), data, "killed", SPEC, DAY) and None)
    monkeypatch.undo()
    # Five renames: the finished zip, the moves of report, zip and release, and `latest`. The last case is not killed.
    assert os.WIFSIGNALED(status) == (renames < 5)
    check_recovery(data)


def check_recovery(data: Path) -> None:
    """Asserts that the next run publishes the change once and leaves no incomplete files."""
    releases = data / "releases"
    assert not failures(verify_release(latest_release(releases)))
    report = publish_release(opened(data), data, "next", SPEC, DAY)
    assert latest_release(releases) == report.path.resolve()
    assert "Renamed" in (report.path / "performers.json").read_text()
    assert not failures(verify_release(report.path))
    assert not failures(verify_release(report.archive))
    versions = published_versions(releases)
    assert versions[0] == FIRST
    assert len(versions) == 2
    expected = {"latest", *versions, *(f"stash-sense-data-v{version}.zip" for version in versions)}
    expected |= {f"{version}.report" for version in versions}
    assert {path.name for path in releases.iterdir()} == expected
    clear_leftovers(data)
    assert not list((data / "staging").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 100_000, 300_000, 600_000])
def test_a_full_disk_is_an_error_of_one_line_and_changes_nothing(data: Path, limit: int) -> None:
    engine = opened(data)
    forget_a_face(engine, 5)
    engine.dispose()
    before = fingerprint(data / "releases")
    outcome = data / "outcome"
    outcome.touch()
    descriptor = os.open(outcome, os.O_WRONLY)

    def limited() -> None:
        engine = opened(data)
        # As on a full disk, a write is truncated and then refused. Each release has a file above the limit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            publish_release(engine, data, "full", SPEC, DAY)
            text = "published"
        except ReleaseError as error:
            text = f"ReleaseError {error}"
        except BaseException as error:  # noqa: BLE001
            text = repr(error)
        os.write(descriptor, text.encode()[:900])

    in_child(limited)
    os.close(descriptor)
    text = outcome.read_text()
    assert text.startswith("ReleaseError cannot ")
    assert "\n" not in text
    assert fingerprint(data / "releases") == before
    assert not list((data / "staging").iterdir())


def test_a_directory_that_cannot_be_written_is_an_error_of_one_line(data: Path) -> None:
    engine = opened(data)
    rename_a_performer(engine)
    (data / "staging").rmdir()
    (data / "staging").write_text("not a directory")
    with pytest.raises(ReleaseError, match="cannot stage a release"):
        publish_release(engine, data, "run", SPEC, DAY)


def test_files_of_interrupted_runs_are_removed_and_published_releases_are_kept(data: Path) -> None:
    releases = data / "releases"
    (releases / "2026.02.19").mkdir()
    (releases / "stash-sense-data-v2026.02.20.zip").touch()
    (releases / "notes.txt").touch()
    (data / "staging" / "old").mkdir()
    (data / "staging" / "mine").mkdir()
    removed = clear_leftovers(data, keep_run="mine")
    assert set(removed) == {"staging/old", "releases/2026.02.19", "releases/stash-sense-data-v2026.02.20.zip"}
    assert (releases / "notes.txt").exists()
    assert (data / "staging" / "mine").exists()
    assert Staging(data / "staging" / "mine").root.is_dir()
    assert published_versions(releases) == (FIRST,)
