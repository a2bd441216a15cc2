"""AFDB: numeric ids, read by text and path; co-stars share a portrait folder."""

from __future__ import annotations

import re

from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline.sources.reference_sites.page import (
    Page,
    distinct,
    file_name,
    image,
    own_text,
    path_of,
)
from stash_sense_pipeline.sources.reference_sites.page_site import PageSite
from stash_sense_pipeline.sources.reference_sites.site import Profile


class Afdb(PageSite):
    """The site has no search, and states no gender. Its outgoing links lead to shops, so none is read."""

    name = "afdb"
    hosts = ("adultfilmdatabase.com",)
    page_selector = "h1.w3-opacity"
    example = "https://www.adultfilmdatabase.com/actor/example-1/"

    def parse(self, page: Page, key: str) -> Profile:
        """The name, the AKA line, and images with this number in their address."""
        name = re.sub(rf"(?<!\s)\s*(?:[-|(#]\s*)?{key}\)?$", "", page.first(self.page_selector)).strip()
        return Profile(
            key=key,
            name=name,
            aliases=distinct(_aliases(page), name),
            images=tuple(_images(page, key)),
        )


def _aliases(page: Page) -> list[str]:
    """The list after "AKA:", up to the next line or label."""
    for element in page.root.xpath("//body//*[text()[contains(., 'AKA:')]]"):
        said = own_text(element).partition("AKA:")[2]
        if not said:
            # The element holds the label alone, for example in bold; the list follows it.
            said = str(element.xpath("following-sibling::node()[1][self::text()]").get() or "")
        return re.split(r"[,;]", re.split(r"\b[A-Z][a-z]+:", said)[0])
    return []


def _images(page: Page, key: str) -> list[ImageRecord]:
    # A page has thousands of links; the XPath selects those that contain the number.
    with_number = f"//img/@src[contains(., '{key}')] | //a/@href[contains(., '{key}')]"
    urls = [page.join(url) for url in page.root.xpath(with_number).getall()]
    return [image(url) for url in dict.fromkeys(urls) if url and _belongs(url, key)]


def _belongs(url: str, key: str) -> bool:
    folder, _, _ = path_of(url).lower().rpartition("/")
    stem, _, ending = file_name(url).lower().rpartition(".")
    if ending not in ("jpg", "jpeg", "png", "webp"):
        return False
    if folder == "/graphics/pornstars":
        return re.sub(r"^.*_", "", stem) == key and "_" in stem
    return folder == f"/graphics/galleries/{key}"
