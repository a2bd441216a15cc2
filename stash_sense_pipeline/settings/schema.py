"""The schema of sources.yaml: fields, defaults, and the rule of each field as its description."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY
from stash_sense_pipeline.settings.rules import A_FLAG, COUNT
from stash_sense_pipeline.settings.validation import SettingsModel, unknown_source

ReferenceMode = Literal["url", "name"]


GENDERS = ("MALE", "FEMALE", "TRANSGENDER_MALE", "TRANSGENDER_FEMALE", "INTERSEX", "NON_BINARY")


NAME_FORM = re.compile(r"[a-z0-9_]+")


HOST_FORM = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|[0-9a-f]*:[0-9a-f:.]+")


_HEADER_TEXT = re.compile(r"[\x20-\x7e]{0,200}")


_HOST_AND_PORT = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]):[0-9]{1,5}")


REPOSITORY_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")


_NO_OR_A_REPOSITORY = re.compile(rf"({REPOSITORY_FORM.pattern})?")


class TrustLevel(StrEnum):
    """How far the faces of a source are trusted without confirmation by another source."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError when out of range
    plain = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not plain:
        raise ValueError
    if parts.fragment or parts.query:
        raise ValueError
    return text


def _safe_for_a_token(text: str) -> str:
    """Allows https, and http only to this machine: requests to the address carry a token."""
    parts = urlsplit(text)
    if parts.scheme != "https" and not is_loopback_host(parts.hostname or ""):
        raise ValueError
    return text.rstrip("/")


def _genders(value: object) -> tuple[str, ...]:
    """One gender or a list of them, in capitals. Raises ValueError for any other value, and for an empty list."""
    listed = value if isinstance(value, list | tuple) else [value]
    genders = tuple(dict.fromkeys(each.upper() for each in listed if isinstance(each, str)))
    if not genders or len(genders) < len(listed) or not set(genders) <= set(GENDERS):
        raise ValueError
    return genders


def _choices(allowed: tuple[str, ...], *, needs: str | None = None) -> BeforeValidator:
    """A list of some of `allowed`, each once. Raises ValueError for any other value, and for one without `needs`."""

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError
        if not set(value) <= set(allowed) or len(set(value)) < len(value) or (needs and needs not in value):
            raise ValueError
        return tuple(sorted(value, key=allowed.index)) if needs else tuple(value)

    return BeforeValidator(check)


