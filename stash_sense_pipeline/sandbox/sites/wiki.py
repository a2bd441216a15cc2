"""A wiki with an API, infoboxes and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote, unquote

from stash_sense_pipeline.sandbox.sites.model import (
    Reply,
    SandboxSite,
    SitePage,
    digest,
    esc,
)


class BoobpediaSite(SandboxSite):
    """A MediaWiki with its API, redirects, and a company. An infobox shows related people too."""

    name = "boobpedia"
    home = "https://www.boobpedia.com"

    def url(self, page: SitePage) -> str:
        """The address of the article."""
        return f"{self.home}/boobs/{quote(page.slug)}"

    def profile(self, page: SitePage) -> str:
        """The first section, as the API renders it. The previous layout has headings in `th`."""
        if self.is_new:
            return f"<div class='card'><b>{esc(page.name)}</b></div>"
        heading = _heading_of_old if self.is_previous else _heading
        aliases = ", ".join(page.aliases) if self.is_previous else "; ".join(page.aliases)
        links = "".join(
            f'<a class="external text" href="{esc(link)}"><b>profile</b></a> • ' for link in page.links
        )
        about = '<a href="/boobs/Film_Database">about</a>'
        return (
            '<div class="mw-content-ltr mw-parser-output"><table class="infobox plainlinks"><tbody>'
            f"{heading(esc(page.name))}{_wide(self._picture(page))}"
            f"<tr><td><b>Birth name:</b></td><td>{esc(page.legal_name)}</td></tr>"
            f"<tr><td><b>Also&#160;known&#160;as:</b></td><td>{esc(aliases)}<sup>[1]</sup></td></tr>"
            '<tr><td><b>Country:</b></td><td><a href="/boobs/File:Flag_icon.svg"><img src="/f.png" width="20"></a></td></tr>'
            f"{heading('Databases')}{_wide(about)}"
            f"{heading('Links and profiles')}{_wide(links)}"
            f"{heading('Related pages')}{_wide(self._related(page))}</tbody></table>"
            f"<p><b>{esc(page.name)}</b>, born {esc(page.legal_name)}. {esc(page.biography)}</p></div>"
        )

    def _picture(self, page: SitePage) -> str:
        if page.portrait is None:
            return '<a href="/boobs/File:NoImageAvailable.png"><img src="/n.png" width="240"></a>'
        name = f"{page.slug}_silicone_logotype.jpg"
        path = self.file(f"/wiki/images/a/ab/{name}", page.portrait)
        return _linked(name, path, 240)

    def _related(self, page: SitePage) -> str:
        """Other people, with pictures and accounts."""
        return "".join(
            f"{_linked(f'{slug}.jpg', f'/wiki/images/a/ab/{quote(slug)}.jpg', 90)} "
            f'<a href="/boobs/{quote(slug)}">{esc(slug)}</a> <a class="external" href="https://twitter.com/qb_kin">kin</a>'
            for slug in page.related
        )

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """The API. Articles themselves are not served."""
        if path != "/wiki/api.php":
            return None
        if query.get("action") == "parse":
            answer = self._parse(int(query["pageid"]))
        elif query.get("list") == "search":
            asked = query["srsearch"]
            answer = {"query": {"search": [{"title": _title(page)} for page in self.by_name(asked)]}}
        elif query.get("prop") == "imageinfo":
            answer = {"query": {"pages": [self._file(title) for title in query["titles"].split("|")]}}
        else:
            answer = self._query(query["titles"].split("|"))
        return Reply(json.dumps(answer).encode(), content_type="application/json")

    def _query(self, titles: list[str]) -> dict[str, object]:
        normalized, redirects, pages = [], [], []
        for asked in titles:
            title = asked[:1].upper() + asked[1:]
            if title != asked:
                normalized.append({"from": asked, "to": title})
            if title.replace(" ", "_") in self.moved:
                target = self.moved[title.replace(" ", "_")].replace("_", " ")
                redirects.append({"from": title, "to": target})
                title = target
            page = self.pages.get(title.replace(" ", "_"))
            if page is None or page.slug in self.gone:
                pages.append({"ns": 0, "title": title, "missing": True})
                continue
            company = page.person < 0
            pages.append(
                {
                    "pageid": page.number,
                    "ns": 0,
                    "title": title,
                    "revisions": [{"revid": int(digest(repr(page)), 16) % 10**9, "parentid": 1}],
                    "categories": [
                        {
                            "ns": 14,
                            "title": "Category:Studios and companies" if company else "Category:Models",
                        }
                    ],
                }
            )
        return {
            "batchcomplete": True,
            "query": {"normalized": normalized, "redirects": redirects, "pages": pages},
        }

    def _parse(self, page_id: int) -> dict[str, object]:
        page = next((page for page in self.pages.values() if page.number == page_id), None)
        if page is None:
            return {"error": {"code": "nosuchpageid"}}
        return {
            "parse": {"title": _title(page), "pageid": page_id, "text": self.profile(page), "categories": []}
        }

    def _file(self, title: str) -> dict[str, object]:
        path = f"/wiki/images/a/ab/{title.removeprefix('File:').replace(' ', '_')}"
        picture = self.files.get(path)
        if picture is None:
            return {"ns": 6, "title": title, "missing": True}
        width, height = picture.size
        info = {"url": f"{self.home}{quote(path)}", "width": width, "height": height, "mime": "image/jpeg"}
        return {"ns": 6, "title": title.replace("_", " "), "imageinfo": [info]}


def _title(page: SitePage) -> str:
    return unquote(page.slug).replace("_", " ")


def _heading(text: str) -> str:
    """The heading of a section: a cell as wide as the box."""
    return f'<tr><td colspan="2" style="text-align:center; background:#eee;"><b>{text}</b></td></tr>'


def _heading_of_old(text: str) -> str:
    return f'<tr><th colspan="2">{text}</th></tr>'


def _wide(content: str) -> str:
    return f'<tr><td colspan="2">{content}</td></tr>'


def _linked(name: str, path: str, width: int) -> str:
    """A thumbnail that links to its file."""
    thumb = path.replace("/images/", "/images/thumb/") + f"/{width}px-{quote(name)}"
    return f'<a href="/boobs/File:{quote(name)}" class="image"><img src="{thumb}" width="{width}"></a>'
