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
from stash_sense_pipeline.release.reports.document import Block, Text, markdown_document
from stash_sense_pipeline.release.reports.release_diff import diff_releases
from stash_sense_pipeline.release.reports.release_diff_tables import count_blocks
from stash_sense_pipeline.release.versions import is_version, published_versions
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

_BLOCK = 1024 * 1024
_TRIES = 5
_SECONDS_BETWEEN_TRIES = 2.0
# The longest wait for a rate limit, in seconds. The error for a longer one says when to try again.
_LONGEST_WAIT = 900.0
_TIMEOUT = httpx.Timeout(60.0, connect=20.0, write=300.0)
_PAGE = 100

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Destination:
    """A repository `owner/name`, the address of its API, and a token that may write its releases.

    `sleep` waits between attempts; tests replace it.
    """

    repository: str
    api: str
    token: str
    sleep: Sleep = time.sleep

    def __post_init__(self) -> None:
        """Raises ConfigurationError when there is no repository."""
        if not self.repository:
            raise ConfigurationError(
                "no repository to upload to; set export.github.repository in sources.yaml"
            )


@dataclass(frozen=True)
class UploadReport:
    """The uploaded release. `uploaded` is False when it was published before, with a complete zip."""

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
) -> UploadReport:
    """Publishes the zip of `version` under the tag `v<version>`. The notes give numbers of changes and no names.

    `check` raises for a release that must not be published. It is called before anything is sent, and again before the
    release is published. The release is a draft until its zip is complete, so that users never see a part. After an
    interruption the next call continues with the same draft. A complete zip is not sent twice, and a published release
    is never changed. Raises ReleaseError when the release or its zip is damaged or too large, when another file is
    published under that tag, or when the server keeps refusing requests.
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
    with _Github(destination) as github:
        found = github.find(version)
        if found is None:
            found = github.create_draft(version, release_notes(releases, version))
        if not found["draft"]:
            _check_only_asset(found, archive)
            return _report(version, found, archive, uploaded=False, latest=github.latest_is(version))
        github.put_zip(found, archive, progress)
        check(releases / version)
        newest = all(other <= version for other in github.published())
        published = github.publish(found, latest=newest)
        _check_only_asset(published, archive)
        return _report(version, published, archive, uploaded=True, latest=newest)


def release_notes(releases: Path, version: str) -> str:
    """The notes of a release: its numbers, and the numbers of changes since the previous release here.

    They hold no names, because published notes cannot be erased everywhere.
    """
    manifest = read_manifest(releases / version)
    counts = (
        f"{manifest['performer_count']} performers, {manifest['face_count']} faces, "
        f"from {', '.join(manifest['sources'])}."
    )
    blocks: list[Block] = [Text(counts)]
    statement = manifest.get("models", {}).get("statement")
    if statement:
        blocks.append(Text(str(statement)))
    before = [other for other in published_versions(releases) if other < version]
    if before:
        blocks += count_blocks(diff_releases(releases / before[-1], releases / version))
    return markdown_document(blocks)


def _check_only_asset(release: Mapping[str, Any], archive: Path) -> None:
    zips = [asset for asset in release["assets"] if str(asset["name"]).endswith(".zip")]
    if len(zips) != 1 or not _matches(zips[0], archive):
        held = ", ".join(f"{asset['name']} ({asset.get('size')} bytes)" for asset in zips) or "no zip"
        raise ReleaseError(
            f"{release['tag_name']} is published already, with {held}; a published release is never changed: remove it "
            "on the server, or publish a new version"
        )


def _matches(asset: Mapping[str, Any], archive: Path) -> bool:
    """True when the server's description of the asset matches the file. The digest is compared if the server gives one."""
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
    """The calls of GitHub's REST API (2022-11-28) that an upload needs. Temporary failures are tried again."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._sleep = destination.sleep
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
        """The release or draft of a version. A draft has no tag to ask for, so the list of releases is searched."""
        return next((release for release in self._all() if release["tag_name"] == f"v{version}"), None)

    def published(self) -> list[str]:
        """The versions of the published releases."""
        tags = (str(release["tag_name"]).lstrip("v") for release in self._all() if not release["draft"])
        return [tag for tag in tags if is_version(tag)]

    def latest_is(self, version: str) -> bool:
        """True when this is the release that the sidecar's updater sees."""
        answer = self._ask("GET", f"{self._releases}/latest", expect=(200, 404))
        return answer.status_code == 200 and answer.json().get("tag_name") == f"v{version}"

    def create_draft(self, version: str, notes: str) -> dict[str, Any]:
        """A new draft, or the one that another process has made meanwhile."""
        body = {"tag_name": f"v{version}", "name": f"v{version}", "body": notes, "draft": True}
        answer = self._ask("POST", self._releases, json=body, expect=(201, 422))
        if answer.status_code == 201:
            return dict(answer.json())
        found = self.find(version)
        if found is None:
            raise ReleaseError(
                f"{self._destination.repository} refuses a release v{version}: "
                f"{_error_text(answer, self._destination.token)}"
            )
        return found

    def put_zip(self, release: Mapping[str, Any], archive: Path, progress: Progress | None) -> None:
        """Makes the draft hold exactly that zip. The parts of interrupted uploads are removed first."""
        for attempt in range(_TRIES):
            assets = self._ask("GET", f"{self._releases}/{release['id']}/assets?per_page={_PAGE}").json()
            complete = [asset for asset in assets if _matches(asset, archive)]
            for asset in assets:
                if asset not in complete[:1]:
                    url = f"{self._releases}/assets/{asset['id']}"
                    self._ask("DELETE", url, expect=(204, 404))
            if complete:
                return
            problem = self._send(str(release["upload_url"]), archive, progress)
            if problem is not None:
                if attempt == _TRIES - 1:
                    raise ReleaseError(
                        f"cannot upload {archive.name}: {problem}; the draft remains, run it again to continue"
                    )
                self._sleep(_SECONDS_BETWEEN_TRIES * 2**attempt)
        raise ReleaseError(
            f"{archive.name} does not arrive complete; the draft remains, run it again to continue"
        )

    def publish(self, release: Mapping[str, Any], *, latest: bool) -> dict[str, Any]:
        """Publishes the draft. With `latest` the sidecar's updater sees it."""
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
        """One attempt at the upload. Returns None, or the text of a failure that another attempt may overcome."""
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
        wait = _rate_limit_wait(answer)
        if wait is not None:
            self._wait(wait)
        # 422: an asset of that name exists. The next attempt checks whether it is complete.
        elif answer.status_code not in (422, 500, 502, 503, 504):
            raise ReleaseError(
                f"cannot upload {archive.name}: {_error_text(answer, self._destination.token)}"
            )
        return _error_text(answer, self._destination.token)

    def _check_host(self, url: str) -> None:
        """Raises ReleaseError unless the upload URL, which the API chooses, is on the API's host or on uploads.<host>."""
        api, target = urlsplit(self._destination.api), urlsplit(url)
        host = api.hostname or ""
        allowed = {host, f"uploads.{host.removeprefix('api.')}"}
        if target.hostname not in allowed or target.scheme != api.scheme:
            raise ReleaseError(
                f"{api.netloc} asks for the file at {target.netloc}, where the token must not be sent"
            )

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
                problem = _error_text(answer, self._destination.token)
                wait = _rate_limit_wait(answer)
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
                f"{self._destination.api} is rate limited for {seconds / 60:.0f} minutes; run it again after that"
            )
        self._sleep(seconds)


