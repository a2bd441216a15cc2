"""Uploads a release to GitHub Releases: a draft first, one zip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.release.build.archive import check_zip
from stash_sense_pipeline.release.build.manifest import read_manifest
from stash_sense_pipeline.release.contract import ASSET_LIMIT_BYTES, zip_name
from stash_sense_pipeline.release.reports.release_diff import counted_diff, diff_releases
from stash_sense_pipeline.release.versions import is_version, published_versions
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

_BLOCK = 1024 * 1024
_TRIES = 5
_SECONDS_BETWEEN_TRIES = 2.0
# Longer than this is not waited for: the command says when to come back.
_LONGEST_WAIT = 900.0
_TIMEOUT = httpx.Timeout(60.0, connect=20.0, write=300.0)
_PAGE = 100

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Destination:
    """A repository `owner/name`, the address of its API, and a token that may write its releases."""

    repository: str
    api: str
    token: str

    def __post_init__(self) -> None:
        """Raises ConfigurationError when there is no repository."""
        if not self.repository:
            raise ConfigurationError(
                "no repository to upload to; set export.github.repository in sources.yaml"
            )


@dataclass(frozen=True)
class UploadReport:
    """Where a release was uploaded to. `uploaded` is False when it was there already, whole and published."""

    version: str
    url: str
    asset: str
    bytes: int
    uploaded: bool
    latest: bool


def upload_release(
    releases: Path,
    version: str,
    destination: Destination,
    *,
    check: Callable[[Path], None] = lambda release: None,
    progress: Progress | None = None,
    sleep: Sleep = time.sleep,
) -> UploadReport:
    """Publishes the zip of `version` under the tag `v<version>`; the notes say how much changed, and name nobody.

    `check` raises for a release that must not go out: it is asked before anything is sent, and again before users see
    it. A draft until its one zip is there whole, so users never see a part. Stopped anywhere, the next call goes on with
    the same draft; a whole zip is not sent twice, and a published release is never changed. Raises ReleaseError in one
    line when the release or its zip is damaged or too large, when another file is published under that tag, or when
    the server keeps refusing.
    """
    archive = releases / zip_name(version)
    if version not in published_versions(releases):
        raise ReleaseError(f"there is no release {version} in {releases}; see stash-sense releases list")
    check(releases / version)
    check_zip(archive, releases / version)
    size = archive.stat().st_size
    if size >= ASSET_LIMIT_BYTES:
        raise ReleaseError(
            f"{archive.name} has {size / 2**30:.2f} GiB, and GitHub takes files below 2 GiB only; set export.index.storage "
            "to e4m3, or take fewer faces a performer"
        )
    with _Github(destination, sleep) as github:
        found = github.find(version)
        if found is None:
            found = github.create_draft(version, release_notes(releases, version))
        if not found["draft"]:
            _check_published(found, archive)
            return _report(version, found, archive, uploaded=False, latest=github.latest_is(version))
        github.put_zip(found, archive, progress)
        check(releases / version)
        newest = all(other <= version for other in github.published())
        published = github.publish(found, latest=newest)
        _check_published(published, archive)
        return _report(version, published, archive, uploaded=True, latest=newest)


def release_notes(releases: Path, version: str) -> str:
    """What users read: counts, and how much changed since the local release before. No name: notes cannot be erased."""
    manifest = read_manifest(releases / version)
    lines = [
        f"{manifest['performer_count']} performers, {manifest['face_count']} faces, "
        f"from {', '.join(manifest['sources'])}.",
    ]
    statement = manifest.get("models", {}).get("statement")
    if statement:
        lines += ["", str(statement)]
    before = [other for other in published_versions(releases) if other < version]
    if before:
        lines += ["", counted_diff(diff_releases(releases / before[-1], releases / version))]
    return "\n".join(lines) + "\n"


def _check_published(release: Mapping[str, Any], archive: Path) -> None:
    zips = [asset for asset in release["assets"] if str(asset["name"]).endswith(".zip")]
    if len(zips) != 1 or not _is_whole(zips[0], archive):
        held = ", ".join(f"{asset['name']} ({asset.get('size')} bytes)" for asset in zips) or "no zip"
        raise ReleaseError(
            f"{release['tag_name']} is published already, with {held}; a published release is never changed: remove it "
            "there, or publish a new version"
        )


def _is_whole(asset: Mapping[str, Any], archive: Path) -> bool:
    """Is this asset, as the server describes it, that file? The digest is compared where the server gives one."""
    same = (asset.get("name"), asset.get("size")) == (archive.name, archive.stat().st_size)
    if not same or asset.get("state", "uploaded") != "uploaded":
        return False
    digest = asset.get("digest")
    return not digest or digest == f"sha256:{sha256_file(archive)}"


def _report(
    version: str, release: Mapping[str, Any], archive: Path, *, uploaded: bool, latest: bool
) -> UploadReport:
    return UploadReport(
        version, str(release["html_url"]), archive.name, archive.stat().st_size, uploaded, latest
    )


class _Github:
    """The few calls of the REST API (2022-11-28) that are needed, with patience for what passes."""

    def __init__(self, destination: Destination, sleep: Sleep) -> None:
        self._destination = destination
        self._sleep = sleep
        self._releases = f"{destination.api}/repos/{destination.repository}/releases"
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {destination.token}",
            "User-Agent": "stash-sense-pipeline",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        self._client = httpx.Client(
            headers=headers, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
        )

    def __enter__(self) -> _Github:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def find(self, version: str) -> dict[str, Any] | None:
        """The release or draft of a version. Drafts have no tag yet, so the list is looked through."""
        return next((release for release in self._all() if release["tag_name"] == f"v{version}"), None)

    def published(self) -> list[str]:
        """Versions of the releases that are no drafts."""
        tags = (str(release["tag_name"]).lstrip("v") for release in self._all() if not release["draft"])
        return [tag for tag in tags if is_version(tag)]

    def latest_is(self, version: str) -> bool:
        """Is this the release that the sidecar's updater sees?"""
        answer = self._ask("GET", f"{self._releases}/latest", expect=(200, 404))
        return answer.status_code == 200 and answer.json().get("tag_name") == f"v{version}"

    def create_draft(self, version: str, notes: str) -> dict[str, Any]:
        """A new draft; when somebody else made one meanwhile, that one."""
        body = {"tag_name": f"v{version}", "name": f"v{version}", "body": notes, "draft": True}
        answer = self._ask("POST", self._releases, json=body, expect=(201, 422))
        if answer.status_code == 201:
            return dict(answer.json())
        found = self.find(version)
        if found is None:
            raise ReleaseError(
                f"{self._destination.repository} refuses a release v{version}: {_said(answer, self._destination.token)}"
            )
        return found

    def put_zip(self, release: Mapping[str, Any], archive: Path, progress: Progress | None) -> None:
        """Makes the draft hold exactly that zip. What a cut upload left there is removed first."""
        for attempt in range(_TRIES):
            assets = self._ask("GET", f"{self._releases}/{release['id']}/assets?per_page={_PAGE}").json()
            whole = [asset for asset in assets if _is_whole(asset, archive)]
            for asset in assets:
                if asset not in whole[:1]:
                    url = f"{self._releases}/assets/{asset['id']}"
                    self._ask("DELETE", url, expect=(204, 404))
            if whole:
                return
            problem = self._send(str(release["upload_url"]), archive, progress)
            if problem is not None:
                if attempt == _TRIES - 1:
                    raise ReleaseError(
                        f"cannot upload {archive.name}: {problem}; the draft stays, run it again to go on"
                    )
                self._sleep(_SECONDS_BETWEEN_TRIES * 2**attempt)
        raise ReleaseError(f"{archive.name} does not arrive whole; the draft stays, run it again to go on")

    def publish(self, release: Mapping[str, Any], *, latest: bool) -> dict[str, Any]:
        """Ends the draft; `latest` also shows it to the sidecar's updater."""
        body = {"draft": False, "make_latest": "true" if latest else "false"}
        return dict(self._ask("PATCH", f"{self._releases}/{release['id']}", json=body).json())

    def _all(self) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            found = self._ask("GET", f"{self._releases}?per_page={_PAGE}&page={page}").json()
            yield from found
            if len(found) < _PAGE:
                return
            page += 1

    def _send(self, upload_url: str, archive: Path, progress: Progress | None) -> str | None:
        """One try at the upload; what went wrong, when it may go better the next time."""
        url = upload_url.split("{")[0]
        self._check_host(url)
        size = archive.stat().st_size
        headers = {"Content-Type": "application/zip", "Content-Length": str(size)}
        with archive.open("rb") as stream:
            try:
                answer = self._client.post(
                    url,
                    params={"name": archive.name},
                    headers=headers,
                    content=_blocks(stream, size, progress),
                )
            except httpx.TransportError as error:
                return f"the connection broke ({type(error).__name__})"
        if answer.status_code == 201:
            return None
        wait = _wait_asked_for(answer)
        if wait is not None:
            self._wait(wait)
        # 422: something of that name is there. The next look at the draft says whether it is whole.
        elif answer.status_code not in (422, 500, 502, 503, 504):
            raise ReleaseError(f"cannot upload {archive.name}: {_said(answer, self._destination.token)}")
        return _said(answer, self._destination.token)

    def _check_host(self, url: str) -> None:
        """The answer of the API says where to send the file: the token goes to its own host or uploads.<host> only."""
        api, target = urlsplit(self._destination.api), urlsplit(url)
        host = api.hostname or ""
        allowed = {host, f"uploads.{host.removeprefix('api.')}"}
        if target.hostname not in allowed or target.scheme != api.scheme:
            raise ReleaseError(f"{api.netloc} wants the file at {target.netloc}, where the token must not go")

    def _ask(
        self, method: str, url: str, *, json: Any = None, expect: tuple[int, ...] = (200,)
    ) -> httpx.Response:
        problem = ""
        for attempt in range(_TRIES):
            try:
                answer = self._client.request(method, url, json=json)
            except httpx.TransportError as error:
                problem = f"the connection broke ({type(error).__name__})"
            else:
                if answer.status_code in expect:
                    return answer
                problem = _said(answer, self._destination.token)
                wait = _wait_asked_for(answer)
                if wait is not None:
                    self._wait(wait)
                    continue
                if answer.status_code < 500:
                    break
            self._sleep(_SECONDS_BETWEEN_TRIES * 2**attempt)
        raise ReleaseError(
            f"{self._destination.repository}: {method} {urlsplit(url).path}: {problem}{_advice(problem)}"
        )

    def _wait(self, seconds: float) -> None:
        if seconds > _LONGEST_WAIT:
            raise ReleaseError(
                f"{self._destination.api} asks to come back in {seconds / 60:.0f} minutes (rate limit); run it again then"
            )
        self._sleep(seconds)


