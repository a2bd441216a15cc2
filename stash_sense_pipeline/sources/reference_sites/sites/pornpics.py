"""PornPics: tags that namesakes share; galleries with one model only."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, file_name, fold, image, path_of, text_of
from stash_sense_pipeline.sources.reference_sites.page_site import PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile


class PornPics(PageSite):
    """Pages have no aliases, links or gender, so nothing but a name tells who a person is."""

    name = "pornpics"
    hosts = ("pornpics.com",)
    page_selector = "h1"
    example = "https://www.pornpics.com/pornstars/example/"
    galleries = 3

    def is_missing(self, page: Page) -> bool:
        """True for a tag without galleries."""
        return bool(page.root.css("h1")) and not page.root.css("li.thumbwook")

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the head picture of that name, and the galleries of the first page."""
        page.need("li.thumbwook a.rel-link[data-gid]")
        name = re.sub(r"(?<!\s)\s+(?:Nude\s+)?(?:Porn\s+)?Pics$", "", page.first("h1"), flags=re.IGNORECASE)
        heads = [page.join(src) for src in page.root.css("img::attr(src), img::attr(data-src)").getall()]
        own = [url for url in heads if re.match(r"/models/[^/]+/", path_of(url)) and _stem(url) == fold(key)]
        hrefs = page.root.css("li.thumbwook a.rel-link[data-gid]::attr(href)").getall()
        return Profile(
            key=key,
            name=name,
            images=tuple(image(url) for url in dict.fromkeys(own)),
            galleries=tuple(
                dict.fromkeys(url for href in hrefs if "/galleries/" in (url := page.join(href)))
            ),
        )

    def pictures(self, page: Page, profile: Profile) -> tuple[ImageRecord, ...]:
        """The full pictures of a gallery that lists this model and no other."""
        gid = re.search(r"(?<!\d)(\d+)/?$", urlsplit(page.url).path)
        if gid is None or "/galleries/" not in page.url:
            raise SourceError(self.name, Outcome.NOT_FOUND, "the gallery leads away")
        page.need("span.gallery-info__title")
        if _models(page) != [profile.key]:
            return ()
        urls = [page.join(href) for href in page.root.css("a.rel-link::attr(href)").getall()]
        own = [
            url.replace("/460/", "/1280/", 1)
            for url in urls
            if f"/{gid[1]}/" in url and "_" in file_name(url)
        ]
        return tuple(image(url) for url in dict.fromkeys(own))


def _stem(url: str) -> str:
    return fold(file_name(url).rpartition(".")[0])


def _models(page: Page) -> list[str]:
    """The keys in the row "Models:"; empty text for a link that is no profile."""
    for title in page.root.css("span.gallery-info__title"):
        if text_of(title).casefold().startswith("model"):
            links = title.xpath("following-sibling::a/@href | following-sibling::*//a/@href").getall()
            found = (parse_profile(page.join(href)) for href in links)
            return [one.key.key if one is not None else "" for one in found]
    return []
