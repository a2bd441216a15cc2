"""What it costs to take over a release: verification and import, then the use of its claims, and the undo.

`bootstrap.estimate` measures two small releases and computes the memory of a large one: it grows linearly with the faces.
`bootstrap.large` takes over 366,794 faces of two embedders. To make this release takes some 10 minutes, 6 GB of memory and
8 GB of disk, so it runs only when it is named. Fetching and comparing a sample is not measured: its pace is that of the
sources.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.claims import releases
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.claimed_faces import ClaimRules, use_proven_claims
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.release.assembly import assemble_release
from stash_sense_pipeline.release.bootstrap.claim import manifest_digest_of, opened_release_files
from stash_sense_pipeline.release.bootstrap.import_release import ImportRules, import_release
from stash_sense_pipeline.release.bootstrap.undo import undo_release
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import open_staging
from stash_sense_pipeline.release.build.tattoos.tattoo_index import load_tattoos
from stash_sense_pipeline.release.build.voyager_index import IndexParams, IndexTask, stage_indices
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.promotion import refuse_errors
from stash_sense_pipeline.release.release_input import read_input
from stash_sense_pipeline.settings.schema import GlobalSettings, Settings, StashBoxSettings
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.worlds import HOSTS, PACK, SPEC

# The predecessor's release of 2026-02-18.
LARGE = 366_794
_SMALL, _SMALLER = 20_000, 40_000
_NOW = datetime(2026, 2, 18, tzinfo=UTC)
# Links as in the predecessor's indices, which the size depends on, and quickly built.
_INDEX = IndexParams(m=12, ef_construction=10)
_SPEC = replace(SPEC, index=_INDEX)
_MINUTES, _GIB = 10.0, 1.5
_KEY = b"k" * 32


def _make_release(directory: Path, faces: int) -> Path:
    """The directory of an invented release."""
    engine = fill(directory / "source.db", faces)
    staging = open_staging(directory, "made")
    stage_indices(engine, [IndexTask(model, _INDEX) for model in _SPEC.models], staging)
    stage_performers_db(engine, staging, _SPEC.database)
    tattoos = load_tattoos(engine, _SPEC.database.tattoos)
    now = read_input(engine, _SPEC, tattoos)[Flavour.FULL]
    refuse_errors(assemble_release(staging, "2026.02.18", _SPEC, now, tattoos))
    engine.dispose()
    (directory / "source.db").unlink()
    return Path(shutil.move(staging.release, directory / "2026.02.18"))


def _settings() -> Settings:
    boxes = {
        name: StashBoxSettings(name=name, url=f"https://{host}/graphql", host=host, rate_limit=60.0)
        for name, host in HOSTS.items()
    }
    return Settings(global_=GlobalSettings(), stash_boxes=boxes, reference_sites={})


def _take_over(directory: Path) -> dict[str, float]:
    begun = time.monotonic()
    with ExitStack() as stack:
        files = stack.enter_context(opened_release_files(directory / "2026.02.18", print_error))
        verified, of_verification = time.monotonic(), _peak()
        _reset_peak()
        engine = open_catalog(f"sqlite:///{directory / 'home.db'}")
        stack.callback(engine.dispose)
        rules = ImportRules(_settings(), PACK, load_suppressions(engine, _KEY), _NOW)
        report = import_release(engine, files, rules)
    ended = time.monotonic()
    return {
        "faces": report.faces,
        "verification": verified - begun,
        "verification memory": of_verification,
        "import": ended - verified,
        "import memory": _peak(),
    }


def _peak() -> int:
    """The largest resident memory of this process in bytes, since its start or `_reset_peak`."""
    (line,) = (
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def _reset_peak() -> None:
    # See proc_pid_clear_refs(5).
    Path("/proc/self/clear_refs").write_text("5")


def _use(directory: Path) -> dict[str, float]:
    """Puts all claims to use, as if a sample had proven them and the sources had listed all pictures."""
    engine = open_catalog(f"sqlite:///{directory / 'home.db'}")
    _list_pictures(engine, _release(engine, directory))
    begun = time.monotonic()
    rules = ClaimRules(PACK, 10, lambda _: False)
    used = sum(use_proven_claims(engine, source, rules, _NOW).used for source in HOSTS)
    engine.dispose()
    return {"used": used, "use": time.monotonic() - begun}


def _undo(directory: Path) -> dict[str, float]:
    engine = open_catalog(f"sqlite:///{directory / 'home.db'}")
    begun = time.monotonic()
    report = undo_release(engine, _release(engine, directory), _NOW)
    engine.dispose()
    return {"undone": report.faces, "undo": time.monotonic() - begun}


def _release(engine: sa.Engine, directory: Path) -> releases.ClaimedRelease:
    with reading(engine) as connection:
        found = releases.release_of(connection, manifest_digest_of(directory / "2026.02.18"))
    assert found is not None
    return found


def _list_pictures(engine: sa.Engine, release: releases.ClaimedRelease) -> None:
    claims = schema.claimed_faces.c
    image_id = sa.literal("i").concat(sa.cast(claims.claim_id, sa.Text))
    images = sa.select(claims.source, image_id, claims.url, sa.literal("pending"), sa.literal(0))
    listed = sa.select(claims.box, claims.box_id, image_id).where(claims.box == claims.source)
    into_images = ("source", "image_id", "url", "state", "attempts")
    with writing(engine) as connection:
        proof = {"proven_sources": list(HOSTS)}
        releases.set_state(connection, release.release_id, ClaimState.PROVEN, proof=proof)
        connection.execute(sa.insert(schema.source_images).from_select(into_images, images))
        into_listed = ("source", "source_id", "image_id")
        connection.execute(sa.insert(schema.performer_images).from_select(into_listed, listed))


def print_error(text: str) -> None:
    """Shows a line beside the table."""
    print(text, file=sys.stderr)


_TAKE_OVER = ("verification", "import")
_STEPS = {"take-over": _take_over, "use": _use, "undo": _undo}


def _measured(faces: int) -> dict[str, float]:
    """Seconds and largest resident memory of each step, by name. Each runs in a process of its own."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        # In a process of its own too, because the invented vectors take gigabytes.
        for step in ("make", *_STEPS):
            child = [sys.executable, "-m", __name__, step, home, str(faces)]
            said = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
            found |= json.loads(said)
            if step == "take-over":
                found["disk"] = sum(path.stat().st_size for path in Path(home).glob("home.db*"))
    assert found["faces"] == found["used"] == found["undone"] == faces, found
    return found


