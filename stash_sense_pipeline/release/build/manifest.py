"""Writes and reads manifest.json.

It is written last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import PUBLIC_FILE, link_or_copy, sha256_file, write_atomically
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.contract import MANIFEST, RELEASE_FORMAT, TATTOO_DIMENSIONS, Flavour
from stash_sense_pipeline.release.versions import release_time
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

if TYPE_CHECKING:
    from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels

# How faces are aligned before they are embedded; the predecessor's manifests since 2026-02 say the same.
ALIGNMENT = "insightface_norm_crop_5point"
DEMO_STATEMENT = (
    "Made with a demonstration model pack that recognises only cartoon faces rendered by this program; "
    "it has no biometric value and recognises no real person."
)


@dataclass(frozen=True)
class ManifestFacts:
    """A manifest without its checksums."""

    version: str
    performer_count: int
    face_count: int
    sources: Sequence[str]
    input_digest: str
    pack: ModelPack
    indices: Mapping[str, Mapping[str, Any]]
    # How the parameters of the indices were chosen, when that is known.
    index_choice: Mapping[str, Any] | None = None
    flavour: Flavour = Flavour.FULL
    priority: Sequence[str] = ENDPOINT_PRIORITY
    # The networks that found and embedded the tattoos of the release, if it has any.
    tattoo_models: TattooModels | None = None


def write_manifest(
    release: Path, facts: ManifestFacts, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes manifest.json with the SHA-256 of every file in `release`, and returns its content.

    `known` has the hashes, by file name, that were computed when the files were written; the others are computed here.
    The verification reads every file again and compares.
    """
    hashes = dict(known or {})
    with disk_errors(f"write the manifest of {release}"):
        files = sorted(path for path in release.iterdir() if path.name != MANIFEST)
        manifest = {
            "format": RELEASE_FORMAT,
            "version": facts.version,
            "flavour": facts.flavour.value,
            "created_at": release_time(facts.version),
            "performer_count": facts.performer_count,
            "face_count": facts.face_count,
            "sources": sorted(facts.sources),
            "endpoint_priority": list(facts.priority),
            "checksums": {
                path.name: f"sha256:{hashes.get(path.name) or sha256_file(path)}" for path in files
            },
            "models": _models(facts.pack) | _tattoo_models(facts.tattoo_models),
            "indices": {name: dict(made) for name, made in facts.indices.items()},
            **({"index_choice": dict(facts.index_choice)} if facts.index_choice else {}),
            "reproducible": all(made["reproducible"] for made in facts.indices.values()),
            "input_digest": facts.input_digest,
        }
        text = json.dumps(manifest, sort_keys=True, indent=2) + "\n"
        write_atomically(release / MANIFEST, text)
    return manifest


class NewerReleaseError(ReleaseError):
    """The release has a newer format than this program knows, so that none of its files can be checked."""


def read_manifest(release: Path) -> dict[str, Any]:
    """manifest.json of a release directory. ReleaseError when it cannot be read, is no JSON object or has a newer format."""
    path = release / MANIFEST
    try:
        manifest = read_json(path, SMALL)
    except OSError as error:
        raise ReleaseError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReleaseError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict):
        raise ReleaseError(f"{path} is not a JSON object")
    newest = manifest.get("format", RELEASE_FORMAT)
    if not isinstance(newest, int) or newest > RELEASE_FORMAT:
        raise NewerReleaseError(
            f"{path} was written by a newer program (format {newest}); upgrade stash-sense"
        )
    return manifest


def _tattoo_models(models: TattooModels | None) -> dict[str, Any]:
    if models is None:
        return {}
    return {
        "tattoo_dim": TATTOO_DIMENSIONS,
        "tattoo_detector_sha256": models.detector,
        "tattoo_embedder_sha256": models.embedder,
    }


def _models(pack: ModelPack) -> dict[str, Any]:
    models: dict[str, Any] = {
        "pack": pack.name,
        "licence": pack.licence,
        "demo": pack.demo,
        "detector": pack.detector.path.stem,
        "detector_sha256": pack.detector.digest,
        "embedders": {
            name: {"sha256": spec.digest, "dim": spec.dim} for name, spec in pack.embedders.items()
        },
        "alignment": ALIGNMENT,
        "flip_averaging": pack.flip_averaging,
    }
    models |= {f"{name}_dim": spec.dim for name, spec in pack.embedders.items()}
    if pack.demo:
        models["statement"] = DEMO_STATEMENT
    return models


def reuse_published(release: Path, model: str, digest: str, threads: int, path: Path) -> bool:
    """Links or copies the earlier release's index of that name to `path` when a build would give the same; False when not.

    `model`: its name in the manifest. `digest`, `threads`: of the index to build.
    """
    source = release / path.name
    try:
        manifest = read_json(release / MANIFEST, SMALL)
        made = manifest["indices"][model]
        same = made["input_digest"] == digest and made["threads"] == threads
        if not same or manifest["checksums"][source.name] != f"sha256:{sha256_file(source)}":
            return False
    except (OSError, ValueError, KeyError, TypeError):
        # No earlier release, or one with another manifest: the index is built.
        return False
    link_or_copy(source, path, PUBLIC_FILE)
    return True
