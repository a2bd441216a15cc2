"""A disk that is full and one that is read-only: an error of one line, and the last release is unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release

from .test_interruptions import STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount"),
]

# Mounts a small file system, copies the data there, fills it or makes it read-only (at once, or when a step of the
# publish begins), and publishes a change.
_CHILD = """
import json, os, shutil, subprocess, sys, time
from pathlib import Path

def mount(*arguments):
    # A file system is busy while another thread writes a file there.
    for _ in range(50):
        if subprocess.run(["mount", *arguments]).returncode == 0:
            return
        time.sleep(0.05)
    raise SystemExit("cannot mount")

source, place, free = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
data = place / "data"
shutil.copytree(source, data, symlinks=True)

import sqlalchemy as sa
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog, writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import SPEC

# The catalog is on another disk: only the disk of the releases is full.
engine = open_catalog(f"sqlite:///{source / 'catalog.db'}")
with writing(engine) as connection:
    face = schema.trusted_faces.c.face_id == 5
    connection.execute(sa.delete(schema.trusted_faces).where(face))
step = sys.argv[4]
if step:
    from stash_sense_pipeline_tests.release.test_interruptions import STEPS

    real = getattr(STEPS[step], step)

    def from_here(*arguments, **options):
        mount("-o", "remount,ro", str(place))
        return real(*arguments, **options)

    setattr(STEPS[step], step, from_here)
elif free < 0:
    mount("-o", "remount,ro", str(place))
else:
    room = os.statvfs(place)
    (place / "ballast").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
try:
    publish_release(engine, data, "run", SPEC, DAY)
    said = "published"
except ReleaseError as error:
    said = f"ReleaseError {error}"
except BaseException as error:
    said = repr(error)
if free < 0:
    mount("-o", "remount,rw", str(place))
shutil.rmtree(source / "releases")
shutil.copytree(data / "releases", source / "releases", symlinks=True)
staging = sorted(path.name for path in (data / "staging").iterdir()) if (data / "staging").is_dir() else []
print(json.dumps({"said": said, "staging": staging}))
"""


def publish(data: Path, tmp_path: Path, free: int, step: str = "") -> list[str]:
    """Publishes on the small disk, which must fail in one line. Returns what is left in the staging directory."""
    place = tmp_path / "small"
    place.mkdir()
    child = ["unshare", "-m", sys.executable, "-c", _CHILD, str(data), str(place), str(free), step]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["said"].startswith("ReleaseError cannot "), told
    assert "\n" not in told["said"]
    releases = data / "releases"
    assert sorted(path.name for path in releases.iterdir()) == [
        "2026.02.18",
        "2026.02.18.report",
        "latest",
        "stash-sense-data-v2026.02.18.zip",
    ]
    assert failures(verify_release(releases / "latest")) == ()
    assert failures(verify_release(releases / "stash-sense-data-v2026.02.18.zip")) == ()
    return list(told["staging"])


@pytest.mark.parametrize("free", [-1, 0, 100_000, 500_000])
def test_a_publish_on_a_full_or_read_only_disk_fails_in_one_line(
    data: Path, tmp_path: Path, free: int
) -> None:
    assert publish(data, tmp_path, free) == []


# Before `latest` is moved the new release is complete, and the next run moves it: test_interruptions.py tests that.
@pytest.mark.parametrize("step", [step for step in STEPS if step != "_point_latest"])
def test_a_disk_that_becomes_read_only_at_any_step_fails_in_one_line(
    data: Path, tmp_path: Path, step: str
) -> None:
    """The staged files stay, because nothing can be removed from the disk. The next publish removes them."""
    assert publish(data, tmp_path, -1, step) == ["run"]
