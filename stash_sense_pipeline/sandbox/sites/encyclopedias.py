"""Sites with facts, aliases, links and a few portraits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

from stash_sense_pipeline.sandbox.sites.model import (
    Reply,
    SandboxSite,
    SitePage,
    digest,
    document,
    esc,
    html_reply,
)


class BabepediaSite(SandboxSite):
    """Names as slugs; portraits, uploads, gallery tiles and related people, all as `a.img`."""

    name = "babepedia"
    home = "https://www.babepedia.com"

    def url(self, page: SitePage) -> str:
        """The address by name."""
        return f"{self.home}/babe/{quote(page.slug)}"

    def profile(self, page: SitePage) -> str:
        """Name and aliases above the boxes. The previous layout has a table of facts."""
        if self.is_new:
            return document(page.name, f"<main><h1 class='person'>{esc(page.name)}</h1></main>")
        own = self._portrait(page)
        second = (
            self.file(f"/pics/{page.slug.replace('_', ' ')}2.jpg", page.set_pictures[0])
            if page.set_pictures
            else ""
        )
        portraits = "".join(
            f'<a class="img" href="{path}"><img src="{path.replace(".jpg", "_thumb3.jpg")}" alt="{esc(page.name)}"></a>'
            for path in (own, second)
            if path
        )
        box, facts = ("profimg", "table") if self.is_previous else ("profbox2", "div")
        if facts == "table":
            said = (
                f"<table id='biotable'><tr><td>Birth name:</td><td>{esc(page.legal_name)}</td></tr>"
                "<tr><td>Profession:</td><td>Model</td></tr></table>"
            )
        else:
            said = (
                '<div id="personal-info-block">'
                f'<div class="info-item"><span class="label">Birth name:</span><span class="value">{esc(page.legal_name)}'
                '</span></div><div class="info-item"><span class="label">Professions:</span>'
                '<span class="value">Model</span></div></div>'
            )
        aka = ""
        if page.aliases:
            aka = (
                f'<h2 id="aka"><small>Also known as</small> {esc(" - ".join(page.aliases))} '
                '<img id="aliasinfobtn" src="/img/info.png" alt="info"></h2>'
            )
        icons = "".join(f'<a class="proficon" href="{esc(_wrapped(link))}"></a>' for link in page.links)
        icons += '<a class="proficon" href="/shop/posters">Posters</a>'
        body = (
            f'<div id="{box}">{portraits}</div><h1 id="babename">{esc(page.name)}</h1>{aka}{said}'
            f'<div id="socialicons">{icons}</div><div id="bioarea"><p>{esc(page.biography)}</p></div>'
            f'<div class="separate useruploads2">{self._uploads(page)}</div>{self._tiles(page)}'
            f'<div id="relatedbabes">{self._related(page)}</div>'
        )
        return document(f"{page.name} - pictures", body)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Pages, and the autocomplete."""
        if path == "/ajax-search.php":
            hits = self.by_name(query.get("term", ""))
            rows = [
                {"label": _shown(page, query.get("term", "")), "value": page.slug.replace("_", " ")}
                for page in hits
            ]
            return Reply(json.dumps(rows).encode(), content_type="application/json")
        page = self.pages.get(path.removeprefix("/babe/").split("/")[0])
        return self.shown(page) if page is not None and path.startswith("/babe/") else None

    def not_there(self) -> Reply:
        """A page with status 200 that says so in its heading."""
        return html_reply(
            document("Page Not Found", "<h1>Page Not Found</h1><p>This babe does not exist.</p>")
        )

    def _portrait(self, page: SitePage) -> str:
        if page.portrait is None:
            return ""
        return self.file(f"/pics/{page.slug.replace('_', ' ')}.jpg", page.portrait)

    def _uploads(self, page: SitePage) -> str:
        found = ""
        for place, picture in enumerate(page.set_pictures[1:2]):
            path = self.file(f"/user-uploads/{digest(page.slug)}{place}.jpg", picture)
            found += f'<a class="img" href="{path}"><img src="{path}" alt="{esc(page.name)}"></a>'
        if page.couple is not None:
            path = self.file(f"/user-uploads/{digest(page.slug)}-two.jpg", page.couple)
            found += f'<a class="img" href="{path}"><img src="{path}" alt="Two friends"></a>'
        return found

    def _tiles(self, page: SitePage) -> str:
        found = ""
        for place, picture in enumerate(page.set_pictures[2:4]):
            full = self.file(f"/galleries/{digest(page.slug)}/{place:02d}.jpg", picture)
            thumb = full.replace("/galleries/", "/galleries-thumbs/")
            found += f'<a href="/gallery/{quote(page.slug)}/1"><img src="{thumb}" alt=""></a>'
        return f'<div class="gallery">{found}</div>'

    def _related(self, page: SitePage) -> str:
        found = ""
        for slug in page.related:
            other = self.pages.get(slug)
            if other is None or other.portrait is None:
                continue
            path = quote(f"/pics/{slug.replace('_', ' ')}.jpg")
            found += (
                f'<a class="img" href="{path}"><img src="{path}" alt="{esc(other.name)}"></a>'
                f'<a href="/gallery/{quote(slug)}/1"><img src="/galleries-thumbs/{digest(slug)}/00.jpg" alt=""></a>'
            )
        return found


