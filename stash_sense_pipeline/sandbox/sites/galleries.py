"""Sites with picture sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.sites.model import (
    Reply,
    SandboxSite,
    SitePage,
    digest,
    document,
    esc,
    html_reply,
)


class PornPicsSite(SandboxSite):
    """Tags as pages; galleries list their models."""

    name = "pornpics"
    home = "https://www.pornpics.com"

    def url(self, page: SitePage) -> str:
        """The address of the tag."""
        return f"{self.home}/pornstars/{page.slug}/"

    def profile(self, page: SitePage) -> str:
        """Tiles of galleries: the first has one model, the second two. The previous layout has no JSON-LD."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1><ul><li class='thumbwook'>none</li></ul>")
        person: dict[str, str] = {"@context": "https://schema.org", "@type": "Person", "name": page.name}
        if page.portrait is not None:
            path = self.file(f"/models/{page.slug[0]}/{page.slug.replace('-', '_')}.jpg", page.portrait)
            person["image"] = f"https://cdni.pornpics.com{path}"
        others = "".join(
            f"<img src='https://cdni.pornpics.com/models/{slug[0]}/{slug.replace('-', '_')}.jpg'>"
            for slug in page.related
        )
        tiles = "".join(
            f"<li class='thumbwook'><a class='rel-link' data-gid='{gid}' href='/galleries/{name}-{gid}/'>"
            f"<img src='1px.png' data-src='https://cdni.pornpics.com/460/7/1/{gid}/{gid}_001_{digest(gid)}.jpg'></a></li>"
            for gid, name in ((_gid(page, 1), f"{page.slug}-alone"), (_gid(page, 2), "two-of-them"))
        )
        advert = "<li class='thumbwook r2-frame'><a class='rel-link' href='https://ads.example/galleries/1/'>x</a></li>"
        related = "<li class='thumbwook'><a class='rel-link' href='/galleries/others-99999999/'>more</a></li>"
        shown = person.get("image", "/img/silhouette.png")
        source = f"src='{shown}'" if self.is_previous else f"src='1px.png' data-src='{shown}'"
        script = f'<script type="application/ld+json">{json.dumps(person)}</script>'
        body = (
            f"<div class='pornstar-card'><img {source}></div>{others}<h1>{esc(page.name)} Nude Porn Pics</h1>"
            f"<ul id='tiles'>{advert}{tiles}</ul>"
            f"<div id='main2'><ul>{related}</ul></div>"
        )
        return document(page.name, body, "" if self.is_previous else script)

    def more(self, page: SitePage) -> None:
        """Adds the files of both galleries."""
        self._gallery(page, 1)
        self._gallery(page, 2)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Tags and galleries by number; the search page for unknown tags."""
        parts = path.strip("/").split("/")
        if len(parts[0]) == 2 and len(parts) > 1:
            parts = parts[1:]
        if parts[0] == "pornstars" and len(parts) == 2:
            page = self.pages.get(parts[1].lower())
            if page is None or page.slug in self.gone:
                return Reply(status=302, location=f"/?q={quote(parts[1])}")
            return self.shown(page)
        if parts[0] == "galleries" and len(parts) == 2:
            gid = parts[1].rpartition("-")[2]
            for page in self.pages.values():
                for which in (1, 2):
                    if _gid(page, which) == gid:
                        return html_reply(self._gallery(page, which))
        return html_reply(document("Search", "<h1>Search</h1>")) if path == "/" else None

    def _gallery(self, page: SitePage, which: int) -> str:
        gid = _gid(page, which)
        pictures = page.set_pictures if which == 1 else tuple(filter(None, (page.couple,)))
        links = ""
        for place, picture in enumerate(pictures, 1):
            path = self.file(f"/1280/7/1/{gid}/{gid}_{place:03d}_{digest(gid)}.jpg", picture)
            links += _tile(f"https://cdni.pornpics.com{path}")
        links += _tile("https://cdni.pornpics.com/1280/7/1/99/99_001_related.jpg")
        models = [page.slug] if which == 1 else [page.slug, *(page.related[:1] or ("another-model",))]
        row = "".join(f"<a href='/pornstars/{slug}/'>{slug}</a>" for slug in models)
        title = "<span class='gallery-info__title'>Models:&nbsp;</span>"
        listed = (
            f"<div>{title} {row}</div>"
            if self.is_previous
            else f"<div class='gallery-info__item'>{title}<div class='gallery-info__content'>{row}</div></div>"
        )
        return document("Gallery", f"<h1>Gallery</h1>{listed}<ul id='tiles'>{links}</ul>")


class EliteBabesSite(SandboxSite):
    """Sets at the root of the site, pictures in several sizes, and related sets on the same pages."""

    name = "elitebabes"
    home = "https://www.elitebabes.com"

    def url(self, page: SitePage) -> str:
        """The address of the model's page."""
        return f"{self.home}/model/{page.slug}/"

    def profile(self, page: SitePage) -> str:
        """A portrait, facts, and tiles of sets. The previous layout has the name in the h1, and tiles without models."""
        if self.is_new:
            return document(page.name, f"<h3>{esc(page.name)}</h3>")
        figure = ""
        if page.portrait is not None:
            path = self.file(f"/content/models/{page.slug}.jpg", page.portrait)
            figure = f'<figure><img src="https://cdn.elitebabes.com{path}" alt="{esc(page.name)}"></figure>'
        heading = (
            f"<h1>{esc(page.name)}</h1>"
            if self.is_previous
            else f'<h1>Model</h1><h2 class="fn">{esc(page.name)}</h2>'
        )
        tiles = "".join(self._tile(page, two) for two in (False, True))
        body = (
            f'{heading}{figure}<p class="read-more">{esc(page.biography)} '
            f"<strong>{esc(', '.join(page.aliases))}</strong></p>"
            f'<ul class="list-aside"><li><span>{esc(page.legal_name)}</span></li></ul>'
            f'<ul class="list-gallery static css">{tiles}</ul>'
        )
        return document(page.name, body, f'<link rel="canonical" href="{self.url(page)}">')

    def more(self, page: SitePage) -> None:
        """Adds the files of the sets."""
        self._set(page, two=False)
        self._set(page, two=True)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Models, sets at the root, and the search."""
        if path == "/":
            hits = "".join(
                f'<li><a href="{self.url(page)}">{esc(page.name)}</a></li>'
                for page in self.by_name(query.get("s", ""))
            )
            return html_reply(document("Search", f"<ul>{hits}</ul>"))
        parts = path.strip("/").split("/")
        if parts[0] == "model" and len(parts) == 2:
            page = self.pages.get(parts[1].lower())
            return self.shown(page) if page is not None else None
        for page in self.pages.values():
            for two in (False, True):
                if parts[0] == _set_slug(page, two):
                    return html_reply(self._set(page, two))
        return None

    def _tile(self, page: SitePage, two: bool) -> str:
        """A tile: its address and title name no person, and the links in its corner say who is in the set."""
        address, title = f"{self.home}/{_set_slug(page, two)}/", _set_title(two)
        models = "".join(
            f'<li><a href="{self.home}/model/{slug}/"><i class="icon-woman"></i> <span>a model</span></a></li>'
            for slug in _models(page, two)
        )
        icons = "" if self.is_previous else f'<ul class="list-icon"><li>Like</li>{models}</ul>'
        return (
            f'<li><figure><a href="{address}"><img src="https://cdn.elitebabes.com/content/lists/{digest(address)}.jpg"></a>'
            f'<div class="img-overlay"><p><a href="{address}">{esc(title)}</a></p>{icons}</div></figure></li>'
        )

    def _set(self, page: SitePage, two: bool) -> str:
        content = int(digest(f"{page.slug}{two}"), 16) % 10**6
        pictures: tuple[Picture, ...] = tuple(filter(None, (page.couple,))) if two else page.set_pictures
        links = ""
        for place, picture in enumerate(pictures):
            path = self.file(f"/content/{content}/0001-{place:02d}_1200.jpg", picture)
            small = f"https://cdn.elitebabes.com{path.replace('_1200', '_w400')}"
            wide = f"https://cdn.elitebabes.com{path}"
            links += (
                f'<a data-fancybox="set" href="{small}" data-srcset="{small} 400w, {wide} 1200w">picture</a>'
            )
        links += '<a data-fancybox="other" href="https://cdn.elitebabes.com/content/1/0001-01_1200.jpg">related</a>'
        title = esc(_set_title(two))
        tags = '<a class="overlay-b" href="/quib-house/">Quib House</a>' + "".join(
            f' <a class="overlay-b" href="/model/{slug}/">a model</a>' for slug in _models(page, two)
        )
        body = f'<h1>{title}</h1><main id="content"><p class="link-btn scroll">{tags}</p>{links}</main>'
        return document(title, body)


class JavDatabaseSite(SandboxSite):
    """Romanised names, mostly with the family name last; namesakes with a number; one portrait each, loaded lazily."""

    name = "javdatabase"
    home = "https://www.javdatabase.com"

    def url(self, page: SitePage) -> str:
        """The address of the idol's page."""
        return f"{self.home}/idols/{page.slug}/"

    def profile(self, page: SitePage) -> str:
        """Labels in bold. The previous layout has the portrait in the head only, and each name on a line."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1>")
        path = "/idolimages/full/unknown.webp"
        if page.portrait is not None:
            path = self.file(f"/idolimages/full/{page.slug}.webp", page.portrait)
        thumb = path.replace("/full/", "/thumb/")
        portrait = (
            '<div class="idol-portrait text-center"><a href="https://sponsor.example/" rel="sponsored">'
            f'<img src="/lazy.gif" data-src="{thumb}"></a></div>'
        )
        head = f'<link rel="canonical" href="{self.url(page)}"><meta property="og:image" content="{self.home}{path}">'
        cards = "".join(
            f'<div class="idol-thumb"><a href="/idols/{slug}/"><img alt="{slug}" '
            f'data-src="/idolimages/thumb/{slug}.webp"></a></div>'
            for slug in page.related
        )
        japanese, others = esc(page.japanese or "?"), esc(", ".join(page.aliases)) or "Unknown"
        if self.is_previous:
            heading, names, portrait = "h3", f"<b>JP:</b> {japanese}<br><b>Alt:</b> {others}<br>", ""
        else:
            heading, names = "idol-name", f"<b>JP:</b> {japanese}  - <b>Alt:</b> {others}<br>"
        body = (
            f'{portrait}<h1 class="{heading}">{esc(page.name)} - JAV Profile</h1>'
            f"<b>Born:</b> {esc(page.legal_name)} - <b>Height:</b> <a href='/idols/?_height=150'>150</a><br><p>{names}</p>"
            f'<a href="https://x.com/quib_jd"><i class="fa-square-twitter"></i></a>'
            f'{cards}<img src="/covers/thumb/qb-001ps.webp"><img src="/vertical/ad.webp">'
        )
        return document(page.name, body, head)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Idols, and the search."""
        if path == "/":
            return html_reply(self._results(query.get("s", "")))
        parts = path.strip("/").split("/")
        if parts[0] != "idols" or len(parts) != 2:
            return None
        if parts[1] in self.moved:
            return Reply(status=301, location=f"/idols/{self.moved[parts[1]]}/")
        page = self.pages.get(parts[1].lower())
        return self.shown(page) if page is not None else self.not_there()

    def not_there(self) -> Reply:
        """The error page of WordPress."""
        page = document("Nothing here", "<h1>Oops!</h1>", attributes=' class="error404"')
        return Reply(page.encode(), 404)

    def _results(self, asked: str) -> str:
        wanted = set(asked.casefold().split())
        hits = [page for page in self.pages.values() if wanted <= set(page.name.casefold().split())]
        cards = "".join(
            f'<div class="card borderlesscard"><p class="pcard"><a href="/idols/{page.slug}/">{esc(page.name)}</a></p></div>'
            for page in hits
        )
        return document("Search", cards)


def _gid(page: SitePage, which: int) -> str:
    """The number of a gallery: eight digits."""
    return str(10_000_000 + int(digest(f"{page.slug} {which}"), 16) % 80_000_000)


def _tile(url: str) -> str:
    """A tile of a gallery."""
    return f"<li class='thumbwook'><a class='rel-link' href='{url}'><img src='1px.png'></a></li>"


def _set_slug(page: SitePage, two: bool) -> str:
    """The address of a set: it begins with the studio, and names no model."""
    return f"quib-house-{digest(page.slug)}-{'two-friends' if two else 'a-red-room'}"


def _set_title(two: bool) -> str:
    return "Alone at home" if two else "She sits down with a book, and a cat, by the window"


def _models(page: SitePage, two: bool) -> tuple[str, ...]:
    """The slugs of the models in a set."""
    return (page.slug, *(page.related[:1] or ("another-model",))) if two else (page.slug,)