def _blocks(stream: IO[bytes], size: int, progress: Progress | None) -> Iterator[bytes]:
    sent = 0
    while block := stream.read(_BLOCK):
        yield block
        sent += len(block)
        if progress is not None:
            progress("bytes", sent, size)


def _wait_asked_for(answer: httpx.Response) -> float | None:
    """Seconds that a rate limit wants, by Retry-After or by the reset of an empty quota; None without one."""
    if answer.status_code not in (403, 429):
        return None
    # A header that says nothing readable counts as if it were not there.
    after = answer.headers.get("retry-after")
    if after is not None:
        with suppress(ValueError, KeyError, TypeError):
            return max(0.0, float(after))
        with suppress(ValueError, KeyError, TypeError):
            return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    if answer.headers.get("x-ratelimit-remaining") == "0":
        with suppress(ValueError, KeyError, TypeError):
            return max(0.0, float(answer.headers["x-ratelimit-reset"]) - time.time()) + 1
    return 60.0 if answer.status_code == 429 else None


def _said(answer: httpx.Response, token: str) -> str:
    """Status and message of an error, in one short line without the token, which a server may repeat."""
    try:
        message = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return redacted(" ".join(f"{answer.status_code} {message}".split())[:200], [token])


def _advice(problem: str) -> str:
    if problem.startswith(("401", "403")):
        return "; GITHUB_TOKEN needs write access to the contents of the repository"
    if problem.startswith("404"):
        return "; is export.github.repository right, and may GITHUB_TOKEN see it?"
    return ""


def upload_destination(settings: Settings, environment: Environment) -> Destination:
    """Where releases are uploaded to. Raises ConfigurationError without a repository or a token."""
    token = environment.github_token
    if token is None:
        raise ConfigurationError(
            "GITHUB_TOKEN is not set; it needs write access to the contents of the repository"
        )
    return Destination(settings.export.github.repository, settings.export.github.api, token)
