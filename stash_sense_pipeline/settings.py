"""What the operator decides: sources.yaml and the environment, as typed, validated, immutable settings."""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import sqlite_url
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, read_yaml

ReferenceMode = Literal["url", "name"]
SyncMode = Literal["auto", "updates_only", "full_sweep"]
ExecutorName = Literal["in_process", "docker", "k8s"]

GENDERS = ("MALE", "FEMALE", "TRANSGENDER_MALE", "TRANSGENDER_FEMALE", "INTERSEX", "NON_BINARY")

# What a source of a known name need not say in the file.
KNOWN_STASH_BOXES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "stashdb": {"url": "https://stashdb.org/graphql", "host": "stashdb.org", "priority": 1},
        "theporndb": {
            "url": "https://api.theporndb.net",
            "host": "theporndb.net",
            "priority": 2,
            "connector": "theporndb",
        },
        "pmvstash": {"url": "https://pmvstash.org/graphql", "host": "pmvstash.org", "priority": 3},
        "javstash": {"url": "https://javstash.org/graphql", "host": "javstash.org", "priority": 4},
        "fansdb": {"url": "https://fansdb.cc/graphql", "host": "fansdb.cc", "priority": 5},
    }
)
KNOWN_REFERENCE_SITES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "babepedia": {"url": "https://www.babepedia.com"},
        "iafd": {"url": "https://www.iafd.com", "fetch": False},
        "freeones": {"url": "https://www.freeones.com"},
        "boobpedia": {"url": "https://www.boobpedia.com"},
        "thenude": {"url": "https://www.thenude.com"},
        "afdb": {"url": "https://www.adultfilmdatabase.com"},
        "pornpics": {"url": "https://www.pornpics.com"},
        "elitebabes": {"url": "https://www.elitebabes.com", "reference_mode": "name"},
        "javdatabase": {"url": "https://www.javdatabase.com", "reference_mode": "name"},
        "indexxx": {"url": "https://www.indexxx.com"},
    }
)

_NAME = re.compile(r"[a-z0-9_]+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|[0-9a-f]*:[0-9a-f:.]+")
_HEADER_TEXT = re.compile(r"[\x20-\x7e]{0,200}")
_KEY_VARIABLE = re.compile(r"([A-Z0-9_]+_API_KEY|GITHUB_TOKEN)(_FILE)?")
_HOST_AND_PORT = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]):[0-9]{1,5}")
_REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+)?")


class TrustLevel(StrEnum):
    """How far the faces of a source are believed without a second opinion."""

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
    """A token goes there, so only encrypted, or to this very machine."""
    parts = urlsplit(text)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise ValueError
    return text.rstrip("/")


def _gender(text: str) -> str:
    if text.upper() not in GENDERS:
        raise ValueError
    return text.upper()


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError
        return text

    return AfterValidator(check)


_A_FLAG = "true or false"
_COUNT = "a whole number of at least 1"
_AN_ADDRESS = "an http or https address without user, query and fragment"

WebAddress = Annotated[str, AfterValidator(_web_address)]


class _Model(BaseModel):
    # The description of a field says what is allowed: it ends every complaint about its value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class QualityFilters(_Model):
    """Which faces are good enough to be used."""

    min_face_size: int = Field(default=80, ge=1, description="a whole number of pixels of at least 1")
    min_image_size: int = Field(default=300, ge=1, description="a whole number of pixels of at least 1")
    min_detection_confidence: float = Field(default=0.7, ge=0, le=1, description="a number from 0 to 1")
    max_face_angle: float = Field(
        default=45.0, gt=0, le=90, description="a number of degrees above 0 and up to 90"
    )
    prefer_single_face: bool = Field(default=True, description=_A_FLAG)


class MassDisappearance(_Model):
    """How many records may vanish from a source at once before two sweeps must agree."""

    records: int = Field(default=20, ge=0, description="a whole number of records of at least 0")
    share: float = Field(default=0.01, ge=0, le=1, description="a number from 0 to 1")
    always: int = Field(default=10, ge=0, description="a whole number of records of at least 0")


