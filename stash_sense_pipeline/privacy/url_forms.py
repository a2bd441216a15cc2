"""Parsed URLs: their plain form, the page of a known site that they name, and whether it identifies a person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from stash_sense_pipeline.records import profile_sites, profile_urls
from stash_sense_pipeline.records.record_key import RecordKey

# Pages of these programs differ in the query. Elsewhere the query holds tracking, sizes and signatures.
_PROGRAM = re.compile(r"\.(php|cfm|aspx?|cgi|jsp)$", re.IGNORECASE)
# The form of most URLs: only the scheme, www and outer slashes have to be removed.
_SIMPLE_URL = re.compile(
    r"https?://(?:www\.)?([a-z0-9.-]*[a-z0-9-])(?:/+((?!/)[!$&'()*+,./0-9:;=@A-Z_a-z~-]*))?", re.ASCII
)


class ParsedUrl(NamedTuple):
    """A URL, parsed once. `plain` as in plain_url; `profile` is the page of a known site that it names, or None."""

    url: str
    plain: str
    profile: profile_urls.ProfileKey | None

    @property
    def is_identifying(self) -> bool:
        """True for a page of a known site that can identify a person."""
        site = profile_sites.site(self.profile.site) if self.profile is not None else None
        return site is not None and site.identity_grade

    @property
    def plain_names_profile(self) -> bool:
        """False when the query says which profile the URL names: the plain form leaves it out, and is that of all."""
        return "?" not in self.url or profile_urls.canonical_profile(self.plain) == self.profile

    @property
    def is_compared_as_written(self) -> bool:
        """True for a page that only its plain form identifies; False for a URL without a path.

        It is on a site that the table of profile sites does not list, or on one of its sites that prove no identity, such
        as a page that a fan may run. Pages that namesakes share are left out.
        """
        if not self.plain.partition("/")[2]:
            return False
        site = profile_sites.site(self.profile.site) if self.profile is not None else None
        if site is None:
            return True
        return not (site.identity_grade or site.shared) and self.plain_names_profile

    @property
    def stash_box_record(self) -> RecordKey | None:
        """The record with this page on a public stash-box; None for another page."""
        site = profile_sites.site(self.profile.site) if self.profile is not None else None
        return self.profile if site is not None and site.stash_box_host is not None else None


def parse_url(url: str) -> ParsedUrl:
    """Parses a URL. Never raises: a text that is no URL has a plain form and no profile."""
    return ParsedUrl(url, plain_url(url), profile_urls.canonical_profile(url))


def identifying_pages(pages: Iterable[ParsedUrl]) -> list[ParsedUrl]:
    """The pages that can identify a person, each once: of several URLs of one page, the first."""
    found: dict[profile_urls.ProfileKey, ParsedUrl] = {}
    for page in pages:
        if page.profile is not None and page.is_identifying:
            found.setdefault(page.profile, page)
    return list(found.values())


def plain_url(url: str) -> str:
    """A URL without the parts that do not distinguish pages: scheme, www, case of the host, outer slashes, query."""
    simple = _SIMPLE_URL.fullmatch(url)
    return f"{simple[1]}/{(simple[2] or '').strip('/')}" if simple is not None else _plain_url(url)


def _plain_url(url: str) -> str:
    text = re.sub(r"^([a-z][a-z0-9+.-]*:)?//", "", url.strip(), flags=re.IGNORECASE).split("#", 1)[0]
    before, _, query = text.partition("?")
    netloc, _, path = before.partition("/")
    host = netloc.rpartition("@")[2].lower().removeprefix("www.")
    host = re.sub(r"\.?(:80|:443)?$", "", host)
    if not host.isascii():
        # The host may be written in Unicode or in its encoded form, xn--...
        with suppress(UnicodeError):
            host = host.encode("idna").decode()
    path = unicodedata.normalize("NFC", unquote(path)).strip("/")
    if query and (not path or _PROGRAM.search(path)):
        return f"{host}/{path}?{urlencode(sorted(parse_qsl(query, keep_blank_values=True)))}"
    return f"{host}/{path}"


def record_page(record: RecordKey, hosts: Mapping[str, str]) -> str | None:
    """URL of the page of a record on its stash-box. None for a source that is not a stash-box.

    `hosts` are the hosts of the stash-boxes of sources.yaml by source name; the public ones are known without it.
    """
    source, source_id = record
    site = profile_sites.site(source)
    host = hosts.get(source) or (site.stash_box_host if site is not None else None)
    return f"https://{host}/performers/{source_id}" if host is not None else None
