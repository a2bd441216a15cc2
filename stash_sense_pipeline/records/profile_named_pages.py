"""Rows of sites with pages under a name, which namesakes may share: video sites, and some databases."""

from __future__ import annotations

from stash_sense_pipeline.records.profile_forms import SLUG, TABS, ProfileSite, form, words

# Tabs and numbered pages of a profile.
_TAIL = rf"(?:/(?:(?:{TABS}|gifs|best|newest)(?:/.*)?|[0-9]+))?"


def _tube(
    name: str, hosts: str, kinds: tuple[str, str], example: tuple[str, str], *, identity_grade: bool = False
) -> ProfileSite:
    """A video site with `/<kind>/<name>`. `kinds`: those of performers, and those of members, who choose any name."""
    first, *_ = hosts.split()
    performers, members = kinds
    url = f"https://{first}/{{kind}}/{{id}}"
    forms = [form(rf"(?P<kind>{performers})/{SLUG}{_TAIL}", "{kind}:{id}", url, *example)]
    if members:
        member = members.partition("|")[0]
        shown = (f"https://{first}/{member}/Example_Person/videos?o=mr", f"{member}:example_person")
        forms.append(form(rf"(?P<kind>{members})/(?P<id>[^/]+){_TAIL}", "{kind}:{id}", url, *shown))
    kind = example[1].partition(":")[0]
    lists = (kind, f"{kind}/a", f"{kind}/2/", f"{kind}s", "categories/x", "search/example")
    return ProfileSite(
        name,
        tuple(hosts.split()),
        tuple(forms),
        identity_grade=identity_grade,
        reserved=words("all page search top popular list index index.html index.php"),
        no_profiles=(*lists, "", "video-123/title", "view_video.php?viewkey=x", "login"),
    )


TUBES: tuple[ProfileSite, ...] = (
    _tube(
        "pornhub",
        "www.pornhub.com pornhub.com pornhub.org pornhubpremium.com",
        ("pornstar|model", "users"),
        ("https://de.pornhub.com/pornstar/Example-Person/videos/upload?o=mr", "pornstar:example-person"),
        identity_grade=True,
    ),
    _tube(
        "xvideos",
        "www.xvideos.com xvideos.com xvideos.es xvideos2.com",
        ("pornstars|models|pornstar-channels|model-channels|amateur-channels", "profiles"),
        ("https://fr.xvideos.com/pornstars/Example-Person#_tabVideos", "pornstars:example-person"),
        identity_grade=True,
    ),
    _tube(
        "xhamster",
        "xhamster.com xhamster.desi xhamster2.com",
        ("pornstars|creators", "users"),
        ("https://ge.xhamster.com/pornstars/Example-Person/2", "pornstars:example-person"),
    ),
    _tube(
        "xnxx",
        "www.xnxx.com xnxx.com",
        ("pornstar|porn-maker", "profile"),
        ("https://www.xnxx.com/pornstar/example-person", "pornstar:example-person"),
    ),
    _tube(
        "redtube",
        "www.redtube.com redtube.com",
        ("pornstar|amateur", "users"),
        ("https://www.redtube.com/pornstar/Example+Person", "pornstar:example+person"),
    ),
    _tube(
        "youporn",
        "www.youporn.com youporn.com",
        ("pornstar", "uservids"),
        ("https://youporn.com/pornstar/example-person/", "pornstar:example-person"),
    ),
    _tube(
        "tube8",
        "www.tube8.com tube8.com",
        ("pornstar", ""),
        ("https://www.tube8.com/pornstar/example-person/", "pornstar:example-person"),
    ),
    _tube(
        "eporner",
        "www.eporner.com eporner.com",
        ("pornstar", "profile"),
        ("https://www.eporner.com/pornstar/Example-Person-AbC12/", "pornstar:example-person-abc12"),
    ),
    _tube(
        "hqporner",
        "hqporner.com",
        ("actress", ""),
        ("https://hqporner.com/actress/example-person", "actress:example-person"),
    ),
    ProfileSite(
        "spankbang",
        ("spankbang.com",),
        (
            form(
                rf"(?:[a-z0-9]+/)?(?P<kind>pornstar|model|creator|profile)/{SLUG}{_TAIL}",
                "{kind}:{id}",
                "https://spankbang.com/{kind}/{id}",
                "https://spankbang.com/a1b/pornstar/example+person/?o=new",
                "pornstar:example+person",
            ),
        ),
        identity_grade=False,
        reserved=words("all search top"),
        no_profiles=(
            "",
            "pornstars",
            "pornstar",
            "s/example/",
            "a1b/video/title",
            "a1b/channel/studio/",
            "tag/x",
        ),
    ),
)

NAMED_PAGES: tuple[ProfileSite, ...] = (
    ProfileSite(
        "adultdvdtalk",
        ("www.adultdvdtalk.com", "adultdvdtalk.com"),
        (
            form(
                rf"(?:pornstars?|talent)/{SLUG}",
                "{id}",
                "https://www.adultdvdtalk.com/pornstar/{id}",
                "https://www.adultdvdtalk.com/pornstar/Example-Person",
                "example-person",
            ),
        ),
        identity_grade=False,
        reserved=words("list index search"),
        no_profiles=("pornstars", "pornstars/a", "review/example", "forum/topic/1"),
    ),
    # Of unknown care with namesakes.
    ProfileSite(
        "dbnaked",
        ("dbnaked.com",),
        (
            form(
                rf"models/(?:general/)?(?P<letter>[a-z0-9])/{SLUG}",
                "{id}",
                "https://dbnaked.com/models/general/{letter}/{id}",
                "https://dbnaked.com/models/general/e/Example-Person",
                "example-person",
            ),
        ),
        identity_grade=False,
        no_profiles=("models", "models/e", "models/general/e", "models/general/e/2", "search?q=x"),
    ),
    ProfileSite(
        "shemalestardb",
        ("shemalestardb.com",),
        (
            form(
                rf"stars/{SLUG}",
                "{id}",
                "https://shemalestardb.com/stars/{id}",
                "https://www.shemalestardb.com/stars/Example-Person/",
                "example-person",
            ),
        ),
        identity_grade=False,
        reserved=words("page index search"),
        no_profiles=("stars", "stars/a", "stars/page/2", "scenes/1"),
    ),
    # The page is that of a tag, which namesakes share.
    ProfileSite(
        "av_wiki",
        ("av-wiki.net",),
        (
            form(
                rf"av-actress/{SLUG}",
                "{id}",
                "https://av-wiki.net/av-actress/{id}/",
                "https://av-wiki.net/av-actress/Example-Person/",
                "example-person",
            ),
        ),
        identity_grade=False,
        reserved=words("page feed"),
        no_profiles=(
            "av-actress",
            "?s=x&post_type=product",
            "abc-123/",
            "av-actress/page/2",
            "fanza-video/x/",
        ),
    ),
)
