"""What a row of the table of profile sites is made of: forms of URLs, reserved words, and helpers that write rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Form:
    """One form of a profile URL.

    `expression` must match the whole decoded path, without outer slashes and followed by `?value` of `query_parameter`.
    `key` and `url` are format strings over its named groups. An optional group that did not match is empty.
    `exact`: ids that differ in case alone are different pages, so the key keeps the case.
    `example` is a URL of this form and `example_key` its key: the test of the table reads them.
    """

    expression: str
    key: str
    url: str | None
    example: str = ""
    example_key: str = ""
    exact: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression. Most programs meet few of the sites, and compiling all of them takes a while."""
        return re.compile(self.expression, 0 if self.exact else re.IGNORECASE)


@dataclass(frozen=True)
class ProfileSite:
    """One row of the table.

    `hosts`: exact names without www. `identity_grade`: its keys may prove that two records are one person.
    `singular`: a person has one page there, so two different keys are evidence for two people.
    `shared`: namesakes or groups share its pages, so that a page is no evidence at all.
    `reserved`: values of the group `id`, in lower case, that are other pages of the site than profiles.
    `no_profiles`: further paths of the site that name no person, such as lists and searches; only tests read them.
    `query_paths`: ends of the paths on which `query_parameter` names the page.
    `language_host`, `account_host`: a label before the host is a language, or the account itself.
    `stash_box_host`: the host in universal ids, if the site is a stash-box.
    """

    name: str
    hosts: tuple[str, ...]
    forms: tuple[Form, ...]
    identity_grade: bool = True
    singular: bool = False
    shared: bool = False
    keep_case: bool = False
    title: bool = False
    reserved: frozenset[str] = frozenset()
    no_profiles: tuple[str, ...] = ()
    query_parameter: str | None = None
    query_paths: tuple[str, ...] = (".php", ".cfm")
    refused_parameters: frozenset[str] = frozenset()
    language_host: bool = False
    account_host: bool = False
    stash_box_host: str | None = None


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Lists of people or of their works, which stand where names stand.
LISTS = words(
    """
    0-9 actors actresses all awards babes best cams challenges couple couples female females galleries gay girls
    guys history hot idols latest likes list live-cams livecams male males men mobile model model-index models
    most-viewed performers pictures playlists popular porn porn-stars pornstars pornstars-index random recommended
    shemale shemales straight top top-100 top-models top-rated trans transgender trending vip webcams women
    """
)
UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
LANGUAGE = r"(?:[a-zA-Z]{2}/)?"
REGION = r"(?:[a-zA-Z]{2}(?:-[a-zA-Z]{2})?/)?"
# A number without leading zeros: two spellings of one id give one key.
NUMBER = "0*(?P<id>[1-9][0-9]{0,14})"
# Programs and files are functions of a site: /profile.php, /sitemap.xml. But /example.js may be a handle.
NO_FILE = r"(?![^/]*\.(?:aspx?|cfm|cgi|html?|php|xml)(?:/|$))"
# A name in a path. One letter or a number alone is a page of a list: /pornstars/a/, /pornstars/2/.
SLUG = "(?P<id>(?![0-9]+(?:/|$))[^/]{2,})"
# Tabs of one profile. Whatever else follows a profile is a page of its own: a post, a video, a gallery.
TABS = (
    "about|albums|bio|clips|collections|feed|followers|following|gallery|images|info|likes|links|live|media|photos"
    "|pictures|playlists|posts|profile|reels|shop|store|stories|subscribe|tagged|videos|wall"
)
# First segments of paths that are functions of nearly every network. Without them, /login or /explore on many records
# would be one account that joins their performers.
FUNCTIONS = LISTS | words(
    """
    18-usc-2257 2257 about about-us account accounts admin ads advertise affiliate affiliates age-verification
    android api app apps auth billing blog bookmarks business careers cart categories category challenge channels
    chat checkout collections communities community contact contact-us cookie-policy cookies copyright create
    creator creators dashboard developer developers discover dmca docs download downloads edit events explore faq
    favicon.ico favorites favourites featured feed feedback feeds followers following forgot-password forum forums
    group groups guidelines hashtag help home inbox index index.html index.php invite ios jobs join landing language
    languages legal library lists live login logout lost-password manifest.json marketplace me media members
    messages my my-profile new news notifications null oauth offers online opensearch.xml page pages password
    payment payments photo photos posts premium press pricing privacy privacy-policy profile profiles promo
    purchases rankings recover referral register reset-password robots.txt rss rules safety search security settings
    share shop sign-in sign-up signin signout signup site sitemap sitemap.xml start static status store stories
    studios subscribe subscriptions suggestions support tag tags templates terms terms-of-service terms-of-use tos
    tour trending trial undefined unsubscribe upgrade upload usc-2257 usc2257 user users verify video videos watch
    welcome widgets wp-admin
    """
)


def form(pattern: str, key: str, url: str | None, example: str = "", example_key: str = "") -> Form:
    """A form of which the case does not matter."""
    return Form(pattern, key, url, example, example_key)


def exact_form(pattern: str, key: str, url: str, example: str, example_key: str) -> Form:
    """A form with ids that differ in case alone."""
    return Form(pattern, key, url, example, example_key, exact=True)


def stash_box(name: str, host: str, *aliases: str, identifier: str = UUID) -> ProfileSite:
    """A stash-box. `aliases` are hosts that it has or had besides `host`."""
    id_of_example = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
    found = form(
        rf"performers/(?P<id>{identifier})(?:/.*)?",
        "{id}",
        f"https://{host}/performers/{{id}}",
        f"https://{host}/performers/{id_of_example}/edits",
        id_of_example,
    )
    return ProfileSite(
        name,
        (host, *aliases),
        (found,),
        singular=True,
        stash_box_host=host,
        reserved=words("add edit create new search"),
        no_profiles=("performers", "performers?page=2", "performers/add", "scenes/1", "login", "edits"),
    )


@dataclass(frozen=True)
class Accounts:
    """What the rows of networks of accounts have in common; `row` gives a row.

    `handle`: pattern of a handle. `prefix` matches before the handle, `shown` is written there in canonical URLs.
    `tail`: the sub-pages of the same account. `reserved`: handles that are functions of this site only.
    `identity_grade` as in ProfileSite: false where pages of fans, agencies and studios are usual.
    """

    handle: str = "[a-z0-9_.-]{2,64}"
    prefix: str = "@?"
    shown: str = ""
    tail: str = TABS
    reserved: str = ""
    functions: frozenset[str] = FUNCTIONS
    no_profiles: tuple[str, ...] = (
        "",
        "login",
        "explore",
        "search?q=example",
        "tag/example",
        "create",
        "terms",
    )
    identity_grade: bool = True

    def row(self, name: str, hosts: str, example: str, example_key: str) -> ProfileSite:
        """The row of a site; the first host is written in canonical URLs."""
        first, *_ = hosts.split()
        tail = f"(?:/(?:{self.tail}))?" if self.tail else ""
        found = form(
            rf"{self.prefix}(?P<id>{NO_FILE}(?:{self.handle})){tail}",
            "{id}",
            f"https://{first}/{self.shown}{{id}}",
            example,
            example_key,
        )
        return ProfileSite(
            name,
            tuple(hosts.split()),
            (found,),
            identity_grade=self.identity_grade,
            reserved=words(self.reserved) | self.functions,
            no_profiles=self.no_profiles,
        )
