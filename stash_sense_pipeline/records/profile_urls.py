"""Which person's page a URL names: one table of sites, for connectors and identity alike; no network."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

MAX_URL_LENGTH = 4096
# Decoded; even fully escaped it stays below MAX_URL_LENGTH.
MAX_PATH_LENGTH = 300


class ProfileKey(NamedTuple):
    """One page of one site. Equal keys name the same page."""

    site: str
    key: str


class Profile(NamedTuple):
    """What a URL says: the key, and the canonical URL, which parses to the same key and to itself.

    `url` is None for forms that must be followed once to learn the page they stand for.
    """

    key: ProfileKey
    url: str | None


@dataclass(frozen=True)
class Form:
    """One shape of a profile URL.

    `pattern` must match the whole decoded path without outer slashes, `?value` of `query_parameter` added.
    `key` and `url` are format strings over its named groups; an optional group that did not match is empty.
    """

    pattern: re.Pattern[str]
    key: str
    url: str | None


@dataclass(frozen=True)
class Site:
    """One row of the table.

    `hosts`: exact names without www. `identity_grade`: may its keys prove that two records are one person.
    `singular`: a person has one page there, so two different keys speak for two people.
    `reserved`: values of the group `id` that are pages of the site and no people, lower case.
    `stash_box_host`: the universal-id host, if the site is a stash-box.
    """

    name: str
    hosts: tuple[str, ...]
    forms: tuple[Form, ...]
    identity_grade: bool = True
    singular: bool = False
    keep_case: bool = False
    title: bool = False
    reserved: frozenset[str] = frozenset()
    query_parameter: str | None = None
    refused_parameters: frozenset[str] = frozenset()
    language_host: bool = False
    stash_box_host: str | None = None


_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_LANGUAGE = r"(?:[a-zA-Z]{2}/)?"
_REGION = r"(?:[a-zA-Z]{2}(?:-[a-zA-Z]{2})?/)?"


def _form(pattern: str, key: str, url: str | None) -> Form:
    return Form(re.compile(pattern, re.IGNORECASE), key, url)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _stash_box(name: str, host: str, *aliases: str, identifier: str = _UUID) -> Site:
    form = _form(rf"performers/(?P<id>{identifier})(?:/.*)?", "{id}", f"https://{host}/performers/{{id}}")
    return Site(
        name,
        (host, *aliases),
        (form,),
        singular=True,
        stash_box_host=host,
        reserved=_words("add edit create new"),
    )


def _handles(
    name: str,
    hosts: str,
    handle: str,
    reserved: str = "",
    *,
    prefix: str = "",
    tail: str = "",
    canonical_prefix: str | None = None,
) -> Site:
    """A network of accounts; `prefix` matches before the handle, `tail` the sub-pages of the same person."""
    first, *_ = hosts.split()
    shown = prefix if canonical_prefix is None else canonical_prefix
    form = _form(
        rf"{prefix}(?P<id>{handle}){tail and f'(?:/(?:{tail}))?'}", "{id}", f"https://{first}/{shown}{{id}}"
    )
    return Site(name, tuple(hosts.split()), (form,), reserved=_words(reserved))


# Facts on the ten reference sites: the project's notes on them. Reserved words of the networks: first path
# segments that are functions of the site; twitter.com/intent alone once joined many strangers.
SITES: tuple[Site, ...] = (
    _stash_box("stashdb", "stashdb.org"),
    # ThePornDB names a performer by uuid, number or slug; which of them is stored decides the catalog.
    _stash_box(
        "theporndb",
        "theporndb.net",
        "api.theporndb.net",
        "metadataapi.net",
        "api.metadataapi.net",
        identifier="[^/?]+",
    ),
    _stash_box("fansdb", "fansdb.cc"),
    _stash_box("pmvstash", "pmvstash.org"),
    _stash_box("javstash", "javstash.org"),
    Site(
        "babepedia",
        ("babepedia.com",),
        (_form(r"babe/(?P<id>[^/]+)(?:/.*)?", "{id}", "https://www.babepedia.com/babe/{id}"),),
        singular=True,
        keep_case=True,
    ),
    Site(
        "iafd",
        ("iafd.com",),
        (
            _form(
                rf"person\.rme/id=(?P<id>{_UUID})(?:/.*)?", "{id}", "https://www.iafd.com/person.rme/id={id}"
            ),
            _form(
                r"person\.rme/perfid=(?P<id>[^/=]+)/gender=(?P<gender>[a-z])(?:/(?P<name>[^/=]+))?",
                "perfid:{id}:{gender}",
                "https://www.iafd.com/person.rme/perfid={id}/gender={gender}/{name}",
            ),
            _form(
                r"person\.rme/perfid=(?P<id>[^/=]+)(?:/(?P<name>[^/=]+))?",
                "perfid:{id}:?",
                "https://www.iafd.com/person.rme/perfid={id}/{name}",
            ),
        ),
        singular=True,
    ),
    Site(
        "freeones",
        ("freeones.com", "freeones.xxx", "freeones.ru", "freeones.ca"),
        (
            _form(r"html/(?P<id>[a-z]_links/.+)", "legacy:{id}", None),
            _form(
                rf"{_LANGUAGE}(?P<id>[^/]{{3,}})(?:/(?:bio|feed|photos|videos|links|profile))?",
                "{id}",
                "https://www.freeones.com/{id}",
            ),
        ),
        singular=True,
        reserved=_words(
            "babes photos videos feed search login signup vod html forums cams register logout about"
            " contact help terms privacy dmca sitemap categories galleries models channels live news blog"
            " tags profile bio links index.html index.php robots.txt"
        ),
    ),
    Site(
        "boobpedia",
        ("boobpedia.com",),
        (
            _form(
                r"(?:boobs/|wiki/index\.php\?)(?!(?:file|image|category|user|talk|special|template|help|media|mediawiki"
                r"|boobpedia|project|portal|module|[a-z]+_talk):)(?P<id>[^/?]+)",
                "{id}",
                "https://www.boobpedia.com/boobs/{id}",
            ),
        ),
        singular=True,
        keep_case=True,
        title=True,
        reserved=_words("main_page"),
        query_parameter="title",
        refused_parameters=_words("action oldid diff curid"),
    ),
    Site(
        "thenude",
        ("thenude.com", "thenude.eu"),
        (
            _form(
                r"(?!model_index)[^/]*_0*(?P<id>[1-9][0-9]{0,14})\.htm",
                "{id}",
                "https://www.thenude.com/_{id}.htm",
            ),
        ),
        singular=True,
    ),
    Site(
        "afdb",
        ("adultfilmdatabase.com",),
        (
            _form(
                r"actor/(?P<slug>[^/]+-)0*(?P<id>[1-9][0-9]{0,14})",
                "{id}",
                "https://www.adultfilmdatabase.com/actor/{slug}{id}/",
            ),
            _form(
                r"actor\.cfm\?0*(?P<id>[1-9][0-9]{0,14})",
                "{id}",
                "https://www.adultfilmdatabase.com/actor.cfm?actorid={id}",
            ),
        ),
        singular=True,
        query_parameter="actorid",
    ),
    # The slug is a tag that namesakes share: pictures only, never a proof.
    Site(
        "pornpics",
        ("pornpics.com",),
        (_form(rf"{_LANGUAGE}pornstars/(?P<id>[^/]+)", "{id}", "https://www.pornpics.com/pornstars/{id}/"),),
        identity_grade=False,
        reserved=_words("list gay shemale"),
    ),
    Site(
        "elitebabes",
        ("elitebabes.com",),
        (
            _form(
                r"model/(?P<id>[^/]+)(?:/(?:sort|mpage)/[^/]+)*",
                "{id}",
                "https://www.elitebabes.com/model/{id}/",
            ),
        ),
        singular=True,
    ),
    Site(
        "javdatabase",
        ("javdatabase.com",),
        (_form(r"idols/(?P<id>[^/]+)", "{id}", "https://www.javdatabase.com/idols/{id}/"),),
        singular=True,
        reserved=_words("page"),
    ),
    Site(
        "indexxx",
        ("indexxx.com",),
        (
            _form(r"m/(?P<id>[^/]+)", "{id}", "https://www.indexxx.com/m/{id}"),
            _form(r"models/(?P<id>[0-9]+)(?:/.*)?", "legacy:{id}", None),
        ),
        singular=True,
    ),
    Site(
        "imdb",
        ("imdb.com",),
        (
            _form(
                rf"{_REGION}name/(?P<id>nm[0-9]{{7,10}})(?:/.*)?", "{id}", "https://www.imdb.com/name/{id}/"
            ),
        ),
        singular=True,
    ),
    Site(
        "wikidata",
        ("wikidata.org",),
        (
            _form(
                r"(?:wiki|entity|wiki/special:entitypage)/q(?P<id>[1-9][0-9]{0,11})",
                "Q{id}",
                "https://www.wikidata.org/wiki/Q{id}",
            ),
        ),
        singular=True,
    ),
    # Articles on lists, groups and companies have the same shape as articles on people.
    Site(
        "wikipedia",
        ("wikipedia.org",),
        (
            _form(
                r"(?P<language>[a-z]{2,12}(?:-[a-z]+)*)/wiki/(?P<id>[^:]+)",
                "{language}:{id}",
                "https://{language}.wikipedia.org/wiki/{id}",
            ),
        ),
        identity_grade=False,
        keep_case=True,
        title=True,
        language_host=True,
        reserved=_words("main_page"),
    ),
    Site(
        "data18",
        ("data18.com",),
        (_form(r"name/(?P<id>[^/]+)(?:/.*)?", "{id}", "https://www.data18.com/name/{id}"),),
        singular=True,
    ),
    Site(
        "minnano_av",
        ("minnano-av.com",),
        (
            _form(
                r"actress0*(?P<id>[1-9][0-9]{0,9})\.html",
                "{id}",
                "https://www.minnano-av.com/actress{id}.html",
            ),
        ),
        singular=True,
    ),
    Site(
        "xcity",
        ("xxx.xcity.jp", "xcity.jp"),
        (_form(r"idol/detail/0*(?P<id>[1-9][0-9]{0,9})", "{id}", "https://xxx.xcity.jp/idol/detail/{id}/"),),
        singular=True,
    ),
    Site(
        "dmm",
        ("actress.dmm.co.jp",),
        (
            _form(
                r"-/detail/=/actress_id=0*(?P<id>[1-9][0-9]{0,9})",
                "{id}",
                "https://actress.dmm.co.jp/-/detail/=/actress_id={id}/",
            ),
        ),
        singular=True,
    ),
    Site(
        "pornhub",
        ("pornhub.com",),
        (
            _form(
                r"(?P<kind>pornstar|model)/(?P<id>[^/]+)(?:/(?:videos|photos|about|gifs)(?:/.*)?)?",
                "{kind}:{id}",
                "https://www.pornhub.com/{kind}/{id}",
            ),
        ),
    ),
    Site(
        "xvideos",
        ("xvideos.com",),
        (
            _form(
                r"(?P<kind>pornstars|models|profiles)/(?P<id>[^/]+)",
                "{kind}:{id}",
                "https://www.xvideos.com/{kind}/{id}",
            ),
        ),
    ),
    Site(
        "manyvids",
        ("manyvids.com",),
        (
            _form(
                r"profile/0*(?P<id>[1-9][0-9]{0,14})(?:/.*)?", "{id}", "https://www.manyvids.com/Profile/{id}"
            ),
        ),
    ),
    _handles(
        "twitter",
        "x.com twitter.com",
        "[A-Za-z0-9_]{1,15}",
        "intent home i search share explore hashtag login signup settings notifications messages tos"
        " privacy about compose jobs download logout account who_to_follow help oauth welcome widgets"
        " statuses status photo media web null undefined",
        prefix="@?",
        canonical_prefix="",
        tail="media|with_replies|likes|highlights|photo|header_photo|followers|following",
    ),
    _handles(
        "instagram",
        "www.instagram.com instagram.com instagr.am",
        "[A-Za-z0-9_](?:[A-Za-z0-9_.]{0,28}[A-Za-z0-9_])?",
        "p explore reel reels stories story accounts tv direct about developer developers legal api web"
        " press support privacy terms login signup share sharer popular directory home download _u _n null"
        " undefined",
        prefix="@?",
        canonical_prefix="",
        tail="reels|tagged|channel|feed|related_profiles",
    ),
    _handles(
        "onlyfans",
        "onlyfans.com",
        "(?![0-9]+$)(?![0-9]+/)[A-Za-z0-9_.-]{2,64}",
        "home my posts post help terms privacy contact login signup register search settings"
        " notifications chats collections subscriptions faq about careers brand dmca usc2257 complaints"
        " action rest api public files transparency-center blog store cookies how share explore null"
        " undefined",
        prefix="@?",
        canonical_prefix="",
        tail="media|photos|videos|likes|c[0-9]+|trial/[^/]+",
    ),
    _handles(
        "fansly",
        "fansly.com",
        "[A-Za-z0-9_.-]{2,64}",
        "home explore discover login signup register settings messages notifications lists post posts"
        " subscriptions live r legal terms privacy support about contact help application creator creators"
        " verify share null undefined",
        prefix="@?",
        canonical_prefix="",
        tail="posts|media",
    ),
    _handles("tiktok", "www.tiktok.com tiktok.com", r"[A-Za-z0-9_.]{2,24}", prefix="@"),
    _handles("threads", "www.threads.net threads.net threads.com", r"[A-Za-z0-9_.]{1,30}", prefix="@"),
    _handles("bluesky", "bsky.app", r"[A-Za-z0-9.:-]{3,253}", prefix="profile/"),
    _handles(
        "youtube",
        "www.youtube.com youtube.com",
        r"[^/@]{2,64}",
        prefix="@",
        tail="videos|about|featured|shorts",
    ),
    _handles(
        "reddit",
        "www.reddit.com reddit.com old.reddit.com",
        r"[A-Za-z0-9_-]{3,20}",
        "me",
        prefix="(?:u|user)/",
        canonical_prefix="user/",
    ),
    _handles(
        "linktree",
        "linktr.ee",
        r"[A-Za-z0-9_.]{2,64}",
        "admin login register s help blog discover marketplace pricing templates about privacy terms",
        prefix="@?",
        canonical_prefix="",
    ),
)

_BY_NAME = {site.name: site for site in SITES}
_BY_HOST = {host.removeprefix("www."): site for site in SITES for host in site.hosts}
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


def site(name: str) -> Site | None:
    """The table's row of that name."""
    return _BY_NAME.get(name)


