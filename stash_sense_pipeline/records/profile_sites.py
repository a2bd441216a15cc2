"""The table of known sites: hosts, URL patterns, and whether a page proves identity."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One form of a profile URL.

    `pattern` must match the whole decoded path, without outer slashes and followed by `?value` of `query_parameter`.
    `key` and `url` are format strings over its named groups. An optional group that did not match is empty.
    """

    pattern: re.Pattern[str]
    key: str
    url: str | None


@dataclass(frozen=True)
class ProfileSite:
    """One row of the table.

    `hosts`: exact names without www. `identity_grade`: its keys may prove that two records are one person.
    `singular`: a person has one page there, so two different keys are evidence for two people.
    `reserved`: values of the group `id`, in lower case, that are other pages of the site than profiles.
    `stash_box_host`: the host in universal ids, if the site is a stash-box.
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


UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"


_LANGUAGE = r"(?:[a-zA-Z]{2}/)?"


_REGION = r"(?:[a-zA-Z]{2}(?:-[a-zA-Z]{2})?/)?"


def _form(pattern: str, key: str, url: str | None) -> Form:
    return Form(re.compile(pattern, re.IGNORECASE), key, url)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _stash_box(name: str, host: str, *aliases: str, identifier: str = UUID) -> ProfileSite:
    form = _form(rf"performers/(?P<id>{identifier})(?:/.*)?", "{id}", f"https://{host}/performers/{{id}}")
    return ProfileSite(
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
) -> ProfileSite:
    """A network of accounts. `prefix` matches before the handle, `tail` the sub-pages of the same account."""
    first, *_ = hosts.split()
    shown = prefix if canonical_prefix is None else canonical_prefix
    form = _form(
        rf"{prefix}(?P<id>{handle}){tail and f'(?:/(?:{tail}))?'}", "{id}", f"https://{first}/{shown}{{id}}"
    )
    return ProfileSite(name, tuple(hosts.split()), (form,), reserved=_words(reserved))


# The facts on the ten reference sites are from the project's notes. Reserved words of the networks are first path
# segments that are functions of the site: without them, twitter.com/intent would join records of many performers.
SITES: tuple[ProfileSite, ...] = (
    _stash_box("stashdb", "stashdb.org"),
    # ThePornDB names a performer by uuid, number or slug. The catalog decides which of them is stored.
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
    ProfileSite(
        "babepedia",
        ("babepedia.com",),
        (_form(r"babe/(?P<id>[^/]+)(?:/.*)?", "{id}", "https://www.babepedia.com/babe/{id}"),),
        singular=True,
        keep_case=True,
    ),
    ProfileSite(
        "iafd",
        ("iafd.com",),
        (
            _form(
                rf"person\.rme/id=(?P<id>{UUID})(?:/.*)?", "{id}", "https://www.iafd.com/person.rme/id={id}"
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
    ProfileSite(
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
    ProfileSite(
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
    ProfileSite(
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
    ProfileSite(
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
    # The slug is a tag that namesakes share: the site gives images, but its pages prove no identity.
    ProfileSite(
        "pornpics",
        ("pornpics.com",),
        (_form(rf"{_LANGUAGE}pornstars/(?P<id>[^/]+)", "{id}", "https://www.pornpics.com/pornstars/{id}/"),),
        identity_grade=False,
        reserved=_words("list gay shemale"),
    ),
    ProfileSite(
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
    ProfileSite(
        "javdatabase",
        ("javdatabase.com",),
        (_form(r"idols/(?P<id>[^/]+)", "{id}", "https://www.javdatabase.com/idols/{id}/"),),
        singular=True,
        reserved=_words("page"),
    ),
    ProfileSite(
        "indexxx",
        ("indexxx.com",),
        (
            _form(r"m/(?P<id>[^/]+)", "{id}", "https://www.indexxx.com/m/{id}"),
            _form(r"models/(?P<id>[0-9]+)(?:/.*)?", "legacy:{id}", None),
        ),
        singular=True,
    ),
    ProfileSite(
        "imdb",
        ("imdb.com",),
        (
            _form(
                rf"{_REGION}name/(?P<id>nm[0-9]{{7,10}})(?:/.*)?", "{id}", "https://www.imdb.com/name/{id}/"
            ),
        ),
        singular=True,
    ),
    ProfileSite(
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
    # Articles on lists, groups and companies have the same URL form as articles on people.
    ProfileSite(
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
    ProfileSite(
        "data18",
        ("data18.com",),
        (_form(r"name/(?P<id>[^/]+)(?:/.*)?", "{id}", "https://www.data18.com/name/{id}"),),
        singular=True,
    ),
    ProfileSite(
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
    ProfileSite(
        "xcity",
        ("xxx.xcity.jp", "xcity.jp"),
        (_form(r"idol/detail/0*(?P<id>[1-9][0-9]{0,9})", "{id}", "https://xxx.xcity.jp/idol/detail/{id}/"),),
        singular=True,
    ),
    ProfileSite(
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
    ProfileSite(
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
    ProfileSite(
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
    ProfileSite(
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


BY_HOST = {host.removeprefix("www."): site for site in SITES for host in site.hosts}


def site(name: str) -> ProfileSite | None:
    """The table's row of that name."""
    return _BY_NAME.get(name)
