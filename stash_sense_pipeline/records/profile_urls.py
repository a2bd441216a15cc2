"""Profile URLs: which page of which site a URL names, in canonical form."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from stash_sense_pipeline.records.profile_forms import UUID, Form, ProfileSite, words
from stash_sense_pipeline.records.profile_sites import BY_HOST

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
# A URL of printable ASCII with a plain host, and neither port nor fragment: host, path, query.
_PLAIN = re.compile(r"https?://([A-Za-z0-9.\-]+)/([ -\"$->@-~]*)(?:\?([ -\"$-~]*))?")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HOST_LABELS = ("www.", "m.", "mobile.")
_DEFAULT_PORTS = ("", "80", "443")
_HOSTS_REMEMBERED = 4096
_SAFE_IN_PATH = "/=():@,!$*;+"
# ISO 639-1 languages, and the countries that sites use in their place: a label before the host, as in de.example.com.
_LOCALES = words(
    """
    aa ab ae af ak am an ar as at au av ay az ba be bg bh bi bm bn bo br bs ca ce ch cl cn co cr cs cu cv cy cz da de dk
    dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gb gd ge gl gn gr gu gv ha he hi hk ho hr ht hu hy hz ia id ie ig
    ii ik in io is it iu ja jp jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
    mn mr ms mt mx my na nb nd ne ng nl nn no nr nv ny nz oc oj om or os pa pe ph pi pl ps pt qu rm rn ro rs rt ru rw sa
    sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ua ug uk ur us uz ve vi
    vn vo wa wo xh yi yo za zh zu
    """
)


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
    site, label = known
    path = _clean_path(location.path)
    if path is None:
        return None
    if site.language_host:
        path = f"{label or 'en'}/{path}"
    elif site.account_host:
        path = f"{label}/{path}"
    if site.query_parameter is not None and path.lower().endswith(site.query_paths):
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
    if not text or len(text) > MAX_URL_LENGTH:
        return None
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        return _Location(_plain_host(plain[1]), "", plain[2], plain[3] or "")
    if _CONTROL.search(text):
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
    return _Location(_plain_host(host), port, path, query)


def _plain_host(host: str) -> str:
    """The host in lower case. Letters of another width are those that a browser reads: ｘ.com is x.com."""
    if not host.isascii():
        with suppress(UnicodeError):
            host = host.encode("idna").decode()
    return host.lower().removesuffix(".")


@lru_cache(maxsize=_HOSTS_REMEMBERED)
def _site_of(host: str) -> tuple[ProfileSite, str] | None:
    """The site of a host, and the label before it that is a language or an account; `www`, `m` and `mobile` are none."""
    exact = BY_HOST.get(host)
    if exact is not None:
        return exact, ""
    for label in _HOST_LABELS:
        if host.startswith(label):
            known = BY_HOST.get(host[len(label) :])
            return None if known is None else (known, "")
    label, _, rest = host.partition(".")
    known = BY_HOST.get(rest)
    if known is None and rest.startswith("m."):
        known = BY_HOST.get(rest[2:])
        return (known, label) if known is not None and known.language_host and _is_language(label) else None
    if known is None:
        return None
    if known.account_host:
        return known, label
    allowed = _is_language(label) if known.language_host else _is_locale(label)
    return (known, label) if allowed else None


def _is_language(label: str) -> bool:
    """True for a label of Wikipedia's, such as `simple` or `zh-yue`: which of them exist is not known here."""
    return label.isascii() and label.replace("-", "").isalpha()


def _is_locale(label: str) -> bool:
    """True for `de` and `de-at`, but not for `vm` or `l`, where other services of a site live."""
    language, dash, country = label.partition("-")
    return language in _LOCALES and (not dash or (len(country) == 2 and country.isalpha()))


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
        # A URL that was copied from the source of a page has &amp; between its parameters.
        parameters.setdefault(name.lower().removeprefix("amp;"), value)
    return parameters


def _match(site: ProfileSite, path: str) -> _Match | None:
    exact = path.replace(" ", "_") if site.keep_case else path
    folded = exact if site.keep_case else _fold(path)
    if len(folded) > MAX_PATH_LENGTH or len(exact) > MAX_PATH_LENGTH:
        return None
    for form in site.forms:
        match = form.pattern.fullmatch(exact if form.exact else folded)
        if match is None:
            continue
        groups = match.groupdict("")
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
        if "gender" in groups:
            groups["gender"] = {"female": "f", "male": "m"}.get(groups["gender"], groups["gender"])
        groups["id"] = groups["id"].replace("+", "")
        groups["name"] = re.sub(
            r"(?<!-)-*(\.html?)$", r"\1", groups["name"].replace("_", "-").replace("+", "")
        )


def _canonical_url(form: Form, groups: dict[str, str]) -> str | None:
    if form.url is None:
        return None
    return form.url.format_map({name: quote(value, safe=_SAFE_IN_PATH) for name, value in groups.items()})