def _rows(faces: int, found: dict[str, float]) -> Iterator[Row]:
    named = f"of {faces:,} faces"
    minutes = (found["verification"] + found["import"]) / 60
    yield Row(f"bootstrap: verification {named}", found["verification"], "s")
    yield Row(f"bootstrap: import {named}", found["import"], "s")
    yield Row(f"bootstrap: both {named}", minutes, "min", _MINUTES)
    for step in _TAKE_OVER:
        yield Row(f"bootstrap: memory of the {step} {named}", found[f"{step} memory"] / 2**30, "GiB", _GIB)
    yield Row(f"bootstrap: disk for claims {named}", found["disk"] / 2**30, "GiB")
    yield Row(f"bootstrap: claims come into use {named}", found["use"], "s")
    yield Row(f"bootstrap: memory of this {named}", found["use memory"] / 2**30, "GiB", _GIB)
    yield Row(f"bootstrap: undo {named}", found["undo"], "s")
    yield Row(f"bootstrap: memory of the undo {named}", found["undo memory"] / 2**30, "GiB", _GIB)


def _estimate_rows() -> Iterator[Row]:
    small, smaller = _measured(_SMALL), _measured(_SMALLER)
    yield from _rows(_SMALLER, smaller)
    for step in _TAKE_OVER:
        name = f"{step} memory"
        a_face = (smaller[name] - small[name]) / (_SMALLER - _SMALL)
        large = smaller[name] + a_face * (LARGE - _SMALLER)
        yield Row(f"bootstrap: memory of the {step}, a face", a_face / 1024, "KiB")
        yield Row(f"bootstrap: it, {LARGE:,} faces, estimated", large / 2**30, "GiB", _GIB)


def _large_rows() -> Iterator[Row]:
    yield from _rows(LARGE, _measured(LARGE))


PARTS = {"estimate": _estimate_rows, "large": _large_rows}


def _run_step(step: str, directory: Path, faces: int) -> dict[str, Any]:
    if step == "make":
        _make_release(directory, faces)
        return {}
    found = _STEPS[step](directory)
    return {**found, f"{step} memory": _peak()}


if __name__ == "__main__":
    print(json.dumps(_run_step(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