class GlobalSettings(_Model):
    """What holds for all sources."""

    max_faces_per_performer: int = Field(default=20, ge=1, description=_COUNT)
    default_rate_limit: float = Field(default=60.0, gt=0, description="a number of requests a minute above 0")
    completeness_threshold: int = Field(default=5, ge=1, description=_COUNT)
    user_agent_contact: Annotated[str, _matching(_HEADER_TEXT)] = Field(
        default="", description="an address or mail box in plain ASCII of at most 200 characters"
    )
    keep_aligned_crops: bool = Field(default=False, description=_A_FLAG)
    quality_filters: QualityFilters = Field(default=QualityFilters(), description="a mapping")
    mass_disappearance: MassDisappearance = Field(default=MassDisappearance(), description="a mapping")


class IndexSettings(_Model):
    """How the Voyager indices of a release are built; docs/release.md has the measurements behind the defaults."""

    m: int = Field(default=96, ge=4, le=512, description="a whole number of links from 4 to 512")
    ef_construction: int = Field(default=600, ge=10, le=5000, description="a whole number from 10 to 5000")
    storage: Literal["float32", "e4m3", "float8"] = Field(
        default="float32", description="one of float32, e4m3, float8"
    )


class GithubSettings(_Model):
    """Where `releases upload` publishes to; the token comes from the environment, GITHUB_TOKEN."""

    repository: Annotated[str, _matching(_REPOSITORY)] = Field(
        default="", description="owner/name of a repository, or empty"
    )
    upload: bool = Field(
        default=False, description=f"{_A_FLAG}; true uploads every new release after it is published"
    )
    api: Annotated[WebAddress, AfterValidator(_safe_for_a_token)] = Field(
        default="https://api.github.com", description="an https address (http on this machine only)"
    )


class ExportSettings(_Model):
    """What a release holds, what it must prove before it is published, and where it goes."""

    adaface: bool = Field(
        default=False, description=f"{_A_FLAG}; true adds face_adaface.voy when the model pack has AdaFace"
    )
    min_recall_at_1: float = Field(default=0.99, gt=0, le=1, description="a number above 0 and up to 1")
    min_recall_at_100: float = Field(default=0.99, gt=0, le=1, description="a number above 0 and up to 1")
    recall_at_100_blocks: bool = Field(
        default=True,
        description=f"{_A_FLAG}; false only warns about neighbours beyond the sidecar's distance",
    )
    max_shrink: float = Field(default=0.02, ge=0, le=1, description="a number from 0 to 1")
    index: IndexSettings = Field(default=IndexSettings(), description="a mapping")
    github: GithubSettings = Field(default=GithubSettings(), description="a mapping")


class SourceSettings(_Model):
    """One source: where it is, how politely it is asked, and how far it is believed."""

    name: Annotated[str, _matching(_NAME)] = Field(description="small letters, digits and _")
    enabled: bool = Field(description=_A_FLAG)
    url: WebAddress = Field(description=_AN_ADDRESS)
    rate_limit: float = Field(gt=0, description="a number of requests a minute above 0")
    max_faces: int = Field(default=5, ge=1, description=_COUNT)
    priority: int = Field(default=100, ge=0, description="a whole number of at least 0; small goes first")
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(description="one of high, medium, low")
    gender_filter: Annotated[str, AfterValidator(_gender)] | None = Field(
        default=None, description=f"one of {', '.join(GENDERS).lower()}"
    )

    @property
    def is_loopback(self) -> bool:
        """True for a server on this very machine."""
        return _is_loopback(urlsplit(self.url).hostname or "")


