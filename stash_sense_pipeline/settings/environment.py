"""Settings from environment variables: paths, switches, API keys, tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import sqlite_url
from stash_sense_pipeline.settings.alert_address import is_alert_address
from stash_sense_pipeline.settings.rules import COUNT

ExecutorName = Literal["in_process", "docker", "k8s"]


_KEY_VARIABLE = re.compile(r"([A-Z0-9_]+_API_KEY|GITHUB_TOKEN)(_FILE)?")


@dataclass(frozen=True)
class Environment:
    """The settings from environment variables. The repr holds no secret."""

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
        """The directory of installed model packs."""
        return self.data_dir / "models"

    @property
    def suppression_key_file(self) -> Path:
        """The file with the key of the suppression hashes."""
        return self.data_dir / "suppression.key"

    @property
    def review_dir(self) -> Path:
        """The directory of reports for review by the operator."""
        return self.data_dir / "review"

    @property
    def releases_dir(self) -> Path:
        """The directory of releases."""
        return self.data_dir / "releases"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be shown: keys that are set directly, the catalog's password, and the alert URL."""
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
        """The operator's files by their names in a backup. Any of them may be missing."""
        return MappingProxyType(
            {
                "sources.yaml": self.sources_file,
                "identity_overrides.yaml": self.overrides_file,
                "suppressions.yaml": self.suppressions_file,
                "suppression.key": self.suppression_key_file,
            }
        )

    def api_key(self, name: str) -> str | None:
        """The key of a source: `<NAME>_API_KEY`, or the content of the file `<NAME>_API_KEY_FILE`, or None.

        Raises ConfigurationError, which never shows the key, when both are set or the key or file is unusable.
        """
        return self._secret(f"{name.upper()}_API_KEY")

    @property
    def github_token(self) -> str | None:
        """`GITHUB_TOKEN`, or the content of the file `GITHUB_TOKEN_FILE`, or None. Raises as api_key does."""
        return self._secret("GITHUB_TOKEN")

    def _secret(self, variable: str) -> str | None:
        direct = self._key_variables.get(variable)
        file = self._key_variables.get(f"{variable}_FILE")
        if direct is not None and file is not None:
            raise ConfigurationError(f"{variable} and {variable}_FILE are both set; keep one")
        if file is not None:
            return _key_from_file(f"{variable}_FILE", Path(file.get_secret_value()))
        return None if direct is None else _checked_key(variable, direct.get_secret_value())


def read_environment(environ: Mapping[str, str], cwd: Path) -> Environment:
    """Reads the settings from environment variables. Relative paths count from `cwd`; an empty variable is unset.

    Raises ConfigurationError that names the variable.
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
        alert_url=_alert_url(values),
        alert_after=_positive(values, "STASH_SENSE_ALERT_AFTER", 2),
        _key_variables={
            name: SecretStr(value) for name, value in values.items() if _KEY_VARIABLE.fullmatch(name)
        },
    )


def usable_path(name: str, path: Path) -> Path:
    """Returns `path` if it is usable for the setting `name`.

    Raises ConfigurationError when the path holds a line break, another control character or a byte that is not UTF-8:
    it could not be shown or stored.
    """
    text = str(path)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ConfigurationError(
            f"{name}: {text!a} holds a control character or a byte that is not UTF-8; choose another path"
        )
    return path


def _expanded(name: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{name}: {text!r} names the home directory of an unknown user") from error


def _catalog_url(given: str | None, data_dir: Path, cwd: Path) -> str:
    """The URL of the catalog. The relative path of a SQLite file is made absolute: services run in another directory."""
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
        raise ConfigurationError(f"{name}: {given!r} is not {COUNT}")
    return int(given)


def _address(values: Mapping[str, str], name: str, schemes: tuple[str, ...]) -> str | None:
    if name not in values:
        return None
    parts = urlsplit(values[name])
    if parts.scheme not in schemes or not parts.netloc:
        # The value is not shown: an alert URL is a secret, and a mistyped one holds most of it.
        raise ConfigurationError(f"{name}: the value is not an address of {' or '.join(schemes)}")
    return values[name].rstrip("/")


def _alert_url(values: Mapping[str, str]) -> SecretStr | None:
    given = values.get("STASH_SENSE_ALERT_URL")
    if given is None:
        return None
    if not is_alert_address(given):
        # The value is not shown: a mistyped address holds most of the secret.
        raise ConfigurationError(
            "STASH_SENSE_ALERT_URL: the value is no http or https address, with or without ntfy+ or discord+, and none "
            "of Apprise"
        )
    return SecretStr(given.rstrip("/"))


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
    # The key goes into a request header. Other characters in it are most likely a copying error.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"{where}: the key holds a character that no key has (a space, a line break, ...)"
        )
    return key
