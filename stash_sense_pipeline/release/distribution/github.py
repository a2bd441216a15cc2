"""The part of GitHub's REST API that releases need: drafts, assets, publication, download; with repeated attempts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import httpx

from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.versions import is_version

_BLOCK = 1024 * 1024
_TRIES = 5
_SECONDS_BETWEEN_TRIES = 2.0
# The longest wait for a rate limit, in seconds. The error for a longer one says when to try again.
_LONGEST_WAIT = 900.0
_TIMEOUT = httpx.Timeout(60.0, connect=20.0, write=300.0)
_PAGE = 100

_USER_AGENT = "stash-sense-pipeline"
_TYPES = {".zip": "application/zip", ".md": "text/markdown; charset=utf-8"}
# The longest download, in seconds: GitHub's largest file at 100 KB a second.
_LONGEST_DOWNLOAD = 6 * 3600.0
_MOST_REDIRECTS = 5
_BYTES = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}

Sleep = Callable[[float], None]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Destination:
    """A repository `owner/name` of one flavour, the address of its API, and a token that may write its releases.

    Reading a public repository takes no token. `sense2`: it is the repository of sense2 releases. `sleep` waits between
    attempts and `now` is the time of an upload; tests replace them.
    """

    repository: str
    api: str
    token: str
    sleep: Sleep = time.sleep
    flavour: Flavour = Flavour.FULL
    now: Callable[[], datetime] = _utc_now
    sense2: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigurationError when there is no repository."""
        if not self.repository:
            raise ConfigurationError(f"no repository to upload to; set {self.setting} in sources.yaml")

    @property
    def setting(self) -> str:
        """The key of sources.yaml that names the repository."""
        kind = "sense2_" if self.sense2 else "" if self.flavour is Flavour.FULL else f"{self.flavour}_"
        return f"export.github.{kind}repository"


