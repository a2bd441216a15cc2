"""Verifies any release, directory or zip, against the contract: the checks and their order."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.archive import check_sizes, opened_archive
from stash_sense_pipeline.release.build.graph.voyager_file import VoyagerFile
from stash_sense_pipeline.release.build.manifest import NewerReleaseError
from stash_sense_pipeline.release.checks import database_checks, index_checks, json_checks
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.checks.opened_release import (
    DAMAGE,
    Checks,
    OpenedRelease,
    one_line,
    refuse_examples,
    room_to_unpack,
    unpack,
)
from stash_sense_pipeline.release.checks.tattoos import tattoo_files
from stash_sense_pipeline.release.contract import (
    ASSET_LIMIT_BYTES,
    CHECKSUM_FORM,
    FACE_DIMENSIONS,
    FACES_JSON,
    INDEX_FILES,
    MANIFEST,
    OPTIONAL_FILES,
    PERFORMERS_JSON,
    REQUIRED_FILES,
    Flavour,
)
from stash_sense_pipeline.release.versions import is_version, named_release

# The beginning of the finding that a manifest lacks checksums, when those that it has are right.
NO_CHECKSUM = "no checksum for"
# The warning comes before the limit, because the next release is usually larger.
_NEAR_THE_LIMIT = 0.9


def verify_release(path: Path, name: str | None = None) -> tuple[CheckResult, ...]:
    """Runs every check on a release directory or zip, and returns the results, failed checks included.

    `name` is the name of the release, by default the last part of `path`: a version in it must be the manifest's.
    Damage does not raise: a file that cannot be read fails the checks that need it. A release that is too large is
    refused first. A zip is unpacked to a temporary directory.
    """
    checks = Checks()
    try:
        _verify(checks, path, path.name if name is None else name)
    except OSError as error:
        checks.add("archive", False, f"cannot read {path}: {error.strerror or error}")
    return tuple(checks.results)


def _verify(checks: Checks, path: Path, name: str) -> None:
    if not path.exists():
        checks.add("archive", False, f"there is no {path}")
        return
    with ExitStack() as stack:
        directories = [path] if path.is_dir() else []
        size = 0
        if not directories:
            if not checks.run("archive", _archive, path, stack, directories):
                return
            size = path.stat().st_size
        (directory,) = directories
        release = OpenedRelease(directory)
        if checks.run("file_sizes", _file_sizes, release):
            _check_release(checks, release, name)
            size = size or sum(member.stat().st_size for member in _files(directory))
            checks.run("size", _size, size, severity=Severity.WARNING)


# --- the container --------------------------------------------------------------------------------------------------


def _archive(path: Path, stack: ExitStack, unpacked: list[Path]) -> str:
    """Checks the directory of the zip, unpacks it, which checks every CRC, and adds the directory to `unpacked`."""
    archive = stack.enter_context(opened_archive(path))
    directory = stack.enter_context(room_to_unpack(archive, path))
    unpack(archive, directory)
    unpacked.append(directory)
    return f"{len(archive.sizes)} files at the root, every CRC right"


def _size(size: int) -> str:
    if size >= _NEAR_THE_LIMIT * ASSET_LIMIT_BYTES:
        raise ValueError(
            f"{size / 2**30:.2f} GiB, and GitHub takes release files below 2 GiB only; keep fewer faces a performer, "
            "or store the indices as e4m3"
        )
    return f"{size} bytes, GitHub takes up to {ASSET_LIMIT_BYTES}"


def _file_sizes(release: OpenedRelease) -> str:
    sizes = {member.name: member.stat().st_size for member in _files(release.directory)}
    check_sizes(sizes)
    release.check_index_sizes()
    return f"{sum(sizes.values())} bytes in {len(sizes)} files"


def _files(directory: Path) -> list[Path]:
    return [member for member in directory.iterdir() if member.is_file()]


# --- what is inside -------------------------------------------------------------------------------------------------


def _check_release(checks: Checks, release: OpenedRelease, name: str) -> None:
    try:
        _ = release.manifest
    except NewerReleaseError as error:
        checks.add("manifest", False, one_line(error))
        return
    except DAMAGE:
        # The check "manifest" reports it.
        pass
    checks.run("required_files", _required_files, release)
    checks.run("no_other_files", _no_other_files, release)
    checks.run("manifest", _manifest, release)
    checks.run("manifest_sources", _manifest_sources, release)
    checks.run("manifest_counts", _manifest_counts, release)
    checks.run("version", _version, release, name)
    # The indices are loaded and files hashed without the interpreter lock, while the other checks, mostly Python, use a
    # second core.
    file_results, other_results = Checks(), Checks()
    with ThreadPoolExecutor(max_workers=1) as file_checker:
        counted = file_checker.submit(_check_files, file_results, release)
        _check_json_files(other_results, release)
        _check_database(other_results, release)
        counts = counted.result()
    checks.results += file_results.results
    checks.run("faces_json", json_checks.faces_json, release, counts)
    checks.results += other_results.results
    checks.run("tattoo_files", tattoo_files.tattoo_files, release)
    checks.run("tattoo_enough", tattoo_files.enough_tattoos, release, severity=Severity.WARNING)


def _check_files(checks: Checks, release: OpenedRelease) -> dict[str, int | None]:
    """Checks the checksums and the face indices. Returns the number of elements of each index, as _check_index does."""
    checks.run("checksums", _checksums, release)
    return {model: _check_index(checks, release, model) for model in release.models}


def _check_json_files(checks: Checks, release: OpenedRelease) -> None:
    """Checks the JSON files, without the comparison with the indices."""
    checks.run("faces_json_gaps", json_checks.faces_json_gaps, release, severity=Severity.WARNING)
    checks.run("universal_ids", json_checks.universal_ids, release)
    checks.run("performers_json", json_checks.performers_json, release)
    checks.run("image_urls", json_checks.image_urls, release)
    checks.run("names", json_checks.names, release, severity=Severity.WARNING)
    checks.run("json_order", json_checks.json_order, release, severity=Severity.WARNING)
    checks.run("closure", json_checks.closure, release)
    checks.run("face_counts", json_checks.face_counts, release)


def _required_files(release: OpenedRelease) -> str:
    missing = [name for name in REQUIRED_FILES if not (release.directory / name).is_file()]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    return ", ".join(REQUIRED_FILES)


def _no_other_files(release: OpenedRelease) -> str:
    known = {*REQUIRED_FILES, *OPTIONAL_FILES}
    members = sorted(release.directory.iterdir())
    refuse_examples(
        [member.name for member in members if member.name not in known], "not a file of the contract"
    )
    refuse_examples(
        [member.name for member in members if member.is_symlink() or not member.is_file()], "not a plain file"
    )
    return f"{len(members)} files"


def check_manifest_keys(manifest: Mapping[str, Any]) -> int:
    """The number of keys that a manifest must have. Raises ValueError for one that is missing or of another kind."""
    wanted: Mapping[str, type] = {
        "version": str,
        "performer_count": int,
        "face_count": int,
        "sources": list,
        "created_at": str,
        "checksums": dict,
    }
    for key, kind in wanted.items():
        value = manifest.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} must be {kind.__name__}, it is {value!r:.80}")
    datetime.fromisoformat(manifest["created_at"])
    return len(wanted)


def _manifest(release: OpenedRelease) -> str:
    return f"{check_manifest_keys(release.manifest)} keys of the contract"


def _manifest_sources(release: OpenedRelease) -> str:
    sources = release.manifest["sources"]
    refuse_examples([name for name in sources if not isinstance(name, str) or not name], "not a name")
    if sources != sorted(sources):
        raise ValueError("sources are not sorted")
    return ", ".join(sources)


def _manifest_counts(release: OpenedRelease) -> str:
    faces, performers = release.manifest["face_count"], release.manifest["performer_count"]
    held = sum(uid is not None for uid in release.faces)
    if faces != held:
        raise ValueError(f"face_count is {faces}, but {FACES_JSON} holds {held}")
    if performers != len(release.performers):
        raise ValueError(
            f"performer_count is {performers}, but {PERFORMERS_JSON} holds {len(release.performers)}"
        )
    return f"{performers} performers, {faces} faces"


def _version(release: OpenedRelease, name: str) -> str:
    version = release.manifest.get("version")
    if not isinstance(version, str) or not is_version(version):
        raise ValueError(f"{version!r:.80} is not YYYY.MM.DD or YYYY.MM.DD.N")
    named = named_release(name)
    flavour = release.manifest.get("flavour", Flavour.FULL)
    if named is not None and named != (version, flavour):
        raise ValueError(f"the manifest says {version} ({flavour!r:.80}), the name {name}")
    return version


def _checksums(release: OpenedRelease) -> str:
    checksums = release.manifest["checksums"]
    known = {*REQUIRED_FILES, *OPTIONAL_FILES} - {MANIFEST}
    present = {path.name for path in _files(release.directory)} & known
    refuse_examples(sorted(set(checksums) - present), "checksum of a file that is not there")
    for name, stated in sorted(checksums.items()):
        if not isinstance(stated, str) or CHECKSUM_FORM.fullmatch(stated) is None:
            raise ValueError(f"{name}: {stated!r:.80} is not sha256:<64 lower-case hex digits>")
        if stated.removeprefix("sha256:") != sha256_file(release.directory / name):
            raise ValueError(f"{name} does not have the checksum of the manifest")
    refuse_examples(sorted(present - set(checksums)), NO_CHECKSUM)
    return f"{len(checksums)} files"


# --- indices --------------------------------------------------------------------------------------------------------


def _check_index(checks: Checks, release: OpenedRelease, model: str) -> int | None:
    """Checks one face index and returns its number of elements, or None when it cannot be read."""
    path = release.directory / INDEX_FILES[model]
    found: list[tuple[VoyagerFile, Any]] = []
    if not checks.run(f"{model}_loads", index_checks.loads, path, found):
        return None
    ((file, index),) = found
    checks.run(f"{model}_space", index_checks.space, file)
    checks.run(f"{model}_dimensions", index_checks.dimensions, file, FACE_DIMENSIONS)
    checks.run(f"{model}_tombstones", index_checks.tombstones, file)
    checks.run(f"{model}_ids", index_checks.ids, file)
    if index is not None:
        checks.run(f"{model}_vectors", index_checks.vectors, index, file)
    else:
        checks.add(f"{model}_vectors", False, "not checked, because the ids are wrong")
    checks.run(f"{model}_enough_faces", index_checks.enough_faces, file, severity=Severity.WARNING)
    return file.count


# --- performers.db --------------------------------------------------------------------------------------------------


def _check_database(checks: Checks, release: OpenedRelease) -> None:
    checks.run("database_journal_mode", database_checks.journal_mode, release)
    # Before all others: SQLite's own check evaluates expressions in the schema.
    if not checks.run("database_objects", database_checks.objects, release):
        return
    if not checks.run("database_integrity", database_checks.integrity, release):
        return
    checks.run("database_schema", database_checks.schema, release)
    checks.run("database_schema_version", database_checks.schema_version, release, severity=Severity.WARNING)
    checks.run("database_extra_tables", database_checks.extra_tables, release, severity=Severity.WARNING)
    checks.run("database_foreign_keys", database_checks.foreign_keys, release)
    checks.run("database_positions", database_checks.positions, release)
    checks.run("database_owners", database_checks.owners, release)
    checks.run("database_face_counts", database_checks.database_face_counts, release)
    checks.run("database_endpoints", database_checks.endpoints, release)
    checks.run("database_hosts", database_checks.hosts, release, severity=Severity.WARNING)
    checks.run("database_image_urls", database_checks.database_image_urls, release)
    checks.run("database_dates", database_checks.dates, release)
    checks.run("database_times", database_checks.times, release)
    checks.run("database_places", database_checks.places, release)
    checks.run("database_place_texts", database_checks.place_texts, release, severity=Severity.WARNING)
    checks.run("database_tattoo_detections", tattoo_files.tattoo_detections, release)
