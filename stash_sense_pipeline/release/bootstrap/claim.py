"""The claim of a release about its faces: which networks made the vectors, and why they cannot be taken over."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.bootstrap.accepted_faults import why_accepted
from stash_sense_pipeline.release.bootstrap.index_vectors import EXACT
from stash_sense_pipeline.release.build.archive import opened_archive
from stash_sense_pipeline.release.build.graph.voyager_file import VoyagerFile, read_voyager_file
from stash_sense_pipeline.release.build.manifest import ALIGNMENT, read_manifest
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.opened_release import (
    DAMAGE,
    one_line,
    room_to_unpack,
    unpack,
)
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import INDEX_FILES, MANIFEST


@dataclass(frozen=True)
class Claim:
    """What a release says about its faces, compared with the installed pack.

    `storage`: how each index stores its vectors, by embedder. `own`: this program made the release, so that its qualities
    are of the same scale. `problem`: why its faces cannot be taken over, in one line; None when they can.
    """

    version: str
    manifest_digest: str
    storage: Mapping[str, str]
    own: bool
    problem: str | None

    @property
    def rounded(self) -> bool:
        """True when an index stores its vectors in 8 bits a number."""
        return any(storage != EXACT for storage in self.storage.values())


@contextmanager
def opened_release_files(path: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """The verified files of a release directory or zip, in a directory. ReleaseError names the first failed check.

    A failed check that changes nothing (see accepted_faults) is given to `warn` in one line.
    """
    failed = failures(verify_release(path))
    refused = [each for each in failed if why_accepted(each) is None]
    if refused:
        more = f" (and {len(refused) - 1} more; see stash-sense verify)" if len(refused) > 1 else ""
        raise ReleaseError(f"{path} is not taken over, it fails {refused[0].name}: {refused[0].detail}{more}")
    for each in failed:
        warn(f"{each.name} fails ({each.detail}); accepted: {why_accepted(each)}")
    if path.is_dir():
        yield path
        return
    try:
        with opened_archive(path) as archive, room_to_unpack(archive, path) as directory:
            unpack(archive, directory)
            yield directory
    except DAMAGE as error:
        if isinstance(error, ReleaseError):
            raise
        raise ReleaseError(f"{path} is not taken over: {one_line(error)}") from error


def manifest_digest_of(path: Path) -> str:
    """The SHA-256 of the manifest of a release directory or zip. ReleaseError when it cannot be read."""
    try:
        if path.is_dir():
            return sha256_file(path / MANIFEST)
        with (
            opened_archive(path) as archive,
            tempfile.TemporaryDirectory(prefix=".stash-sense-manifest-") as directory,
        ):
            archive.extract(MANIFEST, Path(directory) / MANIFEST)
            return sha256_file(Path(directory) / MANIFEST)
    except DAMAGE as error:
        raise ReleaseError(f"cannot read the manifest of {path}: {one_line(error)}") from error


def read_claim(directory: Path, pack: ModelPack) -> Claim:
    """Reads the claim of a verified release."""
    manifest = read_manifest(directory)
    models = manifest.get("models")
    stated: Mapping[str, Any] = models if isinstance(models, dict) else {}
    headers = {
        model: read_voyager_file(directory / file)
        for model, file in INDEX_FILES.items()
        if model in pack.embedders and (directory / file).exists()
    }
    return Claim(
        version=str(manifest["version"]),
        manifest_digest=sha256_file(directory / MANIFEST),
        storage={model: header.storage for model, header in headers.items()},
        own="input_digest" in manifest and "format" in manifest,
        problem=_problem(stated, pack, headers),
    )


def _problem(stated: Mapping[str, Any], pack: ModelPack, headers: Mapping[str, VoyagerFile]) -> str | None:
    alignment, flips = stated.get("alignment"), stated.get("flip_averaging")
    if alignment is None or flips is None:
        return "its manifest does not say how faces were aligned (it is older than 2026-02, or of another program)"
    if alignment != ALIGNMENT:
        return f"its faces were aligned by {alignment!r:.60}, and this program aligns by {ALIGNMENT}"
    if flips is not pack.flip_averaging:
        return f"its manifest says flip_averaging {flips!r:.20}, and pack {pack.name} {pack.flip_averaging}"
    missing = sorted(set(pack.embedders) - set(headers))
    if missing:
        return f"it has no index of {', '.join(missing)}, which pack {pack.name} has"
    if pack.detector.rules.text:
        return f"its faces were found as the sidecar finds them, and pack {pack.name} has rules of its own for that"
    detector = stated.get("detector_sha256")
    if detector not in (None, pack.detector.digest):
        return f"its faces were found by another detector than that of pack {pack.name} ({detector!r:.80})"
    embedders = stated.get("embedders")
    for name, spec in pack.embedders.items():
        entry = embedders.get(name) if isinstance(embedders, dict) else None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if digest not in (None, spec.digest):
            return f"its {name} vectors were made by another network than that of pack {pack.name} ({digest!r:.80})"
        if headers[name].dimensions != spec.dim:
            return f"its {name} vectors have {headers[name].dimensions} numbers, those of pack {pack.name} {spec.dim}"
    return None