class GithubReleases:
    """The releases of one repository, by GitHub's REST API (2022-11-28). Temporary failures are tried again."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._sleep = destination.sleep
        self._releases = f"{destination.api}/repos/{destination.repository}/releases"
        headers = {
            "Accept": "application/vnd.github+json",
            "User-Agent": _USER_AGENT,
            "X-GitHub-Api-Version": "2022-11-28",
        }
        if destination.token:
            headers["Authorization"] = f"Bearer {destination.token}"
        self._client = httpx.Client(
            headers=headers, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
        )
        self._plain = httpx.Client(
            headers={"User-Agent": _USER_AGENT}, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
        )

    def __enter__(self) -> GithubReleases:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._plain.close()

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

    def newest(self) -> dict[str, Any]:
        """The release that the sidecar's updater would take. ReleaseError when nothing is published."""
        answer = self._ask("GET", f"{self._releases}/latest", expect=(200, 404))
        if answer.status_code == 404:
            raise ReleaseError(
                f"{self._destination.repository} has no published release, or does not exist, or needs a GITHUB_TOKEN "
                "that may read it"
            )
        return dict(answer.json())

    def download(self, asset: Mapping[str, Any], path: Path, progress: Progress | None) -> None:
        """Downloads an asset to `path`. It must have the size and the digest that the server states.

        Raises ReleaseError when it does not arrive complete.
        """
        problem = ""
        for attempt in range(_TRIES):
            try:
                problem = self._fetch(asset, path, progress)
            except httpx.TransportError as error:
                problem = f"the connection broke ({type(error).__name__})"
            if not problem and matches({**asset, "name": path.name}, path):
                return
            problem = problem or "it has not the size or the digest that the server states"
            if attempt < _TRIES - 1:
                self._sleep(_SECONDS_BETWEEN_TRIES * 2**attempt)
        raise ReleaseError(f"cannot download {visible_line(str(asset.get('name')))}: {problem}")

    def _fetch(self, asset: Mapping[str, Any], path: Path, progress: Progress | None) -> str:
        """One attempt at a download. Returns the text of a failure that another attempt may overcome, or nothing."""
        url, ours, size = str(asset["url"]), True, int(asset["size"])
        until = time.monotonic() + _LONGEST_DOWNLOAD
        self._check_host(url)
        for _ in range(_MOST_REDIRECTS):
            # The token is for the API only, which answers with an address at the storage.
            client = self._client if ours else self._plain
            with client.stream("GET", url, headers=_BYTES) as answer:
                if answer.is_redirect:
                    url, ours = self._redirected(url, answer.headers.get("location", "")), False
                    continue
                if answer.status_code != 200:
                    wait = _rate_limit_wait(answer)
                    if wait is not None:
                        self._wait(wait)
                    elif answer.status_code < 500:
                        raise ReleaseError(
                            f"{self._destination.repository}: the server answers {answer.status_code} to the download"
                        )
                    return f"the server answers {answer.status_code}"
                with path.open("wb") as stream:
                    done = 0
                    for block in answer.iter_bytes(_BLOCK):
                        done += len(block)
                        if done > size:
                            return f"it has more than the stated {size} bytes"
                        if time.monotonic() > until:
                            return f"it takes more than {_LONGEST_DOWNLOAD / 3600:.0f} hours"
                        stream.write(block)
                        if progress is not None:
                            progress("bytes", done, size)
                return ""
        return f"more than {_MOST_REDIRECTS} redirects"

    def _redirected(self, url: str, location: str) -> str:
        """The address of a redirect. ReleaseError for one that is not encrypted, unless the API is not either."""
        target = urlsplit(urljoin(url, location))
        if target.scheme != "https" and target.scheme != urlsplit(self._destination.api).scheme:
            raise ReleaseError(f"{urlsplit(url).netloc} redirects to an address without https")
        return target.geturl()

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

    def put_asset(
        self,
        release: Mapping[str, Any],
        file: Path,
        progress: Progress | None,
        *,
        beside: Collection[str] = (),
    ) -> None:
        """Makes the draft hold that file. The parts of interrupted uploads of it are removed first.

        With a zip, other zips that are not in `beside` are removed too: the sidecar's updater takes the first one. Nothing
        else is removed.
        """
        for attempt in range(_TRIES):
            assets = self._ask("GET", f"{self._releases}/{release['id']}/assets?per_page={_PAGE}").json()
            complete = [asset for asset in assets if matches(asset, file)]
            for asset in assets:
                if asset not in complete[:1] and _replaces(file, str(asset["name"]), beside):
                    url = f"{self._releases}/assets/{asset['id']}"
                    self._ask("DELETE", url, expect=(204, 404))
            if complete:
                return
            problem = self._send(str(release["upload_url"]), file, progress)
            if problem is not None:
                if attempt == _TRIES - 1:
                    raise ReleaseError(
                        f"cannot upload {file.name}: {problem}; the draft remains, run it again to continue"
                    )
                self._sleep(_SECONDS_BETWEEN_TRIES * 2**attempt)
        raise ReleaseError(
            f"{file.name} does not arrive complete; the draft remains, run it again to continue"
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

    def _send(self, upload_url: str, file: Path, progress: Progress | None) -> str | None:
        """One attempt at the upload. Returns None, or the text of a failure that another attempt may overcome."""
        url = upload_url.split("{")[0]
        self._check_host(url)
        size = file.stat().st_size
        headers = {"Content-Type": _TYPES[file.suffix], "Content-Length": str(size)}
        with file.open("rb") as stream:
            try:
                answer = self._client.post(
                    url,
                    params={"name": file.name},
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
            raise ReleaseError(f"cannot upload {file.name}: {_error_text(answer, self._destination.token)}")
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
            f"{self._destination.repository}: {method} {urlsplit(url).path}: {problem}{self._advice(problem)}"
        )

    def _advice(self, problem: str) -> str:
        if problem.startswith(("401", "403")):
            return "; GITHUB_TOKEN needs write access to the contents of the repository"
        if problem.startswith("404"):
            return f"; check {self._destination.setting}, and that GITHUB_TOKEN may read it"
        return ""

    def _wait(self, seconds: float) -> None:
        if seconds > _LONGEST_WAIT:
            raise ReleaseError(
                f"{self._destination.api} is rate limited for {seconds / 60:.0f} minutes; run it again after that"
            )
        self._sleep(seconds)


def matches(asset: Mapping[str, Any], file: Path) -> bool:
    """True when the server's description of the asset matches the file. The digest is compared if the server gives one."""
    same = (asset.get("name"), asset.get("size")) == (file.name, file.stat().st_size)
    if not same or asset.get("state", "uploaded") != "uploaded":
        return False
    digest = asset.get("digest")
    return not digest or digest == f"sha256:{sha256_file(file)}"


def _replaces(file: Path, name: str, beside: Collection[str]) -> bool:
    """True when an asset of that name must not stay beside `file`."""
    other = file.suffix == ".zip" and name.endswith(".zip") and name not in beside
    return name == file.name or other


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
