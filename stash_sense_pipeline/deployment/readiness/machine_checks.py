"""Checks of the machine: versions, device, data directory, disk, clock."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stash_sense_pipeline.deployment.readiness.check import Check, State, check_of_error
from stash_sense_pipeline.faces.models.onnx_sessions import Device, require_device, require_runtime
from stash_sense_pipeline.foundation.errors import DeviceError
from stash_sense_pipeline.sources.probing.build_estimate import size_text

# Less free space than this ends a nightly run: a batch, the write-ahead log and a small release need it.
LEAST_FREE_BYTES = 1_000_000_000
# Times of a source are compared with local ones at this precision at best. Certificates fail at much larger errors.
_CLOCK_TOLERANCE = timedelta(minutes=2)
_CLOCK_LIMIT = timedelta(hours=1)
# Each name with the distributions that can provide it.
_PROGRAMS: Mapping[str, Sequence[str]] = {
    "stash-sense": ("stash-sense-pipeline",),
    "dagster": ("dagster",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


def installed_versions() -> dict[str, str | None]:
    """The version of each program that the pipeline consists of; None for one that is not installed."""
    found: dict[str, str | None] = {name: _version(names) for name, names in _PROGRAMS.items()}
    return {**found, "python": platform.python_version()}


def check_versions(versions: Mapping[str, str | None]) -> Check:
    """A problem when one of the programs is not installed."""
    missing = [name for name, number in versions.items() if number is None]
    if missing:
        return Check(
            "versions",
            State.PROBLEM,
            f"{', '.join(missing)} is not installed",
            "run `make setup`, or install the extra `cpu` or `gpu`",
        )
    return Check("versions", State.OK, ", ".join(f"{name} {number}" for name, number in versions.items()))


def check_device(
    device: Device,
    *,
    runs_elsewhere: bool,
    runtime: Callable[[Device], None] = require_runtime,
    machine: Callable[[Device], None] = require_device,
) -> Check:
    """A problem when the device cannot be used. With `runs_elsewhere` only the installed ONNX Runtime must support it.

    `runtime` and `machine` raise DeviceError, as require_runtime and require_device do.
    """
    try:
        (runtime if runs_elsewhere else machine)(device)
    except DeviceError as error:
        return check_of_error("device", error, "choose the device cpu")
    place = ", in the containers of runs" if runs_elsewhere and device is Device.CUDA else ""
    return Check("device", State.OK, f"{device.value}{place}")


def check_data_dir(directory: Path) -> Check:
    """A problem when the directory exists and this user cannot write in it; a warning when it does not exist."""
    name = "data directory"
    if not directory.is_dir():
        return Check(
            name, State.WARNING, f"{directory} does not exist", "`stash-sense prepare` or a build makes it"
        )
    user = f"{os.geteuid()}:{os.getegid()}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return Check(
            name,
            State.PROBLEM,
            f"{directory} cannot be written by user {user}",
            f"`chown -R {user} {directory}`",
        )
    return Check(name, State.OK, "can be written")


def free_bytes(directory: Path) -> int:
    """The free space of the file system that holds the directory, or will hold it."""
    place = next(place for place in (directory, *directory.parents) if place.exists())
    return shutil.disk_usage(place).free


def check_disk(free: int, needed: int | None) -> Check:
    """A problem below 1 GB, a warning when a first build needs more than is free. `needed` is None without an estimate."""
    has = f"{size_text(free)} are free"
    if free < LEAST_FREE_BYTES:
        return Check("disk", State.PROBLEM, has, "free some, or move DATA_DIR: a run needs 1 GB")
    if needed is not None and needed > free:
        return Check(
            "disk",
            State.WARNING,
            f"{has}, and a first build needs about {size_text(needed)}",
            "move DATA_DIR, or switch sources off",
        )
    return Check("disk", State.OK, has)


def check_clock(ahead: Sequence[timedelta]) -> Check | None:
    """Compares this machine's clock with that of the server that agrees with it best; None without an answer.

    `ahead` has how far the clock of each server is ahead of ours.
    """
    if not ahead:
        return None
    off = min(ahead, key=abs)
    text = f"{abs(off).total_seconds():.0f} s {'behind' if off > timedelta(0) else 'ahead of'} the sources"
    if abs(off) <= _CLOCK_TOLERANCE:
        return Check("clock", State.OK, f"agrees with the sources ({abs(off).total_seconds():.0f} s)")
    state = State.PROBLEM if abs(off) > _CLOCK_LIMIT else State.WARNING
    return Check("clock", state, text, "set the clock: `timedatectl set-ntp true`")


def _version(names: Sequence[str]) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
