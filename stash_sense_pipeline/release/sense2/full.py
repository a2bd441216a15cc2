"""Writes the files of a full release and of the links package, and the notes of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.files import sha256_file, write_atomically
from stash_sense_pipeline.release.build.archive import pack_files, write_zip
from stash_sense_pipeline.release.build.manifest import DEMO_STATEMENT
from stash_sense_pipeline.release.sense2.content import Content
from stash_sense_pipeline.release.sense2.contract import (
    ALIASES_JSON,
    DIMENSIONS,
    INDEX,
    LINKS_JSON,
    MANIFEST,
    MIN_SIDECAR_VERSION,
    PERFORMERS_DB,
    full_zip,
    links_zip,
    universal_id,
)
from stash_sense_pipeline.release.sense2.database import write_exported, write_performers_db
from stash_sense_pipeline.release.sense2.index_file import build_index
from stash_sense_pipeline.release.sense2.vectors import Rounded
from stash_sense_pipeline.release.versions import release_time

# A removed vector stays in the index file of a client until another face takes its place.
_REMOVAL = (
    "The program keeps its old files in folders `backup_*` and files `*.prev` of its data directory. Delete them after an "
    "update: people who asked to be removed are still in them. After a delta the index file can hold removed vectors, which "
    "no search finds; a full update removes them."
)


@dataclass(frozen=True)
class Links:
    """The bytes of performer_links.json and aliases.json."""

    links: bytes
    aliases: bytes

    @property
    def digests(self) -> tuple[str, str]:
        """SHA-256 of both, in hex."""
        return hashlib.sha256(self.links).hexdigest(), hashlib.sha256(self.aliases).hexdigest()


def make_links(content: Content) -> Links:
    """The people of the release with several stash-box records, and the aliases of each record in the release.

    A record is in one group at most, because it is of one person. Records without a face are in the groups too: a client
    finds by them who is known already. Links need faces and names as evidence; see identity.
    """
    groups = [[universal_id(*record) for record in person] for person in content.people]
    aliases = {row.uid: list(row.aliases) for row in content.performers if row.aliases}
    return Links(_json(sorted(groups)), _json(dict(sorted(aliases.items()))))


def _json(value: Any) -> bytes:
    # ASCII, as all JSON files of a release: the client reads them in the encoding of its system.
    return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")


def write_links(links: Links, version: str, directory: Path) -> Path:
    """Writes both files to an empty directory, and packs it beside it."""
    write_atomically(directory / LINKS_JSON, links.links)
    write_atomically(directory / ALIASES_JSON, links.aliases)
    archive = directory.parent / links_zip(version)
    pack_files(directory, archive)
    return archive


@dataclass(frozen=True)
class Origin:
    """The version of a release, and the pack and embedder of its vectors."""

    version: str
    pack: ModelPack
    model: str


def write_full(content: Content, vectors: Rounded, links: Links, origin: Origin, directory: Path) -> Path:
    """Writes the eight files to an empty directory, and packs it beside it. The same input gives the same bytes.

    `vectors` are the bfloat16 vectors of the faces of `content`, in their order.
    """
    keys = np.array([face.embedding_index for face in content.faces], dtype=np.int64)
    build_index(keys, vectors, directory / INDEX)
    write_performers_db(content, directory / PERFORMERS_DB)
    write_exported(directory / PERFORMERS_DB, directory)
    write_atomically(directory / LINKS_JSON, links.links)
    write_atomically(directory / ALIASES_JSON, links.aliases)
    manifest = _manifest(content, origin)
    files = sorted(path for path in directory.iterdir() if path.name != MANIFEST)
    manifest["checksums"] = {path.name: f"sha256:{sha256_file(path)}" for path in files}
    text = json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    write_atomically(directory / MANIFEST, text)
    archive = directory.parent / full_zip(origin.version)
    write_zip(directory, archive)
    return archive


def _manifest(content: Content, origin: Origin) -> dict[str, Any]:
    """The manifest without its checksums. `face_count` is the number of living faces."""
    pack = origin.pack
    return {
        "version": origin.version,
        "created_at": release_time(origin.version),
        "performer_count": len(content.performers),
        "face_count": len(content.faces),
        "sources": sorted({row.endpoint for row in content.performers}),
        "models": {
            "pack": pack.name,
            "licence": pack.licence,
            "demo": pack.demo,
            "detector": pack.detector.path.stem,
            "detector_sha256": pack.detector.digest,
            "embedder": origin.model,
            "embedder_sha256": pack.embedders[origin.model].digest,
            "embedding_dim": DIMENSIONS,
            **({"statement": DEMO_STATEMENT} if pack.demo else {}),
        },
    }


def write_notes(path: Path, content: Content, links: Links, counts: Mapping[str, int], demo: bool) -> None:
    """Writes the notes of a release: counts, and the lines that the client reads. They hold no names.

    `counts`: what a delta changes, by what it is; empty without a delta.
    """
    links_digest, aliases_digest = links.digests
    changed = ", ".join(f"{count} {what}" for what, count in counts.items())
    lines = [
        f"{len(content.performers)} performers, {len(content.faces)} faces, "
        f"from {', '.join(sorted({row.endpoint for row in content.performers}))}.",
        *(["", DEMO_STATEMENT] if demo else []),
        "",
        f"Delta: {changed}." if counts else "There is no delta to this release: download all of it.",
        "",
        f"min-sidecar-version: {MIN_SIDECAR_VERSION}",
        f"links-sha256: {links_digest}",
        f"aliases-sha256: {aliases_digest}",
        "",
        _REMOVAL,
    ]
    write_atomically(path, "\n".join(lines) + "\n")
