"""A disk that is full and one that is read-only: an error of one line, and the last release is unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import ReleaseReport

from .test_interruptions import STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount"),
]

# The free bytes of the disk when the publish begins; -1 for a disk that is read-only from then on.
FREE = (-1, 0, 100_000, 500_000)
# The disk becomes read-only when a step begins. Before `latest` is moved the new release is complete, and the next run
# moves it: test_interruptions.py tests that.
AT_STEPS = tuple(step for step in STEPS if step != "_point_latest")

# Publishes a change on a small disk for each case, which is free bytes and a step. Each disk is a file system in memory
# with a copy of the data. Prints what was said and what stayed, and keeps the releases.
_CHILD = """
import json, os, shutil, subprocess, sys, time
from pathlib import Path

def mount(*arguments):
    # A file system is busy while another thread writes a file there.
    until = time.monotonic() + 200
    while time.monotonic() < until:
        if subprocess.run(["mount", *arguments]).returncode == 0:
            return
        time.sleep(0.02)
    raise SystemExit("cannot mount")

import sqlalchemy as sa
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.quick_publishes import quick_publishes
from stash_sense_pipeline_tests.release.test_interruptions import STEPS
from stash_sense_pipeline_tests.release.worlds import SPEC

source, here = Path(sys.argv[1]), Path(sys.argv[2])
# The catalog is on another disk: only the disk of the releases is full.
engine = open_catalog(f"sqlite:///{shutil.copy2(source / 'catalog.db', here)}")
with writing(engine) as connection:
    face = schema.trusted_faces.c.face_id == 5
    connection.execute(sa.delete(schema.trusted_faces).where(face))

def publish(place, data, free, step):
    real = getattr(STEPS[step], step) if step else None

    def from_here(*arguments, **options):
        mount("-o", "remount,ro", str(place))
        return real(*arguments, **options)

    if step:
        setattr(STEPS[step], step, from_here)
    elif free < 0:
        mount("-o", "remount,ro", str(place))
    else:
        room = os.statvfs(place)
        (place / "ballast").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
    try:
        publish_release(engine, data, "run", SPEC, DAY)
        return "published"
    except ReleaseError as error:
        return f"ReleaseError {error}"
    except BaseException as error:
        return repr(error)
    finally:
        if step:
            setattr(STEPS[step], step, real)
        mount("-o", "remount,rw", str(place))

told = {}
for number, (free, step) in enumerate(json.loads(sys.argv[3])):
    place = here / f"disk {number}"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
    data = place / "data"
    shutil.copytree(source, data, symlinks=True)
    with quick_publishes():
        said = publish(place, data, free, step)
    kept = here / f"kept {number}"
    shutil.copytree(data / "releases", kept, symlinks=True)
    staging = sorted(path.name for path in (data / "staging").iterdir()) if (data / "staging").is_dir() else []
    told[f"{free} {step}"] = {"said": said, "staging": staging, "releases": str(kept)}
    subprocess.run(["umount", "-l", str(place)], check=True)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def outcomes(world: tuple[Path, ReleaseReport], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with mounts of its own says for each case."""
    cases = [*((free, "") for free in FREE), *((-1, step) for step in AT_STEPS)]
    here = tmp_path_factory.mktemp("disks")
    child = ["unshare", "-m", sys.executable, "-c", _CHILD, str(world[0]), str(here), json.dumps(cases)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def check(told: dict[str, Any]) -> None:
    """Asserts that the publish failed in one line, and that the last release is whole."""
    assert told["said"].startswith("ReleaseError cannot "), told
    assert "\n" not in told["said"]
    releases = Path(told["releases"])
    assert sorted(path.name for path in releases.iterdir()) == [
        "2026.02.18",
        "2026.02.18.report",
        "latest",
        "stash-sense-data-v2026.02.18.zip",
    ]
    assert failures(verify_release(releases / "latest")) == ()
    assert failures(verify_release(releases / "stash-sense-data-v2026.02.18.zip")) == ()


@pytest.mark.parametrize("free", FREE)
def test_a_publish_on_a_full_or_read_only_disk_fails_in_one_line(outcomes: dict[str, Any], free: int) -> None:
    told = outcomes[f"{free} "]
    check(told)
    assert told["staging"] == []


@pytest.mark.parametrize("step", AT_STEPS)
def test_a_disk_that_becomes_read_only_at_any_step_fails_in_one_line(
    outcomes: dict[str, Any], step: str
) -> None:
    """The staged files stay, because nothing can be removed from the disk. The next publish removes them."""
    told = outcomes[f"-1 {step}"]
    check(told)
    assert told["staging"] == ["run"]