def _names_once(value: object) -> tuple[str, ...]:
    """A list of names of sources, each once. Raises ValueError for any other value."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError
    if len(set(value)) < len(value) or not all(NAME_FORM.fullmatch(each) for each in value):
        raise ValueError
    return tuple(value)


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError
        return text

    return AfterValidator(check)


_AN_ADDRESS = "an http or https address without user, query and fragment"


WebAddress = Annotated[str, AfterValidator(_web_address)]


class QualityFilters(SettingsModel):
    """Limits that a face must pass to be used."""

    min_face_size: int = Field(default=80, ge=1, description="a whole number of pixels of at least 1")
    min_image_size: int = Field(default=300, ge=1, description="a whole number of pixels of at least 1")
    min_detection_confidence: float = Field(default=0.7, ge=0, le=1, description="a number from 0 to 1")
    max_face_angle: float = Field(
        default=45.0, gt=0, le=90, description="a number of degrees above 0 and up to 90"
    )
    prefer_single_face: bool = Field(default=True, description=A_FLAG)


# Records that may be missing in one sweep: a number, a share of the live ones, and a number that any source may miss.
MISSING_RECORDS = 20
MISSING_SHARE = 0.01
MISSING_ALWAYS = 10


class MassDisappearance(SettingsModel):
    """How many records may vanish from a source at once before a second sweep must confirm it."""

    records: int = Field(default=MISSING_RECORDS, ge=0, description="a whole number of records of at least 0")
    share: float = Field(default=MISSING_SHARE, ge=0, le=1, description="a number from 0 to 1")
    always: int = Field(default=MISSING_ALWAYS, ge=0, description="a whole number of records of at least 0")


class GlobalSettings(SettingsModel):
    """Settings for all sources."""

    max_faces_per_performer: int = Field(default=20, ge=1, description=COUNT)
    default_rate_limit: float = Field(default=60.0, gt=0, description="a number of requests a minute above 0")
    completeness_threshold: int = Field(default=5, ge=1, description=COUNT)
    user_agent_contact: Annotated[str, _matching(_HEADER_TEXT)] = Field(
        default="", description="an address or mail box in plain ASCII of at most 200 characters"
    )
    keep_aligned_crops: bool = Field(default=False, description=A_FLAG)
    second_pack: str = Field(
        default="", description="the name or path of another model pack, or empty: no second pack"
    )
    claimed_faces_a_night: int = Field(
        default=1000, ge=0, description="a whole number of images of each source of at least 0"
    )
    quality_filters: QualityFilters = Field(default=QualityFilters(), description="a mapping")
    mass_disappearance: MassDisappearance = Field(default=MassDisappearance(), description="a mapping")


class FacesSettings(SettingsModel):
    """What is computed from the picture of a face beside the face."""

    tattoos: bool = Field(
        default=False,
        description=f"{A_FLAG}; true before a first build: later every picture must be fetched again",
    )


class IndexSettings(SettingsModel):
    """Parameters of the Voyager indices of a release. docs/release.md has the measurements behind the defaults."""

    m: Annotated[int, Field(ge=4, le=512)] | None = Field(
        default=None, description="a whole number of links from 4 to 512; unset: the cheapest that passes"
    )
    ef_construction: Annotated[int, Field(ge=10, le=5000)] | None = Field(
        default=None, description="a whole number from 10 to 5000; unset: the cheapest that passes"
    )
    storage: Literal["float32", "e4m3", "float8"] = Field(
        default="float32", description="one of float32, e4m3, float8"
    )


class GithubSettings(SettingsModel):
    """The GitHub repository for `releases upload`. The token is in the environment variable GITHUB_TOKEN."""

    repository: Annotated[str, _matching(_NO_OR_A_REPOSITORY)] = Field(
        default="", description="owner/name of a repository, or empty"
    )
    small_repository: Annotated[str, _matching(_NO_OR_A_REPOSITORY)] = Field(
        default="", description="owner/name of another repository, for the flavour small, or empty"
    )
    sense2_repository: Annotated[str, _matching(_NO_OR_A_REPOSITORY)] = Field(
        default="", description="owner/name of another repository, for sense2 releases, or empty"
    )
    upload: bool = Field(
        default=False,
        description=f"{A_FLAG}; true uploads a new release after it is published, when export.cadence allows it",
    )
    api: Annotated[WebAddress, AfterValidator(_safe_for_a_token)] = Field(
        default="https://api.github.com", description="an https address (http on this machine only)"
    )


class CadenceSettings(SettingsModel):
    """The least time and the least change between two automatic uploads. A suppression does not wait for either.

    `people` and `faces`: one of the two numbers must be reached.
    """

    days: int = Field(default=7, ge=1, le=366, description="a whole number of days from 1 to 366")
    people: int = Field(default=1, ge=1, description=f"{COUNT}: people who were added, removed or changed")
    faces: int = Field(default=1, ge=1, description=f"{COUNT}: faces that were added, removed or moved")


FLAVOURS = ("full", "small")
# What can tell two people of one shown name apart.
NAMESAKE_FIELDS = ("disambiguation", "country", "years")


class ExportSettings(SettingsModel):
    """Content of a release, its flavours, its publication gates, and its destinations."""

    adaface: bool = Field(
        default=False, description=f"{A_FLAG}; true adds face_adaface.voy when the model pack has AdaFace"
    )
    min_answer_fidelity: float = Field(default=0.999, gt=0, le=1, description="a number above 0 and up to 1")
    min_recall_at_1: float = Field(default=0.999, gt=0, le=1, description="a number above 0 and up to 1")
    min_recall_at_100: float = Field(default=0.9, gt=0, le=1, description="a number above 0 and up to 1")
    recall_at_100_blocks: bool = Field(
        default=False,
        description=f"{A_FLAG}; true forbids a release for neighbours beyond the sidecar's distance too",
    )
    max_shrink: float = Field(default=0.02, ge=0, le=1, description="a number from 0 to 1")
    min_tattoo_coverage: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="a number from 0 to 1; below this share of searched people a release has no tattoos",
    )
    flavours: Annotated[tuple[str, ...], _choices(FLAVOURS, needs=FLAVOURS[0])] = Field(
        default=FLAVOURS[:1],
        description=f"a list of {' and '.join(FLAVOURS)}, with {FLAVOURS[0]} in it; small: less than half of the bytes",
    )
    namesakes: Annotated[tuple[str, ...], _choices(NAMESAKE_FIELDS)] = Field(
        default=NAMESAKE_FIELDS,
        description=f"a list of {', '.join(NAMESAKE_FIELDS)}, the first choice first; empty: plain names",
    )
    endpoint_priority: Annotated[tuple[str, ...], BeforeValidator(_names_once)] = Field(
        default=ENDPOINT_PRIORITY,
        description="a list of stash-boxes, each once; a person of several has the id and the name of the first",
    )
    sense2: bool = Field(
        default=False,
        description=f"{A_FLAG}; true makes releases for stash-sense2 too, with the faces of global.second_pack",
    )
    cadence: CadenceSettings = Field(default=CadenceSettings(), description="a mapping")
    index: IndexSettings = Field(default=IndexSettings(), description="a mapping")
    github: GithubSettings = Field(default=GithubSettings(), description="a mapping")


class SourceSettings(SettingsModel):
    """One source: its address, its request rate, and its trust level."""

    name: Annotated[str, _matching(NAME_FORM)] = Field(description="small letters, digits and _")
    enabled: bool = Field(description=A_FLAG)
    url: WebAddress = Field(description=_AN_ADDRESS)
    rate_limit: float = Field(gt=0, description="a number of requests a minute above 0")
    max_faces: int = Field(default=5, ge=1, description=COUNT)
    priority: int = Field(default=100, ge=0, description="a whole number of at least 0; small goes first")
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(description="one of high, medium, low")
    gender_filter: Annotated[tuple[str, ...], BeforeValidator(_genders)] | None = Field(
        default=None, description=f"one of {', '.join(GENDERS).lower()}, or a list of them"
    )

    @property
    def needs_contact(self) -> bool:
        """True for a source on the public Internet: its requests must carry an address at which you can be reached."""
        return not is_private_host(urlsplit(self.url).hostname or "")


class StashBoxSettings(SourceSettings):
    """A source that creates performers."""

    enabled: bool = Field(default=True, description=A_FLAG)
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(
        default=TrustLevel.HIGH, description="one of high, medium, low"
    )
    connector: Literal["stash_box", "theporndb"] = Field(
        default="stash_box", description="one of stash_box, theporndb"
    )
    host: Annotated[str, _matching(HOST_FORM)] = Field(
        description="the host name in universal ids, e.g. stashdb.org, in small letters"
    )
    picture_hosts: Annotated[tuple[Annotated[str, _matching(_HOST_AND_PORT)], ...], Field(strict=False)] = (
        Field(
            default=(),
            description="a list of host:port in the private network that serve pictures of this stash-box",
        )
    )


class ReferenceSiteSettings(SourceSettings):
    """A source that adds only to performers of a stash-box."""

    enabled: bool = Field(default=False, description=A_FLAG)
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(
        default=TrustLevel.MEDIUM, description="one of high, medium, low"
    )
    needs_flaresolverr: bool = Field(default=False, description=A_FLAG)
    needs_chrome_cdp: bool = Field(default=False, description=A_FLAG)
    reference_mode: ReferenceMode = Field(default="url", description="one of url, name")
    fetch: bool = Field(
        default=True, description=f"{A_FLAG}; false uses the site's identifiers without asking the site"
    )

    @property
    def needs_contact(self) -> bool:
        """True for a site on the public Internet that is asked."""
        return self.fetch and super().needs_contact


class Settings(SettingsModel):
    """All of sources.yaml. `global_` is its `global` section."""

    global_: GlobalSettings
    faces: FacesSettings = Field(default=FacesSettings(), description="a mapping")
    export: ExportSettings = Field(default=ExportSettings(), description="a mapping")
    stash_boxes: Mapping[str, StashBoxSettings]
    reference_sites: Mapping[str, ReferenceSiteSettings]

    @property
    def sources(self) -> tuple[SourceSettings, ...]:
        """All sources: stash-boxes first, each kind by priority, sources of equal priority in the order of the file."""
        boxes = sorted(self.stash_boxes.values(), key=lambda source: source.priority)
        sites = sorted(self.reference_sites.values(), key=lambda source: source.priority)
        return (*boxes, *sites)

    @property
    def enabled(self) -> tuple[SourceSettings, ...]:
        """The enabled sources, in the order of `sources`."""
        return tuple(source for source in self.sources if source.enabled)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all sources, in the order of `sources`: the partition keys."""
        return tuple(source.name for source in self.sources)

    @property
    def missing_contact(self) -> bool:
        """True when an enabled source needs a contact address and there is none: that source is not asked."""
        return not self.has_contact and any(source.needs_contact for source in self.enabled)

    @property
    def has_contact(self) -> bool:
        """True when requests carry a contact address."""
        return bool(self.global_.user_agent_contact.strip())

    def source(self, name: str) -> SourceSettings:
        """The source of that name. Raises ConfigurationError, which lists the known names, when there is none."""
        found = self.stash_boxes.get(name) or self.reference_sites.get(name)
        if found is None:
            raise ConfigurationError(unknown_source(name, self.names))
        return found


def is_loopback_host(host: str) -> bool:
    """True for a loopback address, `localhost` and the names below it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# Domains that the public name system does not serve: RFC 6761, RFC 6762, RFC 8375, and `internal` (ICANN, 2024).
_PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa", ".test", ".invalid", ".example")


def is_private_host(host: str) -> bool:
    """True for a host that is not on the public Internet.

    That is an address of a private network or of this machine, a name without a dot, and a name in a private domain.
    A name of digits alone is a public address in an old notation.
    """
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.lower().removesuffix(".")
        return ("." not in name and not name.isdigit()) or name.endswith(_PRIVATE_DOMAINS)
