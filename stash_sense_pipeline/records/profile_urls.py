"""Profile URLs: which page of which site a URL names, in canonical form."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple
from urllib.parse import quote, unquote

from stash_sense_pipeline.records.profile_sites import BY_HOST, UUID, Form, ProfileSite

MAX_URL_LENGTH = 4096
# A page on more records than this proves no identity: it is the page of a studio, a shop or a list.
MAX_PAGE_HOLDERS = 5
# The length of the decoded path. Fully escaped, it is still below MAX_URL_LENGTH.
MAX_PATH_LENGTH = 300


class ProfileKey(NamedTuple):
    """One page of one site. Equal keys name the same page."""

    site: str
    key: str


class Profile(NamedTuple):
    """The key of a profile URL, and the canonical URL, which parses to the same key and to itself.

    `url` is None for forms that name their page only after a redirect.
    """

    key: ProfileKey
    url: str | None


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HOST_LABELS = ("www.", "m.", "mobile.")
_DEFAULT_PORTS = ("", "80", "443")
_SAFE_IN_PATH = "/=():@,!$*;+"


class _Match(NamedTuple):
    key: ProfileKey
    form: Form
    groups: dict[str, str]


class _Location(NamedTuple):
    host: str
    port: str
    path: str
    query: str


def canonical_profile(url: str) -> ProfileKey | None:
    """The page that a URL names, or None when it is not a profile of a known site. Never raises."""
    found = _recognise(url)
    return None if found is None else found.key


def parse_profile(url: str) -> Profile | None:
    """Key and canonical URL of the page that a URL names, or None when it is not a profile of a known site."""
    found = _recognise(url)
    return None if found is None else Profile(found.key, _canonical_url(found.form, found.groups))


def stash_box_performer(url: str) -> tuple[str, str] | None:
    """(host, performer id) of a URL of the form https://HOST/performers/ID, for any host.

    The host is in lower case and without www. A port other than the default one is kept: `127.0.0.1:9998`. A uuid is
    lower-cased; any other identifier (a number, a slug) is unchanged.
    """
    location = _locate(url)
    if location is None:
        return None
    path = _clean_path(location.path)
    if path is None or len(path) > MAX_PATH_LENGTH:
        return None
    parts = path.split("/")
    if len(parts) < 2 or parts[0].lower() != "performers":
        return None
    known = _site_of(location.host)
    host = known[0].stash_box_host if known else location.host.removeprefix("www.")
    if host is None:
        return None
    if location.port not in _DEFAULT_PORTS:
        host = f"{host}:{location.port}"
    identifier = parts[1].lower() if re.fullmatch(UUID, parts[1]) else parts[1]
    return host, identifier


def _recognise(url: str) -> _Match | None:
    location = _locate(url)
    if location is None or location.port not in _DEFAULT_PORTS:
        return None
    known = _site_of(location.host)
    if known is None:
        return None
    site, language = known
    path = _clean_path(location.path)
    if path is None:
        return None
    if site.language_host:
        path = f"{language}/{path}"
    if site.query_parameter is not None and path.lower().endswith((".php", ".cfm")):
        parameters = _parameters(location.query)
        if site.refused_parameters & parameters.keys():
            return None
        value = _decode(parameters.get(site.query_parameter, "").replace("+", " "))
        if value is None:
            return None
        path = f"{path}?{value}"
    return _match(site, path)


def _locate(url: str) -> _Location | None:
    text = url.strip()
    if not text or len(text) > MAX_URL_LENGTH or _CONTROL.search(text):
        return None
    scheme = _SCHEME.match(text)
    if scheme:
        if scheme[1].lower() not in ("http", "https"):
            return None
        text = text[scheme.end() :]
    elif text.startswith("//"):
        text = text[2:]
    text = text.split("#", 1)[0]
    before, _, query = text.partition("?")
    netloc, _, path = before.partition("/")
    if "@" in netloc:
        return None
    host, _, port = netloc.partition(":")
    if not host or not port.isascii() or (port and not port.isdigit()):
        return None
    return _Location(host.lower().removesuffix("."), port, path, query)


def _site_of(host: str) -> tuple[ProfileSite, str] | None:
    """The site of a host and its language label; `www`, `m`, `mobile` or one language may precede the host."""
    exact = BY_HOST.get(host)
    if exact is not None:
        return exact, "en"
    for label in _HOST_LABELS:
        if host.startswith(label):
            known = BY_HOST.get(host[len(label) :])
            return None if known is None else (known, "en")
    label, _, rest = host.partition(".")
    known = BY_HOST.get(rest)
    if (
        known is not None
        and label.isascii()
        and label.replace("-", "").isalpha()
        and (len(label) == 2 or known.language_host)
    ):
        return known, label
    if known is None and rest.startswith("m."):
        known = BY_HOST.get(rest[2:])
        if known is not None and known.language_host:
            return known, label
    return None


def _decode(text: str) -> str | None:
    """The text, percent-decoded once and in NFC.

    None when it is not UTF-8, is encoded twice, or holds control characters.
    """
    if "%" in text:
        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            return None
        if _ESCAPE.search(text) or _CONTROL.search(text):
            return None
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _clean_path(path: str) -> str | None:
    decoded = _decode(path)
    if decoded is None:
        return None
    parts = [part for part in decoded.split("/") if part]
    if "." in parts or ".." in parts:
        return None
    return "/".join(parts)


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        parameters.setdefault(name.lower(), value)
    return parameters


def _match(site: ProfileSite, path: str) -> _Match | None:
    path = path.replace(" ", "_") if site.keep_case else _fold(path)
    if len(path) > MAX_PATH_LENGTH:
        return None
    for form in site.forms:
        match = form.pattern.fullmatch(path)
        if match is None:
            continue
        groups = {name: value or "" for name, value in match.groupdict().items()}
        _normalise(site, groups)
        # Dots alone are not a name, and in a path they lead to another page.
        if groups["id"] in ("", ".", "..") or groups["id"].casefold() in site.reserved:
            return None
        key = _fold(form.key.format_map(groups)) if site.keep_case else form.key.format_map(groups)
        return _Match(ProfileKey(site.name, key), form, groups)
    return None


def _fold(text: str) -> str:
    """The text, case-folded and in NFC, folded until another pass changes nothing."""
    if text.isascii():
        return text.lower()
    for _ in range(4):
        folded = unicodedata.normalize("NFC", text.casefold())
        if folded == text:
            break
        text = folded
    return text


def _normalise(site: ProfileSite, groups: dict[str, str]) -> None:
    """Brings the groups of a matched form into the site's canonical spelling, in place."""
    if site.keep_case:
        groups["id"] = re.sub("_+", "_", groups["id"]).strip("_")
    if site.title and groups["id"]:
        first = groups["id"][0].upper()
        groups["id"] = (first if len(first) == 1 else groups["id"][0]) + groups["id"][1:]
    if site.name == "iafd" and "name" in groups:
        groups["id"] = groups["id"].replace("+", "")
        groups["name"] = re.sub(
            r"(?<!-)-*(\.html?)$", r"\1", groups["name"].replace("_", "-").replace("+", "")
        )


def _canonical_url(form: Form, groups: dict[str, str]) -> str | None:
    if form.url is None:
        return None
    return form.url.format_map({name: quote(value, safe=_SAFE_IN_PATH) for name, value in groups.items()})