class StashBoxSettings(SourceSettings):
    """A source that creates performers."""

    enabled: bool = Field(default=True, description=_A_FLAG)
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(
        default=TrustLevel.HIGH, description="one of high, medium, low"
    )
    connector: Literal["stash_box", "theporndb"] = Field(
        default="stash_box", description="one of stash_box, theporndb"
    )
    host: Annotated[str, _matching(_HOST)] = Field(
        description="the host name in universal ids, e.g. stashdb.org, in small letters"
    )
    picture_hosts: Annotated[tuple[Annotated[str, _matching(_HOST_AND_PORT)], ...], Field(strict=False)] = (
        Field(
            default=(),
            description="a list of host:port in the private network that serve pictures of this stash-box",
        )
    )


class ReferenceSiteSettings(SourceSettings):
    """A source that only adds to performers that a stash-box has."""

    enabled: bool = Field(default=False, description=_A_FLAG)
    trust_level: Annotated[TrustLevel, Field(strict=False)] = Field(
        default=TrustLevel.MEDIUM, description="one of high, medium, low"
    )
    needs_flaresolverr: bool = Field(default=False, description=_A_FLAG)
    needs_chrome_cdp: bool = Field(default=False, description=_A_FLAG)
    reference_mode: ReferenceMode = Field(default="url", description="one of url, name")
    fetch: bool = Field(
        default=True, description=f"{_A_FLAG}; false uses the site's identifiers without asking the site"
    )


class Settings(_Model):
    """All of sources.yaml. `global_` is its `global` section."""

    global_: GlobalSettings
    export: ExportSettings = Field(default=ExportSettings(), description="a mapping")
    stash_boxes: Mapping[str, StashBoxSettings]
    reference_sites: Mapping[str, ReferenceSiteSettings]

    @property
    def sources(self) -> tuple[SourceSettings, ...]:
        """All sources: stash-boxes first, each kind by priority, equals in the order of the file."""
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
        """True when somebody else's server is asked without a contact in the User-Agent: worth a warning."""
        return not self.global_.user_agent_contact and any(not source.is_loopback for source in self.enabled)

    def source(self, name: str) -> SourceSettings:
        """The source of that name; ConfigurationError, with the known names, when there is none."""
        found = self.stash_boxes.get(name) or self.reference_sites.get(name)
        if found is None:
            raise ConfigurationError(_unknown_source(name, self.names))
        return found


def load_settings(path: Path) -> Settings:
    """Reads and checks sources.yaml.

    Raises ConfigurationError that names file, line and key of all that is wrong with it, and what is allowed.
    """
    file = read_yaml(path)
    sections = _mapping(file, (), file.data)
    for key in sections:
        if key not in _SECTIONS:
            file.complain((key,), _unknown_key(key, _SECTIONS))
    global_ = _validate(
        file, GlobalSettings, ("global",), _mapping(file, ("global",), sections.get("global"))
    )
    export = _validate(file, ExportSettings, ("export",), _mapping(file, ("export",), sections.get("export")))
    default_rate = (global_ or GlobalSettings()).default_rate_limit
    boxes = _mapping(file, ("stash_boxes",), sections.get("stash_boxes"))
    sites = _mapping(file, ("reference_sites",), sections.get("reference_sites"))
    stash_boxes = {
        name: box
        for name, body in boxes.items()
        if (box := _stash_box(file, name, body, default_rate)) is not None
    }
    reference_sites = {
        name: site
        for name, body in sites.items()
        if (site := _reference_site(file, name, body, default_rate, boxes)) is not None
    }
    _check_hosts(file, stash_boxes.values())
    file.raise_problems()
    return Settings(
        global_=global_ or GlobalSettings(),
        export=export or ExportSettings(),
        stash_boxes=stash_boxes,
        reference_sites=reference_sites,
    )


_SECTIONS = ("global", "export", "stash_boxes", "reference_sites")
_M = TypeVar("_M", bound=_Model)


def _stash_box(file: YamlFile, name: str, body: Any, default_rate: float) -> StashBoxSettings | None:
    path = ("stash_boxes", name)
    if name in KNOWN_REFERENCE_SITES:
        file.complain(path, "is a reference site; move it to reference_sites, or choose another name")
        return None
    if _NAME.fullmatch(name) is None:
        file.complain(path, "is not a name of small letters, digits and _")
        return None
    written = _written_keys(file, path, body, StashBoxSettings)
    values = {"rate_limit": default_rate, **KNOWN_STASH_BOXES.get(name, {}), **written, "name": name}
    # Without a usable address there is one complaint, about the address, and not a second one about its host.
    values.setdefault("host", _host_of(values.get("url")) or "unknown")
    return _validate(file, StashBoxSettings, path, values)


