"""When the next automatic upload is due, and why: the least time, the least change, and removals at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.distribution.github import Destination
from stash_sense_pipeline.release.distribution.upload import UploadReport, repositories, upload_release
from stash_sense_pipeline.release.distribution.uploads import Upload, Waiting, read_uploads, write_upload
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff, diff_releases
from stash_sense_pipeline.release.versions import latest_release, published_versions
from stash_sense_pipeline.settings.schema import CadenceSettings, Settings


@dataclass(frozen=True)
class Decision:
    """Whether a release is to be uploaded now, and why or why not. `on`: the first day on which it may be."""

    due: bool
    reason: str
    on: date | None = None


def decide(upload: Upload, waiting: Waiting | None, cadence: CadenceSettings, today: date) -> Decision:
    """Whether a release that differs from the uploaded one may be uploaded today, by time and change alone.

    Days are those of the calendar in UTC: a run that begins a few minutes earlier than a week ago counts. `waiting`: the
    change; None when it is not known yet.
    """
    since = upload.at.date()
    on = since + timedelta(days=cadence.days)
    if since > today:
        return Decision(True, f"the upload of {upload.version} is dated {since}, which is after today")
    changed = "" if waiting is None else f"{waiting.people} people and {waiting.faces} faces changed"
    if waiting is not None and waiting.people < cadence.people and waiting.faces < cadence.faces:
        return Decision(
            False,
            f"{changed} since {upload.version}; it takes {cadence.people} people (export.cadence.people) or "
            f"{cadence.faces} faces (export.cadence.faces)",
        )
    if today < on:
        apart = f"{cadence.days} days after {upload.version} (export.cadence.days)"
        return Decision(False, f"due on {on}, {apart}{changed and '; '}{changed}", on)
    return Decision(True, f"{changed or 'the change is counted then'} since {upload.version} of {since}", on)


@dataclass(frozen=True)
class AutomaticUpload:
    """Uploads of the newest release, each to the repository of its flavour, when the cadence allows it.

    `refuse` raises for a release that must not be published. `holds_suppressed`: whether a release directory holds
    people who are suppressed now; a release that users have and that holds them is replaced at once.
    """

    releases: Path
    cadence: CadenceSettings
    refuse: Callable[[Path], None]
    holds_suppressed: Callable[[Path], bool]

    def run(
        self, version: str, destination: Destination, progress: Progress | None = None
    ) -> tuple[Decision, UploadReport | None]:
        """Uploads a flavour of `version` if it is due, else notes what it waits for. Raises as upload_release does."""
        decision, upload = self._decide(version, destination)
        if decision.due:
            report = upload_release(self.releases, version, destination, check=self.refuse, progress=progress)
            return decision, report
        if upload is not None:
            write_upload(self.releases, destination.repository, upload)
        return decision, None

    def _decide(self, version: str, destination: Destination) -> tuple[Decision, Upload | None]:
        """The decision, and the note of the last upload with what waits now; None when the note need not change."""
        upload = read_uploads(self.releases).get(destination.repository.casefold())
        if upload is None:
            return Decision(True, f"nothing was uploaded to {destination.repository} yet"), None
        if upload.version >= version:
            return Decision(False, f"{upload.version} is uploaded"), replace(upload, waiting=None)
        if upload.version not in published_versions(self.releases):
            return Decision(
                True, f"{upload.version}, which users have, is no longer here and cannot be compared"
            ), None
        before = self.releases / upload.version
        try:
            if self.holds_suppressed(before):
                return Decision(
                    True, f"{upload.version}, which users have, holds people who are suppressed now"
                ), None
            if _networks(before) != _networks(self.releases / version):
                return Decision(
                    True, f"the vectors of {upload.version}, which users have, are of other networks"
                ), None
            waiting = _waiting(version, diff_releases(before, self.releases / version))
        except (ReleaseError, OSError, ValueError):
            return Decision(True, f"{upload.version}, which users have, cannot be read here"), None
        decision = decide(upload, waiting, self.cadence, destination.now().date())
        return decision, replace(upload, waiting=waiting)


def _networks(release: Path) -> tuple[object, ...]:
    """The detector and the embedders of a release. Releases are compared by people and pictures, not by vectors."""
    models = read_manifest(release).get("models")
    stated = models if isinstance(models, dict) else {}
    return stated.get("detector_sha256"), stated.get("embedders")


def _waiting(version: str, diff: ReleaseDiff) -> Waiting:
    people = sum(map(len, (diff.added, diff.removed, diff.changed, diff.merged, diff.split)))
    return Waiting(version, people, diff.faces_added + diff.faces_removed + diff.faces_moved)


@dataclass(frozen=True)
class UploadStatus:
    """The state of the automatic upload to one repository. `next`: when it is due and why, in one line."""

    repository: str
    flavour: Flavour
    uploaded: str | None
    uploaded_at: datetime | None
    latest: str | None
    due_on: date | None
    next: str


def upload_status(releases: Path, settings: Settings, now: datetime) -> list[UploadStatus]:
    """The state of each automatic upload; empty when uploads are not automatic.

    The changes are those that the last publish counted: counting them anew takes minutes in a large release.
    """
    if not settings.export.github.upload:
        return []
    uploads, latest = read_uploads(releases), latest_release(releases)
    version = None if latest is None else latest.name
    found = []
    for flavour, repository in repositories(settings).items():
        upload = uploads.get(repository.casefold())
        decision = _expected(upload, version, settings.export.cadence, now.date())
        at = None if upload is None else upload.at
        uploaded = None if upload is None else upload.version
        found.append(
            UploadStatus(
                repository, flavour, uploaded, at, version, decision.on, _sentence(decision, version)
            )
        )
    return found


def _expected(upload: Upload | None, version: str | None, cadence: CadenceSettings, today: date) -> Decision:
    if version is None:
        return Decision(False, "no release has been published yet")
    if upload is None:
        return Decision(True, "nothing was uploaded there yet")
    if upload.version >= version:
        return Decision(False, f"{upload.version} is uploaded, and there is no newer release")
    known = upload.waiting if upload.waiting is not None and upload.waiting.version == version else None
    return decide(upload, known, cadence, today)


def _sentence(decision: Decision, version: str | None) -> str:
    if decision.due:
        return f"{version} goes out with the next publish: {decision.reason}"
    return decision.reason
