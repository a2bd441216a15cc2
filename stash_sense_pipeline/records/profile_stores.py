"""Rows of sites where performers sell or stream: subscription sites, clip stores, cam sites, and their pages of links."""

from __future__ import annotations

from stash_sense_pipeline.records.profile_forms import (
    FUNCTIONS,
    NUMBER,
    Accounts,
    ProfileSite,
    form,
)

_PERSON = "example_person"
_PLAIN = Accounts()
# Lists of rooms stand where names stand.
_CAMS = Accounts(
    prefix="",
    handle="[a-z0-9_-]{2,40}",
    reserved="new-models sex-cams chat-rooms spy private",
    no_profiles=("", "couples", "female", "tags/example", "login", "girls/new", "models", "search/example"),
)


def _numbered(
    name: str, hosts: str, path: str, tail: str, examples: tuple[str, str], *, identity_grade: bool = True
) -> ProfileSite:
    """A site with `/<path>/<number>/<anything>`."""
    host = hosts.split()[0]
    found = form(rf"{path}/{NUMBER}(?:/.*)?", "{id}", f"https://{host}/{path}/{{id}}{tail}", *examples)
    no_profiles = ("", path, f"{path}/example", "search?q=example", "login", "categories/1", f"{path}/0")
    return ProfileSite(
        name, tuple(hosts.split()), (found,), identity_grade=identity_grade, no_profiles=no_profiles
    )


STORES: tuple[ProfileSite, ...] = (
    Accounts(
        handle="(?![0-9]+$)(?![0-9]+/)[A-Za-z0-9_.-]{2,64}",
        tail="media|photos|videos|likes|streams|c[0-9]+|trial/[^/]+",
        reserved="my chats post brand complaints action rest public files transparency-center how cards statements",
        no_profiles=(
            "",
            "my/settings",
            "action/trial/x",
            "12345",
            "12345/example",
            "bookmarks",
            "posts/create",
        ),
    ).row("onlyfans", "onlyfans.com", "https://www.onlyfans.com/Example_Person/c12", _PERSON),
    Accounts(
        handle="[A-Za-z0-9_.-]{2,64}",
        tail="posts|media|subscribe",
        reserved="post r application subscription",
        no_profiles=("", "r/code", "post/12345", "explore", "creator/x", "live/example", "bookmarks"),
    ).row("fansly", "fansly.com", "https://fansly.com/Example_Person/posts", _PERSON),
    ProfileSite(
        "manyvids",
        ("manyvids.com",),
        (
            form(
                rf"profile/{NUMBER}(?:/.*)?",
                "{id}",
                "https://www.manyvids.com/Profile/{id}",
                "https://www.manyvids.com/Profile/01001/Example-Person/Store/Videos",
                "1001",
            ),
        ),
        no_profiles=("", "Profile", "Profile/Example", "Video/1001/title", "MVGirls", "login"),
    ),
    _numbered(
        "iwantclips",
        "iwantclips.com",
        "store",
        "",
        ("https://www.iwantclips.com/store/12345/Example-Person", "12345"),
    ),
    # A store may be a studio's.
    ProfileSite(
        "clips4sale",
        ("www.clips4sale.com", "clips4sale.com"),
        (
            form(
                rf"(?P<kind>studio|performers)/{NUMBER}(?:/.*)?",
                "{kind}:{id}",
                "https://www.clips4sale.com/{kind}/{id}",
                "https://www.clips4sale.com/studio/12345/Example-Person",
                "studio:12345",
            ),
        ),
        identity_grade=False,
        no_profiles=("", "studio", "studio/example", "clips/search/x", "clips/category/1", "login"),
    ),
    _PLAIN.row(
        "loyalfans", "www.loyalfans.com loyalfans.com", "https://loyalfans.com/Example_Person/store", _PERSON
    ),
    _PLAIN.row("fancentro", "fancentro.com", "https://www.fancentro.com/Example_Person/feed", _PERSON),
    Accounts(reserved="webmasters ajax").row(
        "justforfans", "justfor.fans", "https://justfor.fans/Example_Person?tab=store", _PERSON
    ),
    _PLAIN.row("fanvue", "www.fanvue.com fanvue.com", "https://fanvue.com/Example_Person", _PERSON),
    _PLAIN.row("avn_stars", "stars.avn.com", "https://stars.avn.com/Example_Person", _PERSON),
    _PLAIN.row("admireme", "admireme.vip", "https://admireme.vip/Example_Person/", _PERSON),
    _PLAIN.row("apclips", "apclips.com", "https://apclips.com/Example_Person/videos", _PERSON),
    _PLAIN.row(
        "sextpanther", "www.sextpanther.com sextpanther.com", "http://sextpanther.com/Example_Person", _PERSON
    ),
    _PLAIN.row("mym", "mym.fans", "https://mym.fans/Example_Person", _PERSON),
    _PLAIN.row("pocketstars", "pocketstars.com", "https://pocketstars.com/Example_Person", _PERSON),
    _PLAIN.row(
        "modelhub", "www.modelhub.com modelhub.com", "https://www.modelhub.com/Example_Person/videos", _PERSON
    ),
)