def _reference_site(
    file: YamlFile, name: str, body: Any, default_rate: float, stash_boxes: Collection[str]
) -> ReferenceSiteSettings | None:
    path = ("reference_sites", name)
    if name in stash_boxes:
        line = file.line(("stash_boxes", name))
        file.complain(path, f"is the name of a stash-box too, in line {line}; a name belongs to one source")
        return None
    if name not in KNOWN_REFERENCE_SITES:
        file.complain(path, f"is not a known reference site{_hint(name, KNOWN_REFERENCE_SITES)}")
        return None
    written = _written_keys(file, path, body, ReferenceSiteSettings)
    values = {"rate_limit": default_rate, **KNOWN_REFERENCE_SITES[name], **written, "name": name}
    return _validate(file, ReferenceSiteSettings, path, values)


def _mapping(file: YamlFile, path: KeyPath, data: Any) -> Mapping[str, Any]:
    """The mapping at `path`; one with nothing in it, as when all its lines are commented out, is empty."""
    if data is None or isinstance(data, dict):
        return data or {}
    file.complain(path, f"{_shown(data)} is not a mapping")
    return {}


def _written_keys(file: YamlFile, path: KeyPath, body: Any, model: type[SourceSettings]) -> Mapping[str, Any]:
    written = _mapping(file, path, body)
    if "name" in written:
        file.complain((*path, "name"), _unknown_key("name", _keys(model)))
    return written


def _validate(file: YamlFile, model: type[_M], path: KeyPath, values: Mapping[str, Any]) -> _M | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for where, text in _complaints(model, error):
            file.complain((*path, *where), text)
        return None