class IafdSite(SandboxSite):
    """Pages by UUID, with labels and values in sequence; older ids lead to the same pages."""

    name = "iafd"
    home = "https://www.iafd.com"

    def url(self, page: SitePage) -> str:
        """The address by UUID, or by the older id of a page that has one."""
        if page.uuid and page.slug != page.uuid:
            return f"{self.home}/person.rme/perfid={page.slug}/gender=f/{quote(page.name.lower().replace(' ', '-'))}.htm"
        return f"{self.home}/person.rme/id={page.slug}"

    def profile(self, page: SitePage) -> str:
        """A head shot, and labels with values; some values are missing."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1><dl><dt>AKA</dt><dd>none</dd></dl>")
        source = "/graphics/headshots/nophoto340.jpg"
        if page.portrait is not None:
            source = self.file(f"/graphics/headshots/{page.slug}_face.jpg", page.portrait)
        akas = "".join(f"{esc(alias)} (Zoldrun House)<br>" for alias in page.aliases[:1])
        akas += "".join(f"{esc(alias)}<br>" for alias in page.aliases[1:]) + "Quib or Quab or Quob<br>"
        links = "".join(
            f'<a href="{esc(link)}"><img src="/graphics/icons/link.png"></a>' for link in page.links
        )
        gender = (
            '<form id="correct"><input type="hidden" name="Gender" value="Woman"></form>'
            if self.is_previous
            else '<p class="bioheading">Gender</p><p class="biodata">Woman</p>'
        )
        related = "".join(
            f'<div class="costar"><img src="/graphics/headshots/{slug}_face.jpg">{esc(self.pages[slug].name)}</div>'
            for slug in page.related
            if slug in self.pages
        )
        newer = f'<div id="matchups" data-src="/matchups.rme/id={page.uuid}"></div>' if page.uuid else ""
        body = (
            f'<h1>{esc(page.name)}</h1><div id="headshot"><img src="{source}"></div>'
            f'<p class="bioheading">Performer AKA</p><div class="biodata">{akas or "No known aliases"}</div>{gender}'
            '<p class="bioheading">Birthplace</p>'
            f'<p class="bioheading">Real name</p><p class="biodata">{esc(page.legal_name)}</p>'
            f'<p class="bioheading">Social Network</p><p class="biodata">{links}</p>{newer}'
            f'<div id="comments"><p>{esc(page.biography)}</p></div>{related}'
        )
        return document(f"{page.name} - film database", body)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Pages by id or perfid, and the search."""
        if path == "/results.asp":
            return html_reply(self._results(query.get("searchstring", "")))
        part = path.removeprefix("/person.rme/")
        slug = part.split("/")[0].removeprefix("id=").removeprefix("perfid=").lower()
        page = self.pages.get(slug) if path.startswith("/person.rme/") else None
        return self.shown(page) if page is not None else None

    def not_there(self) -> Reply:
        """A page with status 200 that says so in its heading."""
        return html_reply(document("film database", "<h1>The person was not found</h1>"))

    def _results(self, asked: str) -> str:
        rows = "".join(
            f'<tr><td><img src="/graphics/headshots/thumbs/th_{page.slug if page.portrait else "iafd_ad"}.jpg"></td>'
            f'<td><a href="/person.rme/id={page.slug}">{esc(page.name)}</a></td>'
            f'<td class="text-left">{esc(", ".join(page.aliases))}</td></tr>'
            for page in self.by_name(asked)
        )
        return document(
            "results", f'<table id="tblFem"><tbody>{rows}</tbody></table><table id="tblMal"></table>'
        )


