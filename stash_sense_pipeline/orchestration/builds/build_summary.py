"""The summary of a build on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stash_sense_pipeline.foundation.progress import duration_text
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.builds.build import BuildResult, PartResult, Status


def summary_lines(part: PartResult) -> Iterator[str]:
    """The lines for one part. For a skipped or failed part they say why."""
    if part.status is not Status.DONE:
        yield f"{part.name}: {part.status} - {part.reason}"
        return
    described = {key.to_user_string(): describe for key, describe in _DESCRIPTIONS.items()}
    texts = [describe(part.metadata[key]) for key, describe in described.items() if key in part.metadata]
    yield f"{part.name}: " + "; ".join(texts)
    for check in part.failed_checks:
        yield f"{part.name}: the check {check} failed; the page of the asset has the numbers"
    release = part.metadata.get(names.RELEASE.to_user_string())
    if release:
        yield from _release_lines(release)


def closing_lines(result: BuildResult, completeness: tuple[int, int] | None) -> Iterator[str]:
    """The lines at the end of a build: where the time went, and how many performers are complete.

    `completeness`: the number of performers with enough faces and of those without, or None.
    """
    times = _times(result)
    if times:
        yield "time: " + ", ".join(f"{kind} {duration_text(seconds)}" for kind, seconds in times.items())
    if completeness is not None:
        complete, incomplete = completeness
        yield f"performers: {complete:,} complete, {incomplete:,} with fewer faces than completeness_threshold"


def _times(result: BuildResult) -> dict[str, float]:
    """Seconds by kind of work over all sources. Sources run side by side, so the sum may exceed the duration."""
    kinds = {
        "asking": (names.PERFORMER_TABLE, "seconds"),
        "fetching": (names.ALIGNED_FACES, "seconds_fetching"),
        "detecting": (names.ALIGNED_FACES, "seconds_detecting"),
        "searching": (names.ALIGNED_FACES, "seconds_searching"),
        "writing": (names.ALIGNED_FACES, "seconds_writing"),
        "embedding": (names.FACE_EMBEDDINGS, "seconds"),
    }
    sums = {
        kind: sum(part.metadata.get(key.to_user_string(), {}).get(field, 0.0) for part in result.parts)
        for kind, (key, field) in kinds.items()
    }
    return {kind: seconds for kind, seconds in sums.items() if seconds}


def _records(of: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{of[key]} {key}" for key in ("added", "updated", "merged", "removed") if of[key])
    left_out = of["suppressed"] + of["not_adult"]
    other_gender = of.get("other_gender", 0)
    notes = (
        f"{left_out} left out" if left_out else "",
        f"{other_gender} of other genders" if other_gender else "",
    )
    note = "".join(f", {text}" for text in notes if text)
    return f"{of['live']} performers ({changes or 'nothing new'}{note})"


def _faces(of: Mapping[str, Any]) -> str:
    rejected = sum(of["rejected"].values())
    failed = sum(of["failed"].values())
    looked_at = of["done"] + rejected + failed + of["gone"]
    return f"{of['faces']} faces from {looked_at} images ({rejected} rejected, {failed} failed)"


def _embeddings(of: Mapping[str, Any]) -> str:
    return f"{of['embedded']} embedded"


def _identities(of: Mapping[str, Any]) -> str:
    return f"{of['identities']} people, {of['joined_sources']} of them on two sources or more"


def _trusted(of: Mapping[str, Any]) -> str:
    return f"{of['faces']} trusted faces of {of['performers']} people"


_DESCRIPTIONS = {
    names.PERFORMER_TABLE: _records,
    names.ALIGNED_FACES: _faces,
    names.FACE_EMBEDDINGS: _embeddings,
    names.IDENTITY_GRAPH: _identities,
    names.TRUSTED_FACES: _trusted,
}


def _release_lines(of: Mapping[str, Any]) -> Iterator[str]:
    if of["changed"]:
        yield f"release {of['version']}: {of['performers']} performers, {of['faces']} faces"
    else:
        yield f"release {of['version']}: nothing changed since it was made"
    yield f"checks: {of['checks'] - of['checks_failed']} of {of['checks']} passed"
    yield f"{of['path']}"
