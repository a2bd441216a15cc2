"""What one run may set differently: each option declared once, for the command line, the Launchpad and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stash_sense_pipeline.settings.rules import A_FLAG, COUNT

_NAMES = "names of sources"


@dataclass(frozen=True)
class Flag:
    """A switch of the command line that gives an option one value."""

    spelling: str
    value: Any
    help: str


@dataclass(frozen=True)
class RunOption:
    """One option of a run.

    `rule`: the allowed values in words. `least`: the smallest allowed number. `choices`: the allowed words. `spelling`:
    the option of `stash-sense build`, or empty; with `repeats` it may be given several times. `flags`: switches in place
    of the spelling. `launchpad`: where the run configuration of Dagster has it, as step.field.
    """

    name: str
    help: str
    rule: str
    default: Any = None
    least: int | None = None
    choices: tuple[str, ...] = ()
    spelling: str = ""
    repeats: bool = False
    flags: tuple[Flag, ...] = ()
    launchpad: tuple[str, ...] = ()


def _count(name: str, help_: str, *launchpad: str) -> RunOption:
    spelling = f"--{name.replace('_', '-')}"
    return RunOption(name, help_, COUNT, least=1, spelling=spelling, launchpad=launchpad)


_ALL = (
    RunOption(
        "sources",
        "Names of sources, as in a,b: only these are refreshed, also those that sources.yaml has switched off.",
        _NAMES,
        default=(),
        spelling="--sources",
    ),
    RunOption(
        "disabled_sources",
        "Name of a source to leave out.",
        _NAMES,
        default=(),
        spelling="--disable-source",
        repeats=True,
    ),
    RunOption(
        "source_max_faces",
        "Limit of faces of a performer from one source, as in stashdb=10.",
        f"{COUNT} for each name of a source, as in stashdb=10",
        default=MappingProxyType({}),
        spelling="--source-max-faces",
        repeats=True,
        launchpad=("trusted_faces.source_max_faces",),
    ),
    RunOption(
        "max_faces",
        "Limit of faces of a performer from this source; unset: max_faces of sources.yaml.",
        COUNT,
        least=1,
        launchpad=("aligned_faces.max_faces",),
    ),
    _count(
        "max_faces_total",
        "Limit of faces of a performer from all sources.",
        "aligned_faces.max_faces_total",
        "trusted_faces.max_faces_total",
    ),
    RunOption(
        "reference_mode",
        "How reference sites find a performer: by the link that a stash-box lists, or by name.",
        "one of url, name",
        choices=("url", "name"),
        spelling="--reference-mode",
        launchpad=("performer_table.reference_mode",),
    ),
    RunOption(
        "sync",
        "auto: a first full read, later only changes, and a sweep when one is due; updates_only: only changes; "
        "full_sweep: compare every record with the source.",
        "one of auto, updates_only, full_sweep",
        default="auto",
        choices=("auto", "updates_only", "full_sweep"),
        flags=(
            Flag("--sync-updates-only", "updates_only", "Read only what changed since the last time."),
            Flag("--full-sweep", "full_sweep", "Compare every record with its source."),
        ),
        launchpad=("performer_table.sync",),
    ),
    _count(
        "completeness_threshold",
        "A performer with this many faces is complete: only new images are fetched.",
        "aligned_faces.completeness_threshold",
    ),
    _count(
        "max_performers",
        "A trial: read at most this many records of each stash-box. A later build goes on.",
        "performer_table.max_performers",
    ),
    _count(
        "max_images",
        "A trial: fetch at most this many images of each source. The others wait for a later build.",
        "aligned_faces.max_images",
    ),
    _count(
        "jobs", "Most sources at once; by default all that have different hosts. Needs about 300 MB each."
    ),
    RunOption(
        "faces",
        "false: records and identities only, no images and no release.",
        A_FLAG,
        default=True,
        flags=(Flag("--no-faces", False, "Records and identities only: no images, no release."),),
    ),
    RunOption(
        "fast_index",
        "Use all cores for each index: faster, but two builds do not give the same bytes.",
        A_FLAG,
        default=False,
        flags=(
            Flag(
                "--fast-index",
                True,
                "Use all cores for each index: faster, but two builds do not give the same bytes.",
            ),
        ),
        launchpad=("indices.fast",),
    ),
    RunOption(
        "accept_shrink",
        "Publish although performers or faces are missing without an explanation.",
        A_FLAG,
        default=False,
        flags=(
            Flag(
                "--accept-shrink",
                True,
                "Publish although performers or faces are missing without an explanation.",
            ),
        ),
        launchpad=("release.accept_shrink",),
    ),
    RunOption(
        "device",
        "Where faces are embedded; unset: STASH_SENSE_DEVICE, else cpu. cuda without a GPU fails, without fallback.",
        "cpu or cuda",
        launchpad=("face_embeddings.device",),
    ),
    RunOption(
        "batch_size",
        "Faces in one batch. A batch is one transaction.",
        COUNT,
        default=64,
        least=1,
        launchpad=("face_embeddings.batch_size",),
    ),
    RunOption(
        "m",
        "HNSW M: links of a node; unset: index.m of sources.yaml, else the cheapest that passes.",
        "a whole number of links from 4 to 512",
        least=4,
        launchpad=("indices.m", "release.m"),
    ),
    RunOption(
        "ef_construction",
        "HNSW ef_construction: candidates for a link; unset: that of sources.yaml, else the cheapest that passes.",
        "a whole number from 10 to 5000",
        least=10,
        launchpad=("indices.ef_construction", "release.ef_construction"),
    ),
)
RUN_OPTIONS: Mapping[str, RunOption] = MappingProxyType({option.name: option for option in _ALL})


def command_options() -> tuple[RunOption, ...]:
    """The options that `stash-sense build` has, in the order of its help."""
    return tuple(option for option in _ALL if option.spelling or option.flags)
