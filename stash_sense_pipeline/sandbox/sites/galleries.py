"""Sites with picture sets."""

from __future__ import annotations

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
        """Tiles of galleries: the first has one model, the second two."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1><ul><li class='thumbwook'>none</li></ul>")
        head = ""
        if page.portrait is not None:
            path = self.file(f"/models/{page.slug[0]}/{page.slug.replace('-', '_')}.jpg", page.portrait)
            head = f"<img src='https://cdni.pornpics.com{path}'>"
        others = "".join(
            f"<img src='https://cdni.pornpics.com/models/{slug[0]}/{slug}.jpg'>" for slug in page.related
        )
        tiles = "".join(
            f"<li class='thumbwook'><a class='rel-link' data-gid='{gid}' href='/galleries/{name}-{gid}/'>"
            f"<img src='1px.png' data-src='https://cdni.pornpics.com/460/7/1/{gid}/{gid}_001_{digest(gid)}.jpg'></a></li>"
            for gid, name in ((_gid(page, 1), f"{page.slug}-alone"), (_gid(page, 2), "two-of-them"))
        )
        return document(page.name, f"{head}{others}<h1>{esc(page.name)} Nude Porn Pics</h1><ul>{tiles}</ul>")

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
            links += (
                f"<li><a class='rel-link' href='https://cdni.pornpics.com{path}'><img src='1px.png'></a></li>"
            )
        links += "<li><a class='rel-link' href='https://cdni.pornpics.com/1280/7/1/99/99_001_related.jpg'></a></li>"
        models = [page.slug] if which == 1 else [page.slug, *(page.related[:1] or ("another-model",))]
        row = "".join(f"<a href='/pornstars/{slug}/'>{slug}</a>" for slug in models)
        return document(
            "Gallery",
            f"<h1>Gallery</h1><div><span class='gallery-info__title'>Models:</span> {row}</div><ul>{links}</ul>",
        )


class EliteBabesSite(SandboxSite):
    """Sets at the root of the site, pictures in several sizes, and related sets on the same pages."""

    name = "elitebabes"
    home = "https://www.elitebabes.com"

    def url(self, page: SitePage) -> str:
        """The address of the model's page."""
        return f"{self.home}/model/{page.slug}/"

    def profile(self, page: SitePage) -> str:
        """A portrait, facts, and tiles of sets. The previous layout has the name in the h1."""
        if self.is_new:
            return document(page.name, f"<h3>{esc(page.name)}</h3>")
        figure = ""
        if page.portrait is not None:
            path = self.file(
                f"/content/lists/../models/{page.slug}.jpg".replace("lists/../", ""), page.portrait
            )
            figure = f'<figure><img src="https://cdn.elitebabes.com{path}" alt="{esc(page.name)}"></figure>'
        heading = (
            f"<h1>{esc(page.name)}</h1>"
            if self.is_previous
            else f'<h1>Model</h1><h2 class="fn">{esc(page.name)}</h2>'
        )
        sets: tuple[tuple[str, str], ...] = ((f"{page.slug}-in-a-red-room", f"{page.name} in a red room"),)
        if page.related:
            both = f"{page.name} and {page.related[0].replace('-', ' ').title()}"
            sets = (*sets, (f"{page.slug}-and-{page.related[0]}-at-home", f"{both} at home"))
        tiles = "".join(
            f'<li><figure><a href="/{slug}/"><img src="https://cdn.elitebabes.com/content/lists/{digest(slug)}.jpg"></a>'
            f'<div class="img-overlay"><p><a href="{self.home}/{slug}/">{esc(title)}</a></p></div></figure></li>'
            for slug, title in sets
        )
        body = (
            f'{heading}{figure}<p class="read-more">{esc(page.biography)} '
            f"<strong>{esc(', '.join(page.aliases))}</strong></p>"
            f'<ul class="list-aside"><li><span>{esc(page.legal_name)}</span></li></ul><ul>{tiles}</ul>'
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
            if parts[0] == f"{page.slug}-in-a-red-room":
                return html_reply(self._set(page, two=False))
            if parts[0].startswith(f"{page.slug}-and-"):
                return html_reply(self._set(page, two=True))
        return None

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
        title = f"{page.name} and another model at home" if two else f"{page.name} in a red room"
        return document(title, f"<h1>{esc(title)}</h1>{links}")


class JavDatabaseSite(SandboxSite):
    """Romanised names, mostly with the family name last; namesakes with a number; one portrait each, loaded lazily."""

    name = "javdatabase"
    home = "https://www.javdatabase.com"

    def url(self, page: SitePage) -> str:
        """The address of the idol's page."""
        return f"{self.home}/idols/{page.slug}/"

    def profile(self, page: SitePage) -> str:
        """Labels in bold. The previous layout has the portrait in the head only."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1>")
        path = "/idolimages/full/unknown.webp"
        if page.portrait is not None:
            path = self.file(f"/idolimages/full/{page.slug}.webp", page.portrait)
        thumb = path.replace("/full/", "/thumb/")
        portrait = f'<div class="idol-portrait"><img src="/lazy.gif" data-src="{thumb}"></div>'
        head = f'<link rel="canonical" href="{self.url(page)}"><meta property="og:image" content="{self.home}{path}">'
        cards = "".join(
            f'<div class="idol-thumb"><a href="/idols/{slug}/"><img alt="{slug}" '
            f'data-src="/idolimages/thumb/{slug}.webp"></a></div>'
            for slug in page.related
        )
        body = (
            f'<h1 class="idol-name">{esc(page.name)} - JAV Profile</h1>{"" if self.is_previous else portrait}'
            f"<p><b>JP:</b> {esc(page.japanese or '?')}<br><b>Alt:</b> {esc(' - '.join(page.aliases)) or 'Unknown'}<br>"
            f'<b>Born:</b> {esc(page.legal_name)}</p><a href="https://x.com/quib_jd"><i class="fa-square-twitter"></i></a>'
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
