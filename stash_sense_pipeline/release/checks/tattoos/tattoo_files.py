"""Checks of the tattoo files and of the table tattoo_detections of any release, against the contract."""

from __future__ import annotations

import math
from typing import Any

from stash_sense_pipeline.foundation.json_file import SMALL, parse_json
from stash_sense_pipeline.release.build.graph.voyager_file import VoyagerFile
from stash_sense_pipeline.release.checks import index_checks
from stash_sense_pipeline.release.checks.opened_release import OpenedRelease
from stash_sense_pipeline.release.contract import (
    SIDECAR_TATTOO_K,
    TATTOO_DIMENSIONS,
    TATTOO_INDEX,
    TATTOO_JSON,
)

_ABSENT = "not in this release"


def tattoo_files(release: OpenedRelease) -> str:
    """Both files are there or neither; the ids of the index are the positions of the list, which names released people."""
    index, entries = release.directory / TATTOO_INDEX, release.directory / TATTOO_JSON
    if not index.exists() and not entries.exists():
        return _ABSENT
    if not (index.exists() and entries.exists()):
        raise ValueError(f"{TATTOO_INDEX} and {TATTOO_JSON} only work together, and one is missing")
    found: list[tuple[VoyagerFile, Any]] = []
    index_checks.loads(index, found)
    ((file, loaded),) = found
    index_checks.space(file)
    index_checks.dimensions(file, TATTOO_DIMENSIONS)
    index_checks.tombstones(file)
    index_checks.ids(file)
    index_checks.vectors(loaded, file)
    listed = release.json(TATTOO_JSON)
    if not isinstance(listed, list) or len(listed) != file.count:
        raise ValueError(f"{TATTOO_JSON} is not a list of {file.count} entries")
    for position, entry in enumerate(listed):
        if entry is not None and (
            not isinstance(entry, dict) or entry.get("universal_id") not in release.performers
        ):
            raise ValueError(f"entry {position} of {TATTOO_JSON} names a performer who is not in the release")
    return f"{file.count} tattoos"


def enough_tattoos(release: OpenedRelease) -> str:
    """The index has as many tattoos as the sidecar asks for."""
    if not all((release.directory / name).exists() for name in (TATTOO_INDEX, TATTOO_JSON)):
        return _ABSENT
    listed = release.json(TATTOO_JSON)
    count = len(listed) if isinstance(listed, list) else 0
    if count < SIDECAR_TATTOO_K:
        raise ValueError(
            f"{count} tattoos, and the sidecar asks for {SIDECAR_TATTOO_K}: each of its queries ends in a RecallError"
        )
    return f"{count} tattoos"


def tattoo_detections(release: OpenedRelease) -> str:
    """Every row lists its tattoos as the sidecar reads them, and says whether there are any."""
    count = 0
    query = "SELECT performer_id, has_tattoos, confidence, detections_json FROM tattoo_detections"
    with release.database() as connection:
        # Read row by row: all texts together may take gigabytes.
        for owner, has_tattoos, confidence, text in connection.execute(query):
            count += 1
            if confidence is not None and not _is_share(confidence):
                raise ValueError(f"the confidence of performer {owner} is not a number from 0 to 1")
            detections = [] if text is None else _listed(owner, text)
            if bool(has_tattoos) != bool(detections):
                raise ValueError(
                    f"has_tattoos of performer {owner} is {has_tattoos!r:.20} with {len(detections)} detections"
                )
    return f"{count} people"


def _listed(owner: int, text: object) -> list[Any]:
    if not isinstance(text, str):
        raise ValueError(f"detections_json of performer {owner} is not a text")
    detections = parse_json(text, SMALL)
    if not isinstance(detections, list) or not all(
        isinstance(each, dict) and isinstance(each.get("location_hint"), str) for each in detections
    ):
        raise ValueError(
            f"detections_json of performer {owner} is not a list of objects with a location_hint"
        )
    return detections


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
