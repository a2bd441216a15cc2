"""Reference sites: the pace of each, the memory of ten that are read in parallel, and the time to read a page."""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stash_sense_pipeline_tests.bench.table import Row

_RATE = 600.0  # requests a minute: 100 ms between two
_PROFILES = 60
_REPEAT = 20


def rows() -> Iterator[Row]:
    """The pace of the slowest of ten sites, relative to the pace allowed; the lead of the fastest; memory; parsing time.

    One process reads all ten sites. The parsing time is that of the slowest site for a page of 200 kB.
    """
    from stash_sense_pipeline.sandbox.servers import SandboxServers

    with SandboxServers(_world()) as servers:
        addresses = {name: servers.url(name) for name in servers.world.sites}
        with tempfile.TemporaryDirectory() as directory:
            said = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    __name__,
                    directory,
                    *(f"{name}={url}" for name, url in addresses.items()),
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        paces, ahead = [], []
        for name in addresses:
            arrived = [
                entry.arrived for entry in servers.traffic.requests(name) if entry.path != "/robots.txt"
            ]
            if len(arrived) > 1:
                allowed = (arrived[-1] - arrived[0]) * _RATE / 60
                paces.append((len(arrived) - 1) / allowed)
                ahead.append(len(arrived) - 1 - allowed)
    yield Row("sites: slowest of ten against its pace", min(paces), "x", 0.95, at_least=True)
    # A crawl that keeps its pace needs an interval for each request after the first. The first request opens the connection
    # and may arrive late, by milliseconds of the interval of 100. A request too many is a whole interval.
    yield Row("sites: requests ahead of the pace, fastest of ten", max(ahead), "", 0.5)
    yield Row("sites: peak memory of ten in parallel", float(said.split()[-1]), "MB", 300)
    yield Row("sites: reading a page of 200 kB, slowest site", max(_reading()), "ms", 100)


def _world():
    """Pages without images. Each site lists the same people."""
    from stash_sense_pipeline.sandbox.sites.model import SitePage
    from stash_sense_pipeline.sandbox.sites.site_pages import SLUGS
    from stash_sense_pipeline.sandbox.world import World

    world = World.empty()
    for name, site in world.sites.items():
        for place in range(_PROFILES):
            identifier = f"0f1e2d3c-4b5a-4978-8796-{place:012d}"
            called = f"Quib {_letters(place)}"
            site.add(
                SitePage(
                    slug=SLUGS[name](called, identifier),
                    key="",
                    person=place,
                    name=called,
                    number=0 if name == "indexxx" else 1000 + place,
                )
            )
    return world


def _letters(number: int) -> str:
    return "Zo" + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _reading() -> Iterator[float]:
    """Milliseconds of processor time a page for each site, the median of several readings."""
    from stash_sense_pipeline_tests.sources.test_sites import (
        HTML_SITES,
        SITES,
        filled,
        page_of,
        parse_profile,
    )

    for name in HTML_SITES:
        site, page = filled(name)
        text = site.profile(page)
        # About 50 bytes an element, as on the densest pages that the sites send.
        filler = (
            "<div class='row teaser-item'><a href='/people/another-person/feed' title='Another Person'>"
            "one of many links</a><p>and some text about her</p></div>"
        )
        text = text.replace("<footer>", filler * (200_000 // len(filler)) + "<footer>")
        found = parse_profile(site.url(page))
        assert found is not None
        times = []
        for _ in range(_REPEAT):
            begin = time.process_time()
            SITES[name].read(page_of(site, text, site.url(page)), found.key.key)
            times.append(1000 * (time.process_time() - begin))
        yield statistics.median(times)


def _enrich_all(directory: Path, addresses: dict[str, str]) -> None:
    """Reads all sites into one catalog, a thread each, as ten parallel runs do."""
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.catalog.queries import performers
    from stash_sense_pipeline.catalog.transactions import writing
    from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
    from stash_sense_pipeline.records.performer_record import PerformerRecord
    from stash_sense_pipeline.sources.http.polite_client import PoliteClient
    from stash_sense_pipeline.sources.http.robots import Robots
    from stash_sense_pipeline.sources.ingest_context import IngestContext
    from stash_sense_pipeline.sources.reference_sites.enrich import enrich_source
    from stash_sense_pipeline.sources.reference_sites.page_fetcher import PlainFetcher
    from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
    from stash_sense_pipeline_tests.sources.sites import NOW, site_settings

    world = _world()
    engine = open_catalog(f"sqlite:///{directory / 'catalog.db'}")
    records = [
        PerformerRecord(
            source_id=f"person-{place}",
            name=f"Quib {_letters(place)}",
            urls=tuple(
                site.url(page)
                for name, site in world.sites.items()
                for page in site.pages.values()
                if page.person == place and name not in ("elitebabes", "javdatabase")
            ),
        )
        for place in range(_PROFILES)
    ]
    with writing(engine) as connection:
        performers.store_records(connection, "stashdb", records, NOW)

    async def enrich(name: str, url: str) -> None:
        settings = site_settings(name, url, rate_limit=_RATE)
        async with PoliteClient(name, url, rate=_RATE, gate=Robots(name), one_at_a_time=True) as client:
            connector = SiteConnector(settings, client, PlainFetcher(client))
            context = IngestContext(engine, NO_SUPPRESSIONS)
            await enrich_source(context, settings, {"stashdb": "stashdb.org"}, connector)

    with ThreadPoolExecutor(len(addresses)) as pool:
        list(pool.map(lambda each: asyncio.run(enrich(*each)), addresses.items()))
    engine.dispose()


if __name__ == "__main__":
    _enrich_all(Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
