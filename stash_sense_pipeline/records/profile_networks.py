"""Rows of social networks.

Reserved words are first path segments that are functions of the site: without them, twitter.com/intent would join
records of many performers.
"""

from __future__ import annotations

from stash_sense_pipeline.records.profile_forms import (
    FUNCTIONS,
    TABS,
    Accounts,
    ProfileSite,
    exact_form,
    form,
    words,
)

_PERSON = "example_person"
_NO_FUNCTIONS = frozenset[str]()

NETWORKS: tuple[ProfileSite, ...] = (
    Accounts(
        handle="[A-Za-z0-9_]{1,15}",
        tail="media|with_replies|likes|highlights|photo|header_photo|followers|following|articles|lists|verified_followers",
        reserved="intent i hashtag compose who_to_follow statuses status web anyuser",
    ).row("twitter", "x.com twitter.com", "https://mobile.twitter.com/@Example_Person?lang=en", _PERSON),
    Accounts(
        handle="[A-Za-z0-9_](?:[A-Za-z0-9_.]{0,28}[A-Za-z0-9_])?",
        prefix="(?:_u/)?@?",
        tail="reels|tagged|channel|feed|related_profiles|followers|following|guides|saved",
        reserved="p reel reels story tv direct web sharer popular directory _u _n challenge accountsuspended",
        no_profiles=(
            "",
            "p/AbCdEf",
            "explore/tags/example",
            "stories/example/1",
            "challenge/",
            "_u/explore",
            "_u",
        ),
    ).row(
        "instagram",
        "www.instagram.com instagram.com instagr.am",
        "https://www.instagram.com/_u/Example_Person/?hl=en",
        _PERSON,
    ),
    Accounts(
        handle=r"[A-Za-z0-9_.]{2,24}",
        prefix="@",
        shown="@",
        tail="live|playlist",
        functions=_NO_FUNCTIONS,
        no_profiles=("", "explore", "tag/example", "@example/video/1", "music/x-1", "discover/example"),
    ).row(
        "tiktok",
        "www.tiktok.com tiktok.com",
        "https://m.tiktok.com/@Example_Person/live?lang=en",
        _PERSON,
    ),
    Accounts(
        handle=r"[A-Za-z0-9_.]{1,30}",
        prefix="@",
        shown="@",
        tail="replies|media|reposts",
        functions=_NO_FUNCTIONS,
        no_profiles=("", "search?q=example", "@example/post/1", "login"),
    ).row(
        "threads",
        "www.threads.net threads.net threads.com",
        "https://www.threads.com/@example_person?hl=de",
        _PERSON,
    ),
    Accounts(
        handle=r"[A-Za-z0-9.:-]{3,253}",
        prefix="profile/",
        shown="profile/",
        tail="followers|follows|lists",
        functions=_NO_FUNCTIONS,
        no_profiles=("", "search?q=example", "profile/example.test/post/1", "profile", "feeds"),
    ).row(
        "bluesky", "bsky.app", "https://bsky.app/profile/Example.Person.test/follows", "example.person.test"
    ),
    Accounts(
        handle=r"[A-Za-z0-9_-]{3,20}",
        prefix="(?:(?:u|user)/|r/u_)",
        shown="user/",
        tail="submitted|comments|overview|posts|about|gilded|saved|m/[^/]+",
        reserved="me",
        functions=_NO_FUNCTIONS,
        no_profiles=("", "r/example", "r/example/comments/1/x", "user/me", "users/example", "search?q=u"),
    ).row(
        "reddit",
        "www.reddit.com reddit.com old.reddit.com new.reddit.com np.reddit.com sh.reddit.com",
        "https://old.reddit.com/user/Example_Person/submitted/?sort=top",
        _PERSON,
    ),
    ProfileSite(
        "youtube",
        ("www.youtube.com", "youtube.com", "music.youtube.com"),
        (
            form(
                r"@(?P<id>[^/@]{2,64})(?:/(?:videos|about|featured|shorts|streams|playlists|community|posts|live|podcasts))?",
                "{id}",
                "https://www.youtube.com/@{id}",
                "https://m.youtube.com/@Example_Person/streams",
                _PERSON,
            ),
            exact_form(
                r"(?i:channel)/(?P<id>UC[A-Za-z0-9_-]{22})(?:/[a-z]+)?",
                "channel:{id}",
                "https://www.youtube.com/channel/{id}",
                "https://www.youtube.com/channel/UCabcdefghijklmnop_-1234/about",
                "channel:UCabcdefghijklmnop_-1234",
            ),
            form(
                r"(?P<kind>c|user)/(?P<id>[^/@]{1,100})(?:/[a-z]+)?",
                "{kind}:{id}",
                "https://www.youtube.com/{kind}/{id}",
                "http://www.youtube.com/user/ExamplePerson/videos?view=0",
                "user:exampleperson",
            ),
        ),
        reserved=words("channel c user"),
        no_profiles=(
            "",
            "watch?v=abc",
            "playlist?list=abc",
            "results?search_query=x",
            "shorts/abc",
            "channel/abc",
        ),
    ),
    Accounts(
        handle="[a-z0-9_]{3,25}",
        reserved="directory jobs p prime products store turbo u popout moderator team videos collections drops inventory",
        tail="about|videos|clips|schedule|home",
        identity_grade=False,
    ).row("twitch", "www.twitch.tv twitch.tv", "https://m.twitch.tv/Example_Person/about", _PERSON),
    ProfileSite(
        "facebook",
        (
            "www.facebook.com",
            "facebook.com",
            "mbasic.facebook.com",
            "web.facebook.com",
            "touch.facebook.com",
            "fb.com",
        ),
        (
            form(
                r"profile\.php\?(?P<id>[1-9][0-9]{2,19})",
                "{id}",
                "https://www.facebook.com/profile.php?id={id}",
                "https://m.facebook.com/profile.php?id=100000000000001&sk=about",
                "100000000000001",
            ),
            form(
                r"(?:people|pages)/[^/]+/(?P<id>[1-9][0-9]{4,19})",
                "{id}",
                "https://www.facebook.com/profile.php?id={id}",
                "https://de-de.facebook.com/people/Example-Person/100000000000001/",
                "100000000000001",
            ),
            form(
                r"p/[^/]*-(?P<id>[1-9][0-9]{7,19})",
                "{id}",
                "https://www.facebook.com/profile.php?id={id}",
                "https://www.facebook.com/p/Example-Person-100000000000001/",
                "100000000000001",
            ),
            form(
                rf"(?:pg/)?(?P<id>(?![^/]*\.php)[a-z0-9.]{{5,50}})(?:/(?:{TABS}|friends|photos_stream|timeline))?",
                "{id}",
                "https://www.facebook.com/{id}",
                "https://www.facebook.com/pg/Example.Person/photos?ref=page",
                "example.person",
            ),
        ),
        identity_grade=False,
        reserved=FUNCTIONS
        | words("sharer sharer.php people hashtag permalink dialog plugins friends reels stories notes"),
        no_profiles=(
            "",
            "l.php?u=x",
            "sharer/sharer.php?u=x",
            "groups/12345678",
            "events/12345678",
            "story.php?id=1234567",
            "profile.php",
            "share/abcdef",
            "people/Example-Person",
            "login.php",
        ),
        query_parameter="id",
        query_paths=("profile.php",),
    ),
    Accounts(
        handle="(?!(?:club|public|event|app)[0-9]+(?:/|$))[a-z0-9_.]{2,32}",
        prefix="",
        tail="",
        reserved="im wall friends docs market clips away.php search.php write audio audios video photo login.php",
        identity_grade=False,
    ).row("vk", "vk.com vkontakte.ru", "https://m.vk.com/Example_Person", _PERSON),
    Accounts(prefix="", identity_grade=False).row(
        "myspace", "myspace.com", "https://www.myspace.com/Example_Person/photos", _PERSON
    ),
    Accounts(
        handle="[a-z][a-z0-9._-]{2,29}",
        prefix="(?:add/@?|@)",
        shown="add/",
        tail="",
        functions=_NO_FUNCTIONS,
        identity_grade=False,
        no_profiles=("", "add", "discover/x/1", "unlock/?type=SNAPCODE", "spotlight/abc"),
    ).row(
        "snapchat",
        "www.snapchat.com snapchat.com story.snapchat.com",
        "https://www.snapchat.com/@Example_Person",
        _PERSON,
    ),
    Accounts(
        handle="[a-z][a-z0-9_]{3,31}",
        prefix="(?:s/)?@?",
        tail="",
        reserved="joinchat addstickers addemoji addtheme addlist proxy socks setlanguage confirmphone invoice bg",
        identity_grade=False,
        no_profiles=("", "+AbCdEfGh", "joinchat/AbCdEf", "example/123", "share/url?url=x", "s/explore"),
    ).row(
        "telegram",
        "t.me telegram.me telegram.dog",
        "https://t.me/s/Example_Person?before=1",
        _PERSON,
    ),
    ProfileSite(
        "tumblr",
        ("www.tumblr.com", "tumblr.com"),
        (
            # The account is the label of the host; without one, the path begins with a slash.
            form(
                r"(?P<id>[a-z0-9-]{1,63})/(?:about|archive|ask)?",
                "{id}",
                "https://{id}.tumblr.com/",
                "http://Example-Person.tumblr.com/archive",
                "example-person",
            ),
            form(
                r"/(?:blog/(?:view/)?)?@?(?P<id>[a-z0-9-]{1,63})",
                "{id}",
                "https://{id}.tumblr.com/",
                "https://www.tumblr.com/blog/view/Example-Person",
                "example-person",
            ),
        ),
        identity_grade=False,
        account_host=True,
        reserved=FUNCTIONS | words("assets embed media secure dashboard tagged likes abuse reblog"),
        no_profiles=("", "tagged/example", "example-person/12345/title", "dashboard", "search/example"),
    ),
    ProfileSite(
        "patreon",
        ("www.patreon.com", "patreon.com"),
        (
            form(
                r"user\?(?P<id>[1-9][0-9]{0,14})",
                "user:{id}",
                "https://www.patreon.com/user?u={id}",
                "https://www.patreon.com/user?u=12345",
                "user:12345",
            ),
            form(
                rf"(?:cw?/)?@?(?P<id>[a-z0-9_-]{{2,64}})(?:/(?:{TABS}|home|membership))?",
                "{id}",
                "https://www.patreon.com/{id}",
                "https://www.patreon.com/c/Example_Person/posts",
                _PERSON,
            ),
        ),
        identity_grade=False,
        reserved=FUNCTIONS | words("c cw bepatron become-a-patron checkout portal europe"),
        no_profiles=("", "bePatron?u=1", "posts/title-123", "user", "user?x=1", "search?q=x", "login"),
        query_parameter="u",
        query_paths=("user",),
    ),
)