def canonical_profile(url: str) -> ProfileKey | None:
    """The page a URL names, or None when it is no profile of a known site. Never raises."""
    found = _recognise(url)
    return None if found is None else found.key


def parse_profile(url: str) -> Profile | None:
    """Key and canonical URL of the page a URL names, or None when it is no profile of a known site."""
    found = _recognise(url)
    return None if found is None else Profile(found.key, _canonical_url(found.form, found.groups))


def stash_box_performer(url: str) -> tuple[str, str] | None:
    """(host, performer id) of any URL of the shape https://HOST/performers/ID, whatever the host.

    The host is lower case without www; a port that is not the default one stays: `127.0.0.1:9998`. A uuid is
    lower-cased; another identifier (a number, a slug) is given as it stands.
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
    identifier = parts[1].lower() if re.fullmatch(_UUID, parts[1]) else parts[1]
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


def _site_of(host: str) -> tuple[Site, str] | None:
    """The site of a host and its language label; `www`, `m`, `mobile` or one language may precede the host."""
    exact = _BY_HOST.get(host)
    if exact is not None:
        return exact, "en"
    for label in _HOST_LABELS:
        if host.startswith(label):
            known = _BY_HOST.get(host[len(label) :])
            return None if known is None else (known, "en")
    label, _, rest = host.partition(".")
    known = _BY_HOST.get(rest)
    if (
        known is not None
        and label.isascii()
        and label.replace("-", "").isalpha()
        and (len(label) == 2 or known.language_host)
    ):
        return known, label
    if known is None and rest.startswith("m."):
        known = _BY_HOST.get(rest[2:])
        if known is not None and known.language_host:
            return known, label
    return None


def _decode(text: str) -> str | None:
    """Decoded once, in NFC; None when not UTF-8, encoded twice, or with control characters."""
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


def _match(site: Site, path: str) -> _Match | None:
    path = path.replace(" ", "_") if site.keep_case else _fold(path)
    if len(path) > MAX_PATH_LENGTH:
        return None
    for form in site.forms:
        match = form.pattern.fullmatch(path)
        if match is None:
            continue
        groups = {name: value or "" for name, value in match.groupdict().items()}
        _tidy(site, groups)
        # Dots alone are no name, and in a path they would lead to another page.
        if groups["id"] in ("", ".", "..") or groups["id"].casefold() in site.reserved:
            return None
        key = _fold(form.key.format_map(groups)) if site.keep_case else form.key.format_map(groups)
        return _Match(ProfileKey(site.name, key), form, groups)
    return None


def _fold(text: str) -> str:
    """Case-folded and in NFC; folding again changes nothing."""
    if text.isascii():
        return text.lower()
    for _ in range(4):
        folded = unicodedata.normalize("NFC", text.casefold())
        if folded == text:
            break
        text = folded
    return text


def _tidy(site: Site, groups: dict[str, str]) -> None:
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