class FreeOnesSite(SandboxSite):
    """`data-test` attributes, JSON-LD in galleries, and image addresses that are signed for one size."""

    name = "freeones"
    home = "https://www.freeones.com"

    def url(self, page: SitePage) -> str:
        """The address that users copy: with a tab."""
        return f"{self.home}/{page.slug}/bio"

    def profile(self, page: SitePage) -> str:
        """The tab with the facts."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1><section>{esc(page.biography)}</section>")
        portrait = "https://www.freeones.com/assets/no-image-teaser.png"
        if page.portrait is not None:
            path = self.file(f"/{digest(page.slug)}sig=/440x660/{page.slug}.jpg", page.portrait)
            portrait = f"https://thumbs.freeones.com{path}?c=20260101"
        aliases = (
            f'<p data-test="p_aliases">{esc(", ".join(page.aliases))}</p>'
            if self.is_previous
            else "".join(f'<span data-test="link_span_aliases">{esc(alias)}</span>' for alias in page.aliases)
        )
        container = "image-container" if self.is_previous else "dashboard-image-container"
        others = "".join(
            f'<div class="image-container" data-test="teaser-subject"><a href="/{slug}/feed">'
            f'<img src="https://thumbs.freeones.com/{digest(slug)}sig=/440x660/{slug}.jpg"></a></div>'
            f'<a href="/{slug}/photos/their-set">more</a>'
            for slug in page.related
        )
        socials = "".join(f'<a href="{esc(link)}">link</a>' for link in page.links)
        socials += f'<a href="https://x.com/intent/tweet?url={quote(self.url(page))}">share</a>'
        socials = (
            f'<div class="social-meta">{socials}</div>' if self.is_previous else f"<form>{socials}</form>"
        )
        first_set = f'<a href="/{page.slug}/photos/first-set">First set</a>' if page.set_pictures else ""
        head = f'<link rel="alternate" hreflang="x-default" href="{self.home}/{page.slug}/bio">'
        body = (
            f'<h1><div class="gender-icon"><span class="sr-only">{esc(page.name)} identifies as Female</span></div>'
            f"{esc(page.name)} Bio</h1>"
            f'<div class="{container}"><a href="/{page.slug}/photos"><img src="{portrait}"></a></div>'
            f'<div data-test="section-personal-information">{aliases}'
            f'<span data-test="p_birth_name">{esc(page.legal_name)}</span></div>'
            f"{socials}{first_set}"
            f'<p data-test="biography">{esc(page.biography)}</p><aside>{others}</aside>'
        )
        return document(f"{page.name} Bio", body, head)

    def more(self, page: SitePage) -> None:
        """Adds the files of the gallery."""
        self._gallery(page)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Tabs, galleries and the list; unknown people are redirected to the list."""
        parts = path.strip("/").split("/")
        if len(parts[0]) == 2 and len(parts) > 1:
            parts = parts[1:]
        if parts[0] in ("performers", "babes"):
            return html_reply(self._results(query.get("q", "")))
        page = self.pages.get(parts[0].lower())
        if page is None or page.slug in self.gone:
            return Reply(status=302, location="/babes") if len(parts) <= 2 and parts[0] else None
        if len(parts) == 3 and parts[1] == "photos":
            return html_reply(self._gallery(page))
        return self.shown(page)

    def _gallery(self, page: SitePage) -> str:
        media = []
        links = ""
        for place, picture in enumerate(page.set_pictures):
            width, height = picture.size
            path = self.file(f"/{digest(f'{page.slug}{place}')}sig=/1440x0/{page.slug}-{place}.jpg", picture)
            url = f"https://ch-thumbs.freeones.com{path}"
            media.append(
                {
                    "@type": "ImageObject",
                    "url": url,
                    "thumbnailUrl": url.replace("/1440x0/", "/fit-in/0x230/"),
                    "width": width,
                    "height": height,
                }
            )
            links += f'<a data-id="{place}" href="{url}" data-size="{width}x{height}">picture</a>'
        graph = {
            "@context": "https://schema.org",
            "@graph": [{"@type": ["ImageGallery"], "associatedMedia": media}],
        }
        script = (
            "" if self.is_previous else f'<script type="application/ld+json">{json.dumps(graph)}</script>'
        )
        return document("First set", f"<h1>First set</h1>{links}", script)

    def _results(self, asked: str) -> str:
        hits = "".join(
            f'<div data-test="teaser-subject"><a href="/{page.slug}/feed"><p data-test="subject-name">{esc(page.name)}'
            "</p></a></div>"
            for page in (self.by_name(asked) if asked else [])
        )
        return document("Babes", f'<div id="search-result">{hits}</div>')


def _wrapped(link: str) -> str:
    """The address on the site that redirects to a link of OnlyFans; other links unchanged."""
    return f"/onlyfans/{link.rpartition('/')[2]}" if "onlyfans.com" in link else link


def _shown(page: SitePage, asked: str) -> str:
    """The label in the autocomplete: the alias that matches, or else the name."""
    hit = next((alias for alias in page.aliases if asked.casefold() in alias.casefold()), None)
    return hit or page.name