CAMS: tuple[ProfileSite, ...] = (
    Accounts(
        prefix="(?:b/|p/)?",
        handle="[a-z0-9_]{2,40}",
        reserved=_CAMS.reserved + " auth in tube supporter tipping contest emoticons external_link tag b p",
        no_profiles=("", "female-cams/", "tag/example/", "auth/login/", "couples", "in/?track=x", "b/tags"),
    ).row("chaturbate", "chaturbate.com", "https://de.chaturbate.com/b/Example_Person/", _PERSON),
    Accounts(
        prefix="(?:models/)?",
        handle="[a-z0-9_]{2,40}",
        reserved="models php mfc2 dist",
        no_profiles=("", "models", "php/login.php", "mfc2/x", "_", "models/search"),
    ).row(
        "myfreecams",
        "profiles.myfreecams.com myfreecams.com share.myfreecams.com",
        "https://share.myfreecams.com/Example_Person?tracking=1",
        _PERSON,
    ),
    _CAMS.row("stripchat", "stripchat.com", "https://de.stripchat.com/Example_Person/profile", _PERSON),
    _CAMS.row("cam4", "www.cam4.com cam4.com", "https://fr.cam4.com/Example_Person/", _PERSON),
    _CAMS.row(
        "camsoda", "www.camsoda.com camsoda.com", "https://www.camsoda.com/Example_Person/bio", _PERSON
    ),
    Accounts(
        prefix="(?:profile/)?", handle=_CAMS.handle, reserved=_CAMS.reserved, no_profiles=_CAMS.no_profiles
    ).row("bongacams", "bongacams.com", "https://de.bongacams.com/profile/Example_Person", _PERSON),
)

LINK_PAGES: tuple[ProfileSite, ...] = (
    Accounts(
        handle="[A-Za-z0-9_.]{2,64}",
        tail="",
        reserved="s marketplace resources products",
        no_profiles=("", "admin", "s/about", "marketplace", "login", "discover", "templates"),
    ).row(
        "linktree", "linktr.ee linktree.com", "https://www.linktree.com/Example_Person?utm_source=x", _PERSON
    ),
    _PLAIN.row("allmylinks", "allmylinks.com", "https://allmylinks.com/Example_Person", _PERSON),
    Accounts(reserved="i brand-deals income signin").row(
        "beacons", "beacons.ai", "https://beacons.ai/Example_Person", _PERSON
    ),
    _PLAIN.row("lnk_bio", "lnk.bio", "https://lnk.bio/Example_Person", _PERSON),
    _PLAIN.row("hoobe", "hoo.be", "https://hoo.be/Example_Person", _PERSON),
    _PLAIN.row("solo_to", "solo.to", "https://solo.to/Example_Person", _PERSON),
    _PLAIN.row("linkr_bio", "linkr.bio", "https://linkr.bio/Example_Person", _PERSON),
    _PLAIN.row("campsite", "campsite.bio campsite.to", "https://campsite.bio/Example_Person", _PERSON),
    ProfileSite(
        "carrd",
        ("carrd.co",),
        (
            form(
                r"(?P<id>[a-z0-9-]{2,63})/",
                "{id}",
                "https://{id}.carrd.co/",
                "http://Example-Person.carrd.co/#links",
                "example-person",
            ),
        ),
        account_host=True,
        reserved=FUNCTIONS,
        no_profiles=("", "build", "login", "docs/x"),
    ),
)
