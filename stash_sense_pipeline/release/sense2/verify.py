"""Verifies a sense2 release, directory or zip, against the contract: the checks and their order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from stash_sense_pipeline.foundation.zip_file import open_zip
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity, failures
from stash_sense_pipeline.release.checks.opened_release import Checks, room_to_unpack, unpack
from stash_sense_pipeline.release.contract import ASSET_LIMIT_BYTES
from stash_sense_pipeline.release.sense2 import checks as check
from stash_sense_pipeline.release.sense2.contract import (
    DELTA_DB,
    DELTA_FILES,
    DELTA_MANIFEST,
    FULL_FILES,
    LINKS_FILES,
    MANIFEST,
    delta_zip,
    named_version,
    zip_kind,
)
from stash_sense_pipeline.release.sense2.index_file import check_head
from stash_sense_pipeline.release.sense2.opened import ZIP_LIMITS, OpenedFiles

_KINDS = {frozenset(FULL_FILES): "data", frozenset(DELTA_FILES): "delta", frozenset(LINKS_FILES): "links"}


def verify_sense2(path: Path) -> tuple[CheckResult, ...]:
    """Runs every check on a sense2 release, and returns the results, failed checks included.

    `path` is a zip of a release, a directory with the files of one, or a directory with the zips of a version; then the
    name of a check begins with the kind of its zip. Damage does not raise: a file that cannot be read fails the checks
    that need it. A zip is unpacked to a temporary directory, after its own directory was checked.
    """
    results = Checks()
    try:
        if path.is_dir() and (zips := _zips(path)):
            single = tuple(
                replace(result, name=f"{kind}: {result.name}")
                for kind, archive in zips
                for result in verify_sense2(archive)
            )
            return single if failures(single) else (*single, *_together(dict(zips)))
        _verify(results, path)
    except OSError as error:
        results.add("archive", False, f"cannot read {path}: {error.strerror or error}")
    return tuple(results.results)


def _zips(directory: Path) -> list[tuple[str, Path]]:
    """The zips of a version in a directory, with their kinds."""
    found = [(zip_kind(path.name), path) for path in sorted(directory.iterdir())]
    return [(kind, path) for kind, path in found if kind is not None]


def _together(zips: Mapping[str, Path]) -> tuple[CheckResult, ...]:
    """The checks of several zips of a version, which are right by themselves."""
    results = Checks()
    with ExitStack() as stack:
        places: list[Path] = []
        for kind in zips:
            _archive(zips[kind], stack, places)
        opened = dict(zip(zips, map(OpenedFiles, places), strict=True))
        if {"data", "delta"} <= opened.keys():
            results.run("delta_leads_to", check.delta_leads_to, opened["delta"], opened["data"])
        if {"data", "links"} <= opened.keys():
            results.run("links_of_release", check.equal_files, opened["links"], opened["data"], LINKS_FILES)
    return tuple(results.results)


def _verify(results: Checks, path: Path) -> None:
    if not path.exists():
        results.add("archive", False, f"there is no {path}")
        return
    with ExitStack() as stack:
        directories = [path] if path.is_dir() else []
        if not directories and not results.run("archive", _archive, path, stack, directories):
            return
        opened = OpenedFiles(directories[0])
        kind = zip_kind(path.name) or _kind_by_files(opened)
        if kind == "delta":
            _check_delta(results, opened, path.name)
        elif kind == "links":
            results.run("files", check.files, opened, LINKS_FILES)
            _check_links(results, opened)
        else:
            _check_full(results, opened, path.name)
        if not path.is_dir():
            results.run("size", _size, path.stat().st_size, severity=Severity.WARNING)


def _archive(path: Path, stack: ExitStack, unpacked: list[Path]) -> str:
    """Checks the directory of the zip, unpacks it, which checks every CRC, and adds the directory to `unpacked`."""
    archive = stack.enter_context(open_zip(path, ZIP_LIMITS))
    directory = stack.enter_context(room_to_unpack(archive, path))
    unpack(archive, directory)
    unpacked.append(directory)
    return f"{len(archive.sizes)} files at the root, every CRC right"


def _kind_by_files(opened: OpenedFiles) -> str:
    names = frozenset(member.name for member in opened.directory.iterdir())
    return _KINDS.get(names, "delta" if DELTA_DB in names else "data")


def _size(size: int) -> str:
    if size >= 0.9 * ASSET_LIMIT_BYTES:
        raise ValueError(f"{size / 2**30:.2f} GiB, and GitHub takes release files below 2 GiB only")
    return f"{size} bytes, GitHub takes up to {ASSET_LIMIT_BYTES}"


def _check_full(results: Checks, opened: OpenedFiles, name: str) -> None:
    results.run("files", check.files, opened, FULL_FILES)
    results.run("manifest", check.manifest, opened)
    results.run("version", _version, opened, name)
    others = tuple(sorted(set(FULL_FILES) - {MANIFEST}))
    results.run("checksums", check.checksums, opened, MANIFEST, others)
    if results.run("index_structure", _structure, opened):
        results.run("index_head", lambda: check_head(opened.index))
        results.run("index_lengths", check.lengths, opened)
    _check_links(results, opened)
    if _check_database(results, opened):
        results.run("database_foreign_keys", check.foreign_keys, opened)
        results.run("database_face_counts", check.face_counts, opened)
        results.run("index_keys", check.keys, opened)
        results.run("export", check.export, opened)
        results.run("universal_ids", check.universal_ids, opened)
    results.run("image_urls", check.image_urls, opened)
    results.run("linked_people", check.linked_people, opened)


def _structure(opened: OpenedFiles) -> str:
    return f"{len(opened.index.keys)} vectors, every link leads to one of them"


def _version(opened: OpenedFiles, name: str) -> str:
    version, named = opened.json_object(MANIFEST).get("version"), named_version(name)
    if named is not None and named != version:
        raise ValueError(f"the manifest says {version!r:.80}, the name {name}")
    return str(version)


def _check_links(results: Checks, opened: OpenedFiles) -> None:
    results.run("links", check.links, opened)
    results.run("aliases", check.aliases, opened)


def _check_database(results: Checks, opened: OpenedFiles) -> bool:
    """True when the database can be read and has the tables of the contract."""
    # First: SQLite's own check evaluates expressions in the schema.
    if not results.run("database_objects", _objects, opened):
        return False
    if not results.run("database_integrity", _integrity, opened):
        return False
    return results.run("database_schema", check.schema, opened)


def _objects(opened: OpenedFiles) -> str:
    with opened.database():
        return "only plain tables of the contract and their indexes"


def _integrity(opened: OpenedFiles) -> str:
    opened.check_database()
    return "SQLite finds no damage"


def _check_delta(results: Checks, opened: OpenedFiles, name: str) -> None:
    results.run("files", check.files, opened, DELTA_FILES)
    prefix, _, suffix = delta_zip("*", "*").partition("*-to-*")
    stated = name.removeprefix(prefix).removesuffix(suffix) if zip_kind(name) == "delta" else ""
    results.run("version", check.delta_versions, opened, stated)
    results.run("checksums", check.checksums, opened, DELTA_MANIFEST, (DELTA_DB,))
    if _check_database(results, opened):
        results.run("delta_performers", check.delta_performers, opened)
        results.run("delta_faces", check.delta_faces, opened)
