"""No release holds a person who left, in any order of list, syncs, identities and merges."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline_tests.privacy.leaving_world import HOSTS, World, fresh_world, page_of
from stash_sense_pipeline_tests.release.memory_disk import memory_disk

SOURCES = sorted(HOSTS)
FIRST = ("Ada", "Bea", "Cleo", "Dora", "Eve", "Fay")
LAST = ("Lovely", "Marsh", "North", "Orchard", "Pike", "Quill")
PAGE = "https://www.iafd.com/person.rme/id=0a1b2c3d-0000-4000-8000-{:012d}"
LINKS = (
    "name and date",
    "cross link",
    "cross link back",
    "page",
    "alias and date",
    "slip and date",
    "two names",
)


@st.composite
def people(draw):
    """True people: for each record its source, the earlier record that it is linked to, and the kind of link."""
    found = []
    for number in range(draw(st.integers(2, 4))):
        sources = draw(st.permutations(SOURCES))[: draw(st.integers(1, 4))]
        links = [(draw(st.integers(0, 9)), draw(st.sampled_from(LINKS))) for _ in sources]
        is_namesake = number > 0 and draw(st.integers(0, 5)) == 0
        found.append((sources, links, is_namesake))
    return found


def populate(world, population):
    """Makes the sources show the records of these people, and returns the true person of each record."""
    truth = {}
    for person, (sources, links, is_namesake) in enumerate(population):
        # A namesake has the name of the first person, and another birth date.
        called = 0 if is_namesake else person
        born = f"19{70 + 6 * person}-0{person + 2}-1{person}"
        shown = []
        for place, (source, (earlier, how)) in enumerate(zip(sources, links, strict=True)):
            source_id = f"p{person}r{place}"
            names = {"name": f"{FIRST[called]} {LAST[called]}"}
            if place == 0:
                shown.append(world.show(source, source_id, names["name"], birth_date=born))
                truth[shown[-1]] = person
                continue
            target = shown[earlier % place]
            base = world.shown[target]
            fields = {"birth_date": born}
            own = f"{FIRST[(person + place) % 6]} {LAST[(person + 2 * place) % 6]}{'xyz'[place - 1] * 3}{person}"
            if how == "name and date":
                own = base.name
            elif how == "cross link":
                fields["urls"] = (page_of(*target),)
            elif how == "cross link back":
                world.change(target, urls=(*base.urls, page_of(source, source_id)))
            elif how == "page":
                page = PAGE.format(100 * person + place)
                fields["urls"] = (page,)
                if not any("iafd" in url for url in base.urls):
                    world.change(target, urls=(*base.urls, page))
            elif how == "alias and date":
                fields["aliases"] = (base.name,)
            elif how == "slip and date":
                own = base.name[:-1] + base.name[-1] * 2
            else:
                own, fields = base.name, {"aliases": (f"{own} Second",)}
                world.change(target, aliases=(*base.aliases, *fields["aliases"]))
            shown.append(world.show(source, source_id, own, **fields))
            truth[shown[-1]] = person
    return truth


@st.composite
def steps(draw):
    """Steps of several builds in any order; each is a name and a number that chooses its record."""
    kinds = ["sync", "sync", "sync", "add", "add page", "identities", "apply", "publish", "merge", "change"]
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 50)), min_size=3, max_size=12))


def build(world, population, orders):
    """Takes the steps. Checks the release after each publish, and after two complete builds at the end."""
    truth = populate(world, population)
    left = set()
    endings = [("sync all", 0), ("publish", 0), ("sync all", 0), ("last publish", 0)]
    for kind, number in [*orders, *endings]:
        records = sorted(world.shown)
        record = records[number % len(records)]
        if kind == "sync":
            world.sync(SOURCES[number % len(SOURCES)])
        elif kind == "sync all":
            world.sync()
        elif kind == "add":
            world.add(":".join(record))
            left.add(record)
        elif kind == "add page":
            world.add(page_of(*record))
            left.add(record)
        elif kind == "identities":
            world.identities()
        elif kind == "apply":
            world.apply()
        elif kind == "change":
            world.change(
                record, urls=(*world.shown[record].urls, f"https://own.example/{number}/{record[1]}")
            )
        elif kind == "merge":
            newer = world.show(record[0], f"{record[1]}m{number}", world.shown[record].name)
            truth[newer] = truth[record]
            world.merge(*((record, newer) if number % 2 else (newer, record)))
            if record in left or newer in left:
                left |= {record, newer} & world.shown.keys()
        else:
            published = world.publish()
            gone = set().union(*(world.person_of(each) for each in left)) | left
            assert not published & gone, (kind, number)
            if kind == "last publish":
                leavers = {truth[each] for each in gone}
                strangers = {key for key in world.shown if truth[key] not in leavers}
                assert strangers <= published | world.held()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(people(), steps())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_release_never_holds_a_person_who_left_whatever_the_order(catalog_file, population, orders):
    with (
        tempfile.TemporaryDirectory(dir=memory_disk()) as directory,
        fresh_world(catalog_file, Path(directory)) as world,
    ):
        build(world, population, orders)


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("how", ["page", "alias and date", "two names"])
def test_a_release_never_holds_a_person_who_left_on_postgresql(postgres_catalog_url, how):
    population = [(SOURCES, [(0, how)] * 4, False), (SOURCES[:2], [(0, how)] * 2, True)]
    orders = [
        ("sync", 0),
        ("add", 2),
        ("sync", 1),
        ("identities", 0),
        ("merge", 0),
        ("sync", 2),
        ("apply", 0),
    ]
    engine = open_catalog(postgres_catalog_url)
    try:
        build(World(engine), population, [*orders, ("publish", 1)])
    finally:
        engine.dispose()


def test_a_record_that_only_links_to_the_page_of_a_suppressed_record_leaves_whatever_form_its_id_has(
    catalog_file, tmp_path
):
    """The ids are no uuids, as on a stash-box of an operator's own; nothing else links the two records."""
    for number, order in enumerate((("add", "fansdb", "javstash"), ("fansdb", "add", "fansdb", "javstash"))):
        directory = tmp_path / str(number)
        directory.mkdir()
        with fresh_world(catalog_file, directory) as world:
            world.show("fansdb", "p1", "Ada Lovely", birth_date="1988-05-13")
            world.show(
                "javstash", "p2", "Eve Quill", birth_date="1988-05-13", urls=(page_of("fansdb", "p1"),)
            )
            world.show("javstash", "p3", "Fay Pike", birth_date="1988-05-13")
            for step in order:
                world.add("fansdb:p1") if step == "add" else world.sync(step)
            assert world.publish() == {("javstash", "p3")}
            world.sync()
            assert world.publish() == {("javstash", "p3")}
