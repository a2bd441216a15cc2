"""Sites with numbers in the addresses of their profiles."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.sites.model import (
    AGE_GATE,
    Reply,
    SandboxSite,
    SitePage,
    document,
    esc,
    html_reply,
)


class TheNudeSite(SandboxSite):
    """Numbers as keys; covers with one or two models, and people who appear with the model."""

    name = "thenude"
    home = "https://www.thenude.com"

    def url(self, page: SitePage) -> str:
        """The address, with a name that the site ignores."""
        return f"{self.home}/{quote(page.name)}_{page.number}.htm"

    def profile(self, page: SitePage) -> str:
        """Microdata and covers."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1>")
        folder = f"{page.name}_{page.number}"
        portrait = "/img/silhouette.jpg"
        if page.portrait is not None:
            portrait = (
                f"https://static.thenude.com{self.file(f'/models/{folder}/medhead.jpg', page.portrait)}"
            )
        aliases = "".join(
            f'<meta itemprop="additionalName" content="{esc(alias)}">'
            for alias in (page.name, *page.aliases, "??, ??")
        )
        covers = ""
        for place, picture in enumerate(page.set_pictures):
            covers += self._cover(page, f"{page.number}-{place}", picture, (page.slug,))
        if page.couple is not None and page.related:
            covers += self._cover(page, f"{page.number}-two", page.couple, (page.slug, page.related[0]))
        others = "".join(
            f'<a data-img="https://static.thenude.com{quote(f"/models/{other.name}_{other.number}/medhead.jpg")}" '
            f'href="{self.url(other)}">{esc(other.name)}</a>'
            for slug in page.related
            if (other := self.pages.get(slug)) is not None
        )
        links = "".join(f'<a class="tnap_out_link" href="{esc(link)}">LINK</a>' for link in page.links)
        # The site writes blanks in addresses as they are.
        head = f'<link rel="canonical" href="{unquote(self.url(page))}">'
        body = (
            f'<div itemscope itemtype="http://schema.org/Person"><h1><span class="model-name">{esc(page.name)}</span>'
            f' <span>nude</span></h1>{aliases}<meta itemprop="gender" content="Female">'
            f'<img class="model-head" src="{portrait}">'
            f'<ul class="bio-list"><li><span class="list-quest">Born:</span> {esc(page.legal_name)}</li>'
            f'<li><span class="list-quest">Appears with:</span> {others}</li></ul>'
            f'<div class="model-model-links">{links}</div></div><div class="covers">{covers}</div>'
        )
        return document(page.name, body, head)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Pages by number and the search; other pages redirect to the front page."""
        if path == "/index.php":
            return html_reply(self._results(query.get("m_name", "")))
        number = path.removesuffix(".htm").rpartition("_")[2]
        page = next((page for page in self.pages.values() if str(page.number) == number), None)
        if page is None or page.slug in self.gone:
            return Reply(status=302, location="/") if path.endswith(".htm") else None
        return self.shown(page)

    def _cover(self, page: SitePage, name: str, picture: Picture, slugs: tuple[str, ...]) -> str:
        path = self.file(f"/admin/covers/quenthal/20250102/{name}.jpg", picture)
        thumb = path.replace(f"/{name}.jpg", f"/medheads/{name}.jpg")
        models = [page if slug == page.slug else self.pages.get(slug) for slug in slugs]
        kind = "model-name" if self.is_previous else "model-title"
        credits = " ".join(
            f'<a class="{kind}" href="{self.url(model)}">{esc(model.name)}</a>' for model in models if model
        )
        return (
            f'<figure class="gall-img"><a itemprop="url" href="/cover/{name}">'
            f'<img itemprop="thumbnailUrl" src="https://static.thenude.com{thumb}"></a><figcaption>{credits}'
            '<div class="website"><a href="/website/quib">Quib House</a></div></figcaption></figure>'
        )

    def _results(self, asked: str) -> str:
        figures = "".join(
            f'<figure><a class="model-name" href="{self.url(page)}" title="{esc(page.name)}"><img src="/img/t.jpg"></a>'
            f'<figcaption><a class="model-name" href="{self.url(page)}">{esc(page.name)}</a>'
            f"<span>AKA: {esc(', '.join(page.aliases))}</span></figcaption></figure>"
            for page in self.by_name(asked)
        )
        return document("Search", f'<div class="blockIndexModels">{figures}</div>')


class AfdbSite(SandboxSite):
    """Numbers as keys, and CSS classes without meaning; portraits of co-stars in the same folder."""

    name = "afdb"
    home = "https://www.adultfilmdatabase.com"

    def url(self, page: SitePage) -> str:
        """The address, with a name that the site ignores."""
        return f"{self.home}/actor/{page.slug}-{page.number}/"

    def profile(self, page: SitePage) -> str:
        """Lines of facts below the heading. The previous layout has an element for each label."""
        if self.is_new:
            return document(page.name, f"<h2>{esc(page.name)}</h2>")
        portrait = ""
        if page.portrait is not None:
            path = self.file(f"/Graphics/PornStars/{page.slug.title()}_{page.number}.jpg", page.portrait)
            portrait = f'<img class="w3-image" src="{path}">'
        folder = f"/graphics/galleries/{page.number}"
        gallery = "".join(
            f'<a href="{self.file(f"{folder}/{page.number}{place}.jpg", picture)}">'
            f'<img src="{folder}/thumbs/{page.number}{place}.jpg"></a>'
            for place, picture in enumerate(page.set_pictures)
        )
        stars = "".join(
            f'<a href="/actor/{other.slug}-{other.number}/">'
            f'<img src="/Graphics/PornStars/{other.slug.title()}_{other.number}.jpg"></a>'
            for slug in page.related
            if (other := self.pages.get(slug)) is not None
        )
        names = esc(", ".join(page.aliases))
        facts = (
            f"<p><b>AKA:</b> {names}</p><p><b>Born:</b> {esc(page.legal_name)}</p><p><b>Nationality:</b> none</p>"
            if self.is_previous
            else f"<div>\nAKA: {names}<br>\nBorn: {esc(page.legal_name)}<br>\nNationality: none<br></div>"
        )
        body = (
            f'<h1 class="w3-opacity">{esc(page.name)}</h1><div class="w3-row">{portrait}{facts}</div>'
            f'<h2>Galleries</h2><div class="w3-row">{gallery}</div><h2>Appears with</h2><div class="w3-row">{stars}</div>'
            f'<h2>Videos</h2><p>AKA: Quib Films</p><img src="/Graphics/Boxes/{page.number}.jpg">'
            '<a rel="nofollow" target="_blank" href="https://shop.example/?refId=404&partner_id=1">Buy</a>'
        )
        return document(f"{page.name} | Film Database", body)

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Pages by number; unknown numbers redirect to the list."""
        if path == "/actor.cfm":
            number = query.get("actorid", "")
        elif path.startswith("/actor/"):
            number = path.strip("/").rpartition("-")[2]
        else:
            return None
        page = next((page for page in self.pages.values() if str(page.number) == number), None)
        if page is None or page.slug in self.gone:
            return Reply(status=302, location="/browse.cfm?type=actor")
        return self.shown(page)


