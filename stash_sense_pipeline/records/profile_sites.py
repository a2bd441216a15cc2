"""The table of known sites: hosts, URL patterns, and whether a page proves identity."""

from __future__ import annotations

from stash_sense_pipeline.records.profile_databases import JAPAN, WORLD
from stash_sense_pipeline.records.profile_forms import (
    FUNCTIONS,
    LANGUAGE,
    NO_FILE,
    REGION,
    SLUG,
    UUID,
    ProfileSite,
    words,
)
from stash_sense_pipeline.records.profile_forms import form as _form
from stash_sense_pipeline.records.profile_forms import stash_box as _stash_box
from stash_sense_pipeline.records.profile_named_pages import NAMED_PAGES, TUBES
from stash_sense_pipeline.records.profile_networks import NETWORKS
from stash_sense_pipeline.records.profile_stores import CAMS, LINK_PAGES, STORES

# The facts on the ten reference sites are from the project's notes.
SITES: tuple[ProfileSite, ...] = (
    _stash_box("stashdb", "stashdb.org"),
    # ThePornDB names a performer by uuid, number or slug. The catalog decides which of them is stored.
    _stash_box(
        "theporndb",
        "theporndb.net",
        "api.theporndb.net",
        "metadataapi.net",
        "api.metadataapi.net",
        identifier="[^/?]+",
    ),
    # fansdb.xyz is its former host.
    _stash_box("fansdb", "fansdb.cc", "fansdb.xyz"),
    _stash_box("pmvstash", "pmvstash.org"),
    _stash_box("javstash", "javstash.org"),
    ProfileSite(
        "babepedia",
        ("babepedia.com",),
        (
            _form(
                r"babe/(?P<id>[^/]+)(?:/.*)?",
                "{id}",
                "https://www.babepedia.com/babe/{id}",
                "http://babepedia.com/babe/Example%20Person/gallery/3#pics",
                "example_person",
            ),
        ),
        singular=True,
        keep_case=True,
        no_profiles=("babe", "search/Example_Person", "gallery/Example_Person/12", "index/e", "top100"),
    ),
    ProfileSite(
        "iafd",
        ("iafd.com",),
        (
            _form(
                rf"person\.rme/id=(?P<id>{UUID})(?:/.*)?",
                "{id}",
                "https://www.iafd.com/person.rme/id={id}",
                "HTTP://WWW.IAFD.COM/person.rme/id=0F1E2D3C-4B5A-4978-8796-A5B4C3D2E1F0/example-person.htm",
                "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0",
            ),
            # Genders are f, m, d, tf and tm. One perfid may exist once with each.
            _form(
                r"person\.rme/perfid=(?P<id>[^/=]+)/gender=(?P<gender>female|male|[a-z]{1,2})(?:/(?P<name>[^/=]+))?",
                "perfid:{id}:{gender}",
                "https://www.iafd.com/person.rme/perfid={id}/gender={gender}/{name}",
                "https://www.iafd.com/person.rme/perfid=ExamplePerson/gender=TF/Example_Person.htm",
                "perfid:exampleperson:tf",
            ),
            _form(
                r"person\.rme/perfid=(?P<id>[^/=]+)(?:/(?P<name>[^/=]+))?",
                "perfid:{id}:?",
                "https://www.iafd.com/person.rme/perfid={id}/{name}",
                "https://www.iafd.com/person.rme/perfid=exampleperson",
                "perfid:exampleperson:?",
            ),
        ),
        singular=True,
        no_profiles=(
            "person.rme",
            "person.rme/id=1",
            "title.rme/id=0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0",
            "awards.asp?id=0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0",
            "results.asp?searchstring=Example+Person",
            "studio.rme/studio=1",
        ),
    ),
    ProfileSite(
        "freeones",
        ("freeones.com", "freeones.xxx", "freeones.ru", "freeones.ca"),
        (
            _form(
                r"html/(?P<id>[a-z]_links/.+)",
                "legacy:{id}",
                None,
                "http://www.freeones.com/html/e_links/Example_Person/",
                "legacy:e_links/example_person",
            ),
            _form(
                rf"{REGION}(?P<id>{NO_FILE}[^/]{{3,}})(?:/(?:bio|feed|photos|videos|links|profile))?",
                "{id}",
                "https://www.freeones.com/{id}",
                "https://www.freeones.xxx/pt-br/Example-Person/bio?utm=1",
                "example-person",
            ),
        ),
        singular=True,
        reserved=FUNCTIONS
        | words("vod html bio links discounts sites websites studios cup top feed top-pornstars"),
        no_profiles=(
            "",
            "de",
            "babes?q=example",
            "performers?q=example",
            "de/performers",
            "communities",
            "challenge/",
            "bookmarks",
            "create",
            "vod/1234-title",
            "example-person/videos/clip-1",
            "example-person/photos/title",
        ),
    ),
    ProfileSite(
        "boobpedia",
        ("boobpedia.com",),
        (
            _form(
                r"(?:boobs/|wiki/index\.php\?)(?!(?:file|image|category|user|talk|special|template|help|media|mediawiki"
                r"|boobpedia|project|portal|module|[a-z]+_talk):)(?P<id>[^/?]+)",
                "{id}",
                "https://www.boobpedia.com/boobs/{id}",
                "http://boobpedia.com/wiki/index.php?title=example+Person&redirect=no",
                "example_person",
            ),
        ),
        singular=True,
        keep_case=True,
        title=True,
        reserved=words("main_page"),
        no_profiles=(
            "boobs",
            "boobs/Category:Example",
            "boobs/User_talk:Example",
            "boobs/Special:Search?search=x",
            "wiki/index.php?title=Example&action=edit",
            "wiki/index.php?title=Example&amp;action=history",
            "wiki/index.php",
        ),
        query_parameter="title",
        refused_parameters=words("action oldid diff curid"),
    ),
    ProfileSite(
        "thenude",
        ("thenude.com", "thenude.eu"),
        (
            _form(
                r"(?!model_index)[^/]*_0*(?P<id>[1-9][0-9]{0,14})\.htm",
                "{id}",
                "https://www.thenude.com/_{id}.htm",
                "https://www.thenude.eu/Example%20Person_012345.htm?ref=1",
                "12345",
            ),
        ),
        singular=True,
        no_profiles=(
            "model_index_1.htm",
            "model_index_e.html",
            "index.php?page=search",
            "cover/x/555/y",
            "Person.htm",
        ),
    ),
    ProfileSite(
        "afdb",
        ("adultfilmdatabase.com",),
        (
            _form(
                r"actor/(?P<slug>[^/]+-)0*(?P<id>[1-9][0-9]{0,14})",
                "{id}",
                "https://www.adultfilmdatabase.com/actor/{slug}{id}/",
                "http://adultfilmdatabase.com/Actor/Example-Person-54321",
                "54321",
            ),
            _form(
                r"actor\.cfm\?0*(?P<id>[1-9][0-9]{0,14})",
                "{id}",
                "https://www.adultfilmdatabase.com/actor.cfm?actorid={id}",
                "https://www.adultfilmdatabase.com/actor.cfm?x=1&actorid=54321",
                "54321",
            ),
        ),
        singular=True,
        no_profiles=(
            "actor",
            "studio/555/sample/",
            "video/11111/title/",
            "ActorImage.cfm?ActorID=54321",
            "browse.cfm?type=actor",
        ),
        query_parameter="actorid",
    ),
    # The slug is a tag that namesakes share: the site gives images, but its pages prove no identity.
    ProfileSite(
        "pornpics",
        ("pornpics.com", "pornpics.de"),
        (
            _form(
                rf"{LANGUAGE}pornstars/{SLUG}",
                "{id}",
                "https://www.pornpics.com/pornstars/{id}/",
                "https://www.pornpics.de/jp/pornstars/Example-Person/?x=1",
                "example-person",
            ),
        ),
        identity_grade=False,
        shared=True,
        reserved=words("list gay shemale female male trans popular search page"),
        no_profiles=(
            "pornstars/",
            "pornstars/2/",
            "pornstars/a/",
            "de/pornstars/b",
            "galleries/x-1/",
            "tags/x",
            "?q=x",
        ),
    ),
    ProfileSite(
        "elitebabes",
        ("elitebabes.com",),
        (
            _form(
                rf"model/{SLUG}(?:/(?:sort|mpage)/[^/]+)*",
                "{id}",
                "https://www.elitebabes.com/model/{id}/",
                "http://elitebabes.com/model/Example-Person/sort/trending/mpage/2/",
                "example-person",
            ),
        ),
        singular=True,
        reserved=words("page feed sort mpage"),
        no_profiles=(
            "model/",
            "model/2/",
            "model/page/2/",
            "models/",
            "example-person-in-a-set/",
            "tag/x/",
            "?s=x",
        ),
    ),
    ProfileSite(
        "javdatabase",
        ("javdatabase.com",),
        (
            _form(
                rf"idols/{SLUG}",
                "{id}",
                "https://www.javdatabase.com/idols/{id}/",
                "http://javdatabase.com/idols/Example-Person-2?ipage=2",
                "example-person-2",
            ),
        ),
        singular=True,
        reserved=words("page feed"),
        no_profiles=(
            "idols/",
            "idols/?_birth_year=1990",
            "idols/page/3/",
            "idols/2/",
            "directors/x/",
            "movies/smp-001/",
        ),
    ),
    ProfileSite(
        "indexxx",
        ("indexxx.com",),
        (
            _form(
                r"m/(?P<id>[^/]+)",
                "{id}",
                "https://www.indexxx.com/m/{id}",
                "http://indexxx.com/m/Example-Person/",
                "example-person",
            ),
            _form(
                r"models/(?P<id>[0-9]+)(?:/.*)?",
                "legacy:{id}",
                None,
                "https://www.indexxx.com/models/9876/example-person-1/",
                "legacy:9876",
            ),
        ),
        singular=True,
        no_profiles=("m", "models", "models/e/", "websites/1/sample/sets/", "set/123456/", "search/?query=x"),
    ),
    *WORLD,
    *JAPAN,
    *NETWORKS,
    *STORES,
    *CAMS,
    *LINK_PAGES,
    *TUBES,
    *NAMED_PAGES,
)

_BY_NAME = {site.name: site for site in SITES}
# The sites where a person has one page.
SINGULAR = frozenset(site.name for site in SITES if site.singular)


BY_HOST = {host.removeprefix("www."): site for site in SITES for host in site.hosts}


def site(name: str) -> ProfileSite | None:
    """The table's row of that name."""
    return _BY_NAME.get(name)
