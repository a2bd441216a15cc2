"""URLs in one form for comparison, and the pages that can identify a person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, unquote, urlencode

from stash_sense_pipeline.records import profile_sites, profile_urls
from stash_sense_pipeline.records.record_key import RecordKey

# Pages of these programs differ in the query. Elsewhere the query holds tracking, sizes and signatures.
_PROGRAM = re.compile(r"\.(php|cfm|aspx?|cgi|jsp)$", re.IGNORECASE)
# The form of most URLs: only the scheme, www and outer slashes have to be removed.
_SIMPLE_URL = re.compile(
    r"https?://(?:www\.)?([a-z0-9.-]*[a-z0-9-])(?:/+((?!/)[!$&'()*+,./0-9:;=@A-Z_a-z~-]*))?", re.ASCII
)


def identifying_pages(urls: Iterable[str]) -> dict[profile_urls.ProfileKey, str]:
    """The pages among these URLs that can identify a person, each with one of the URLs that name it."""
    pages: dict[profile_urls.ProfileKey, str] = {}
    for url in urls:
        profile = profile_urls.canonical_profile(url)
        site = profile_sites.site(profile.site) if profile else None
        if profile is not None and site is not None and site.identity_grade:
            pages.setdefault(profile, url)
    return pages


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


def plain_form_names(url: str, profile: profile_urls.ProfileKey) -> bool:
    """False when the query says which profile a URL names: the plain form leaves it out, and is that of all profiles."""
    return "?" not in url or profile_urls.canonical_profile(plain_url(url)) == profile


def record_page(record: RecordKey, hosts: Mapping[str, str]) -> str | None:
    """URL of the page of a record on its stash-box. None for a source that is not a stash-box.

    `hosts` are the hosts of the stash-boxes of sources.yaml by source name; the public ones are known without it.
    """
    source, source_id = record
    site = profile_sites.site(source)
    host = hosts.get(source) or (site.stash_box_host if site is not None else None)
    return f"https://{host}/performers/{source_id}" if host is not None else None