def _blocks(stream: IO[bytes], size: int, progress: Progress | None) -> Iterator[bytes]:
    sent = 0
    while block := stream.read(_BLOCK):
        yield block
        sent += len(block)
        if progress is not None:
            progress("bytes", sent, size)


def _rate_limit_wait(answer: httpx.Response) -> float | None:
    """Seconds to wait for a rate limit, from Retry-After or the reset time of an empty quota. None without a limit."""
    if answer.status_code not in (403, 429):
        return None
    # A header that cannot be parsed is ignored.
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


def _error_text(answer: httpx.Response, token: str) -> str:
    """Status and message of an error in one short line. The token, which a server may repeat, is removed."""
    try:
        message = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return redacted(" ".join(f"{answer.status_code} {message}".split())[:200], [token])


def _advice(problem: str) -> str:
    if problem.startswith(("401", "403")):
        return "; GITHUB_TOKEN needs write access to the contents of the repository"
    if problem.startswith("404"):
        return "; check export.github.repository, and that GITHUB_TOKEN may read it"
    return ""


def upload_destination(settings: Settings, environment: Environment) -> Destination:
    """The destination of uploads. ConfigurationError without a repository or a token."""
    token = environment.github_token
    if token is None:
        raise ConfigurationError(
            "GITHUB_TOKEN is not set; it needs write access to the contents of the repository"
        )
    return Destination(settings.export.github.repository, settings.export.github.api, token)
