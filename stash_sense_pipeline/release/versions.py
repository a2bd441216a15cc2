"""Release versions: names, order, and which are on disk."""

from __future__ import annotations

import shutil
from datetime import date, datetime
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.contract import MANIFEST, VERSION_FORM, Flavour, zip_name

LATEST = "latest"


def is_version(text: str) -> bool:
    """True for `YYYY.MM.DD` and `YYYY.MM.DD.N` with a real date."""
    if VERSION_FORM.fullmatch(text) is None:
        return False
    try:
        datetime.strptime(text[:10], "%Y.%m.%d")  # noqa: DTZ007  (a date without a time)
    except ValueError:
        return False
    return True


def release_time(version: str) -> str:
    """The day of a version as a time, `2026-11-21T00:00:00Z`: `created_at` in the manifest of a release of either format.

    The time of the newest data in the catalog, or of the build, would differ between releases of the same content.
    """
    return f"{version[:10].replace('.', '-')}T00:00:00Z"


def release_name(version: str, flavour: Flavour) -> str:
    """The name of a flavour of a version, as commands take it and as its directory has it: `2026.11.21.small`."""
    return version if flavour is Flavour.FULL else f"{version}.{flavour}"


def named_release(name: str) -> tuple[str, Flavour] | None:
    """The version and the flavour that release_name or zip_name made `name` of; None for another name."""
    for flavour in Flavour:
        before, _, after = zip_name("*", flavour).partition("*")
        in_zip = name.removeprefix(before).removesuffix(after)
        if is_version(in_zip) and name == zip_name(in_zip, flavour):
            return in_zip, flavour
        version = name if flavour is Flavour.FULL else name.removesuffix(f".{flavour}")
        if is_version(version) and name == release_name(version, flavour):
            return version, flavour
    return None


def release_path(releases: Path, version: str, flavour: Flavour = Flavour.FULL) -> Path:
    """The directory of a flavour of a version."""
    return releases / release_name(version, flavour)


def flavours_of(releases: Path, version: str) -> tuple[Flavour, ...]:
    """The flavours of a published version: those with a directory and a zip."""
    return tuple(
        flavour
        for flavour in Flavour
        if (release_path(releases, version, flavour) / MANIFEST).is_file()
        and (releases / zip_name(version, flavour)).is_file()
    )


def report_directory(releases: Path, version: str) -> Path:
    """The directory of a version's quality report: `<version>.report` beside the release."""
    return releases / f"{version}.report"


def remove_release(releases: Path, version: str) -> None:
    """Removes a release in all flavours and the files beside it: zips, quality report, data card."""
    # The zips first: without its zip the directory no longer counts as a release, and the next publish clears it.
    for flavour in Flavour:
        (releases / zip_name(version, flavour)).unlink(missing_ok=True)
    for path in releases.glob(f"{version}.*"):
        # 2026.01.02.1.datacard.md belongs to the second release of that day.
        of_another = path.name.removeprefix(f"{version}.").partition(".")[0].isdigit()
        if path.is_file() and not path.is_symlink() and not of_another:
            path.unlink()
    others = [release_path(releases, version, flavour) for flavour in Flavour if flavour is not Flavour.FULL]
    for directory in (report_directory(releases, version), *others, releases / version):
        if directory.is_dir():
            shutil.rmtree(directory)


def published_versions(releases: Path) -> tuple[str, ...]:
    """Versions under `releases` that are complete (manifest and zip), oldest first."""
    if not releases.is_dir():
        return ()
    names = (
        path.name for path in releases.iterdir() if (path / MANIFEST).is_file() and not path.is_symlink()
    )
    return tuple(sorted(name for name in names if is_version(name) and (releases / zip_name(name)).is_file()))


def latest_release(releases: Path) -> Path | None:
    """The directory that `latest` points at, or None when nothing has been published."""
    link = releases / LATEST
    if not link.is_symlink():
        return None
    target = link.resolve()
    if not (target / MANIFEST).is_file():
        raise ReleaseError(
            f"{link} points at {target.name}, which is no release; point it at a release in this directory, or remove it"
        )
    return target


def next_version(releases: Path, on: date) -> str:
    """The version of a release made on a day. It sorts after every version under `releases`, as text too.

    The sidecar compares versions as text. So the second release of a day is `.1`, and after `.9` comes `.91`
    (`.10` would sort before `.2`). When the clock is behind the newest version, that version's counter is raised.
    """
    taken: list[str] = []
    if releases.is_dir():
        named = (named_release(path.name) for path in releases.iterdir())
        taken = sorted({found[0] for found in named if found is not None})
    today = on.strftime("%Y.%m.%d")
    if not taken or taken[-1] < today:
        return today
    newest = taken[-1]
    day, counter = newest[:10], newest[11:]
    if not counter:
        return f"{day}.1"
    if counter[-1] != "9":
        return f"{day}.{counter[:-1]}{int(counter[-1]) + 1}"
    return f"{day}.{counter}1"