def _complaints(model: type[_Model], error: ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where and what, for each error of a model: the rule is the description of the field."""
    for problem in error.errors(include_url=False, include_context=False):
        where = tuple(str(part) for part in problem["loc"])
        owner = model
        for part in where[:-1]:
            inner = owner.model_fields[part].annotation if part in owner.model_fields else None
            if not (isinstance(inner, type) and issubclass(inner, _Model)):
                break
            owner = inner
        key = where[-1]
        if problem["type"] == "extra_forbidden":
            yield where, _unknown_key(key, _keys(owner))
        elif problem["type"] == "missing":
            yield where, f"is missing; it must be {owner.model_fields[key].description}"
        else:
            rule = next((f.description for part in where if (f := owner.model_fields.get(part))), "valid")
            yield where, f"{_shown(problem['input'])} is not {rule}"


def _check_hosts(file: YamlFile, boxes: Iterable[StashBoxSettings]) -> None:
    # Universal ids are host:id, so two servers of one host would share them. Servers on this machine may.
    first: dict[str, str] = {}
    for box in boxes:
        other = first.setdefault(box.host, box.name)
        if other != box.name and not _is_loopback(box.host):
            text = f"has the host {box.host} like stash_boxes.{other}; give each its own `host`"
            file.complain(("stash_boxes", box.name), text)


def _host_of(url: Any) -> str | None:
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None
    return host if host and _HOST.fullmatch(host) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _keys(model: type[_Model]) -> tuple[str, ...]:
    return tuple(key for key in model.model_fields if key != "name")


def _unknown_key(key: str, allowed: Iterable[str]) -> str:
    return f"is not a known key{_hint(key, allowed)}"


def _unknown_source(name: str, known: Iterable[str]) -> str:
    return f"{name!r} is not a source of sources.yaml{_hint(name, known)}"


def _hint(word: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    guess = f"; did you mean {close[0]}?" if close else ";"
    return f"{guess} allowed: {', '.join(names) or 'none'}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    # An address with a password or a key in it must not end in a log.
    return "the value" if "@" in text or "?" in text or len(text) > 60 else text


@dataclass(frozen=True)
class Environment:
    """What the environment says: places and keys. Nothing of it that is secret is in its repr."""

    data_dir: Path
    sources_file: Path
    catalog_url: str = field(repr=False)
    model_pack: str
    device: str
    overrides_file: Path
    suppressions_file: Path
    flaresolverr_url: str | None
    chrome_cdp_url: str | None
    automation: bool
    executor: ExecutorName
    alert_url: SecretStr | None
    alert_after: int
    _key_variables: Mapping[str, SecretStr] = field(repr=False)

    @property
    def models_dir(self) -> Path:
        """Where installed model packs are."""
        return self.data_dir / "models"

    @property
    def suppression_key_file(self) -> Path:
        """Where the key of the suppression hashes is."""
        return self.data_dir / "suppression.key"

    @property
    def review_dir(self) -> Path:
        """Where the reports are that a person should look at."""
        return self.data_dir / "review"

    @property
    def releases_dir(self) -> Path:
        """Where releases are."""
        return self.data_dir / "releases"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: keys that are set directly, the password of the catalog, where alerts go."""
        direct = (
            value.get_secret_value()
            for name, value in self._key_variables.items()
            if not name.endswith("_FILE")
        )
        catalog = urlsplit(self.catalog_url)
        in_query = (value for name, value in parse_qsl(catalog.query) if "pass" in name.lower())
        alert = (self.alert_url.get_secret_value(),) if self.alert_url else ()
        return (*direct, *((catalog.password,) if catalog.password else ()), *in_query, *alert)

    @property
    def own_files(self) -> Mapping[str, Path]:
        """The operator's own files, by their names in a backup; any of them may be missing."""
        return MappingProxyType(
            {
                "sources.yaml": self.sources_file,
                "identity_overrides.yaml": self.overrides_file,
                "suppressions.yaml": self.suppressions_file,
                "suppression.key": self.suppression_key_file,
            }
        )

    def api_key(self, name: str) -> str | None:
        """The key of a source: `<NAME>_API_KEY`, or what is in the file `<NAME>_API_KEY_FILE`; None without.

        Raises ConfigurationError, which never shows the key, when both are set, or key or file is unusable.
        """
        return self._secret(f"{name.upper()}_API_KEY")

    @property
    def github_token(self) -> str | None:
        """`GITHUB_TOKEN`, or what is in the file `GITHUB_TOKEN_FILE`; None without. Raises as api_key does."""
        return self._secret("GITHUB_TOKEN")

    def _secret(self, variable: str) -> str | None:
        direct = self._key_variables.get(variable)
        file = self._key_variables.get(f"{variable}_FILE")
        if direct is not None and file is not None:
            raise ConfigurationError(f"{variable} and {variable}_FILE are both set; keep one")
        if file is not None:
            return _key_from_file(f"{variable}_FILE", Path(file.get_secret_value()))
        return None if direct is None else _checked_key(variable, direct.get_secret_value())


_ALERT_SCHEMES = ("http", "https", "ntfy+http", "ntfy+https", "discord+http", "discord+https")


def read_environment(environ: Mapping[str, str], cwd: Path) -> Environment:
    """Takes the settings of the environment; relative paths count from `cwd`, empty is unset.

    Raises ConfigurationError naming the variable.
    """
    values = {name: value.strip() for name, value in environ.items() if value.strip()}

    def path(name: str, default: Path) -> Path:
        return usable_path(name, cwd / _expanded(name, values[name]) if name in values else default)

    data_dir = path("DATA_DIR", cwd / "data")
    pack = values.get("STASH_SENSE_MODEL_PACK", "stash-sense-v1")
    pack_is_path = "/" in pack or pack.startswith((".", "~"))
    return Environment(
        data_dir=data_dir,
        sources_file=path("STASH_SENSE_SOURCES", cwd / "sources.yaml"),
        catalog_url=_catalog_url(values.get("STASH_SENSE_CATALOG_URL"), data_dir, cwd),
        model_pack=str(path("STASH_SENSE_MODEL_PACK", Path(pack))) if pack_is_path else pack,
        device=_choice(values, "STASH_SENSE_DEVICE", ("cpu", "cuda")),
        overrides_file=path("STASH_SENSE_OVERRIDES", data_dir / "identity_overrides.yaml"),
        suppressions_file=path("STASH_SENSE_SUPPRESSIONS", data_dir / "suppressions.yaml"),
        flaresolverr_url=_address(values, "FLARESOLVERR_URL", ("http", "https")),
        chrome_cdp_url=_address(values, "CHROME_CDP_URL", ("http", "https", "ws", "wss")),
        automation=_choice(values, "STASH_SENSE_AUTOMATION", ("off", "on")) == "on",
        executor=_choice(values, "STASH_SENSE_EXECUTOR", get_args(ExecutorName)),
        alert_url=SecretStr(alert)
        if (alert := _address(values, "STASH_SENSE_ALERT_URL", _ALERT_SCHEMES))
        else None,
        alert_after=_positive(values, "STASH_SENSE_ALERT_AFTER", 2),
        _key_variables=MappingProxyType(
            {name: SecretStr(value) for name, value in values.items() if _KEY_VARIABLE.fullmatch(name)}
        ),
    )


def usable_path(name: str, path: Path) -> Path:
    """The path, for the setting `name`. Raises ConfigurationError, in one line, for one that cannot be shown or stored:
    with a line break or another control character, or that is no UTF-8.
    """
    text = str(path)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ConfigurationError(
            f"{name}: {text!a} holds a control character or a byte that is no UTF-8; choose another path"
        )
    return path


def _expanded(name: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{name}: {text!r} names the home of a user who is not there") from error


def _catalog_url(given: str | None, data_dir: Path, cwd: Path) -> str:
    """The URL of the catalog; the relative path of a SQLite file is made absolute: services run in another directory."""
    if given is None:
        return sqlite_url(data_dir / "catalog.db")
    scheme, found, file = given.partition(":///")
    relative = scheme.startswith("sqlite") and found and not file.startswith(("/", ":", "file:", "?"))
    if not relative or not file:
        return given
    return f"{scheme}{sqlite_url(cwd).removeprefix('sqlite')}/{file}"


_Choice = TypeVar("_Choice", bound=str)


def _choice(values: Mapping[str, str], name: str, allowed: Sequence[_Choice]) -> _Choice:
    """One of `allowed`; the first of them when the variable is unset."""
    given = values.get(name, allowed[0])
    for choice in allowed:
        if choice == given:
            return choice
    raise ConfigurationError(f"{name}: {given!r} is not one of {', '.join(allowed)}")


def _positive(values: Mapping[str, str], name: str, default: int) -> int:
    given = values.get(name, str(default))
    if not (given.isascii() and given.isdigit() and int(given)):
        raise ConfigurationError(f"{name}: {given!r} is not {_COUNT}")
    return int(given)


def _address(values: Mapping[str, str], name: str, schemes: tuple[str, ...]) -> str | None:
    if name not in values:
        return None
    parts = urlsplit(values[name])
    if parts.scheme not in schemes or not parts.netloc:
        # The value is not shown: the address of an alert is a secret, and a mistyped one nearly is.
        raise ConfigurationError(f"{name}: the value is not an address of {' or '.join(schemes)}")
    return values[name].rstrip("/")


def _key_from_file(variable: str, path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{variable}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable}: {path} is not a text file") from None
    if not content:
        raise ConfigurationError(f"{variable}: {path} is empty")
    return _checked_key(f"{variable}: {path}", content)


def _checked_key(where: str, key: str) -> str:
    # It goes into a request header; anything else in it is a paste gone wrong.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"{where}: the key holds a character that no key has (a space, a line break, ...)"
        )
    return key


class RunOverrides(_Model):
    """What one run does differently from sources.yaml. The defaults change nothing."""

    sources: tuple[str, ...] = Field(default=(), description="names of sources; exactly these are enabled")
    disabled_sources: tuple[str, ...] = Field(default=(), description="names of sources")
    source_max_faces: Mapping[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description=f"{_COUNT} for each name of a source, as in stashdb=10"
    )
    max_faces_total: int | None = Field(default=None, ge=1, description=_COUNT)
    reference_mode: ReferenceMode | None = Field(default=None, description="one of url, name")
    sync: SyncMode = Field(default="auto", description="one of auto, updates_only, full_sweep")
    completeness_threshold: int | None = Field(default=None, ge=1, description=_COUNT)
    faces: bool = Field(default=True, description=_A_FLAG)
    fast_index: bool = Field(default=False, description=_A_FLAG)
    accept_shrink: bool = Field(default=False, description=_A_FLAG)


def parse_names(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b"): blanks around a name and empty parts do not count, the first of equals stays."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_counts(text: str) -> dict[str, int]:
    """`a=10,b=5` as {"a": 10, "b": 5}.

    Raises ConfigurationError for a part that is not NAME=NUMBER, or a name that is there twice.
    """
    counts: dict[str, int] = {}
    for part in parse_names(text):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if not name or not (number.isascii() and number.isdigit()):
            raise ConfigurationError(f"{part!r} is not NAME=NUMBER, as in stashdb=10")
        if name in counts:
            raise ConfigurationError(f"{name!r} is there twice in {text!r}")
        counts[name] = int(number)
    return counts


def make_overrides(values: Mapping[str, Any]) -> RunOverrides:
    """Overrides from run config or a command line.

    Names and counts may be text (`a,b`, `a=10,b=5`) or lists of such text; the rest is as in RunOverrides.
    Raises ConfigurationError that names the override and what is allowed.
    """
    parsed = dict(values)
    for key in ("sources", "disabled_sources"):
        if key in parsed:
            parsed[key] = parse_names(_joined(parsed[key]))
    if "source_max_faces" in parsed and not isinstance(parsed["source_max_faces"], Mapping):
        parsed["source_max_faces"] = parse_counts(_joined(parsed["source_max_faces"]))
    try:
        return RunOverrides.model_validate(parsed)
    except ValidationError as error:
        texts = [f"{'.'.join(where)}: {text}" for where, text in _complaints(RunOverrides, error)]
        raise ConfigurationError("\n".join(texts)) from error


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value or ())


def apply_overrides(settings: Settings, overrides: RunOverrides) -> Settings:
    """The settings of one run. Raises ConfigurationError, with the known names, for an unknown source."""
    named = (*overrides.sources, *overrides.disabled_sources, *overrides.source_max_faces)
    unknown = [name for name in dict.fromkeys(named) if name not in settings.names]
    if unknown:
        raise ConfigurationError("\n".join(_unknown_source(name, settings.names) for name in unknown))
    changes: dict[str, Any] = {}
    if overrides.max_faces_total is not None:
        changes["max_faces_per_performer"] = overrides.max_faces_total
    if overrides.completeness_threshold is not None:
        changes["completeness_threshold"] = overrides.completeness_threshold
    sites = {name: _overridden(site, overrides) for name, site in settings.reference_sites.items()}
    if overrides.reference_mode is not None:
        mode = {"reference_mode": overrides.reference_mode}
        sites = {name: site.model_copy(update=mode) for name, site in sites.items()}
    return Settings(
        global_=settings.global_.model_copy(update=changes),
        export=settings.export,
        stash_boxes={name: _overridden(box, overrides) for name, box in settings.stash_boxes.items()},
        reference_sites=sites,
    )


_S = TypeVar("_S", bound=SourceSettings)


def _overridden(source: _S, overrides: RunOverrides) -> _S:
    chosen = source.name in overrides.sources if overrides.sources else source.enabled
    return source.model_copy(
        update={
            "enabled": chosen and source.name not in overrides.disabled_sources,
            "max_faces": overrides.source_max_faces.get(source.name, source.max_faces),
        }
    )