class IndexxxSite(SandboxSite):
    """Names by website; nearly every picture shows another person. Visitors must confirm their age."""

    name = "indexxx"
    home = "https://www.indexxx.com"

    def url(self, page: SitePage) -> str:
        """The address by slug, or the legacy form by `number`."""
        return (
            f"{self.home}/models/{page.number}/{page.slug}-1/"
            if page.number
            else f"{self.home}/m/{page.slug}"
        )

    def profile(self, page: SitePage) -> str:
        """The header, websites with the names used there, outgoing links, and other people."""
        if self.is_new:
            return document(page.name, f"<h1>{esc(page.name)}</h1>")
        portrait = "https://img.indexxx.com/images/mindex/no-image-yet.jpg"
        if page.portrait is not None:
            path = self.file(f"/images/models/{page.slug}-1.jpg", page.portrait)
            portrait = f"https://img.indexxx.com{path.replace('/images/', '/images/thumbs/200x300/')}"
        websites = self._websites(page)
        others = "".join(
            f'<a class="modelLink item" data-modelphoto="/images/models/{slug}-1.jpg" href="/m/{slug}">'
            f'<img class="thumb" src="https://img.indexxx.com/images/thumbs/200x300/models/{slug}-1.jpg"></a>'
            for slug in page.related
        )
        links = "".join(f'<a href="{esc(link)}">link</a>' for link in page.links)
        body = (
            f'<div itemscope itemtype="https://schema.org/ProfilePage"><div id="model-header">'
            f'<h1 id="model-name">{esc(page.name)}</h1><img class="model-img" src="{portrait}"></div>'
            f'<div id="model-websites-box"><ul>{websites}</ul></div><div id="url-box">{links}</div>'
            f'<div id="comments">{esc(page.biography)} {esc(page.legal_name)}</div>{others}</div>'
        )
        return document(page.name, body)

    def _websites(self, page: SitePage) -> str:
        """A website with each name, one that is closed, and one with a name that is listed in error."""
        first, *others = (page.name, *page.aliases)
        rows = (
            f'<li><a class="websiteLink" href="/out/1/">quib.example</a> <span><span class="alias">{esc(first)}</span> '
            '<span class="count">3</span></span></li>'
        )
        names = "".join(f'<li><span class="alias">{esc(alias)}</span></li>' for alias in others)
        rows += f'<li><span class="websiteLink">quab.example</span> <span class="count">2</span><ul>{names}</ul></li>'
        return rows + (
            '<li><a class="websiteLink" href="/out/2/">quob.example</a> <span><span class="alias">Quib or Quab</span> '
            '<span class="descr">remove, is another model</span></span></li>'
        )

    def respond(self, path: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> Reply | None:
        """Pages, redirects from legacy addresses, and the search. All need the cookie of the age check."""
        if cookies.get("ageVerified") != "true":
            return Reply(AGE_GATE)
        parts = path.strip("/").split("/")
        if parts[0] == "models" and len(parts) >= 2:
            page = next((page for page in self.pages.values() if str(page.number) == parts[1]), None)
            return Reply(status=301, location=f"/m/{page.slug}") if page is not None else None
        if parts[0] == "search":
            hits = self.by_name(query.get("query", ""))
            panels = "".join(
                f'<div class="modelPanel"><a class="modelLink3" href="/m/{page.slug}">{esc(page.name)}</a></div>'
                for page in hits
            )
            return html_reply(document("Search", panels))
        page = self.pages.get(parts[1].lower()) if parts[0] == "m" and len(parts) == 2 else None
        return self.shown(page) if page is not None else None
