"""The URL of an image on the list before any source shows the image: the person who alone shows it later is suppressed."""

import itertools
from datetime import date

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_sealed, add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.performer_record import ImageRecord
from stash_sense_pipeline_tests.privacy.leaving_world import KEY, World, fresh_world, page_of

BORN = "1990-05-17"
URL = "https://cdn.example/images/first.jpg"
ADA, ADA_ELSEWHERE, ZOE = ("stashdb", "a1"), ("fansdb", "b1"), ("stashdb", "z9")


@pytest.fixture
def world(catalog):
    return World(catalog)


def image(number=1, url=URL):
    return ImageRecord(f"i{number}", url, 100, 100)


def images_of(world):
    with reading(world.engine) as connection:
        return set(connection.scalars(sa.select(schema.source_images.c.url)))


def show_two_people(world):
    """Ada has two linked records, one with the listed image; Zoe has an image of her own."""
    world.show(*ADA, "Ada Lovely", birth_date=BORN, images=(image(), image(2, "https://cdn.example/2.jpg")))
    world.show(*ADA_ELSEWHERE, "Ada Lovely", birth_date=BORN, urls=(page_of(*ADA),))
    world.show(*ZOE, "Zoe Stranger", birth_date="1985-01-02", images=(image(3, "https://cdn.example/3.jpg"),))


STEPS = {
    "add": lambda world: world.add(f"{URL}?size=large"),
    "stashdb": lambda world: world.sync("stashdb"),
    "fansdb": lambda world: world.sync("fansdb"),
    "identities": lambda world: world.identities(),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids=" ".join)
def test_the_whole_person_is_gone_in_every_order_of_list_and_syncs(order, tmp_path, catalog_file):
    with fresh_world(catalog_file, tmp_path) as world:
        show_two_people(world)
        for step in order:
            STEPS[step](world)
        assert world.publish() == {ZOE}
        world.sync()
        assert world.publish() == {ZOE}
        assert images_of(world) == {"https://cdn.example/3.jpg"}


def test_the_person_is_gone_at_the_end_of_the_sync_that_shows_the_image(world):
    show_two_people(world)
    world.add(URL)
    world.sync("stashdb")
    assert world.stored() == {ZOE}
    assert not load_suppressions(world.engine, KEY).awaits_image(URL)


@pytest.mark.slow
def test_an_awaited_image_stays_awaited_until_a_source_shows_it(world):
    world.add(URL)
    show_two_people(world)
    world.change(ADA, images=())
    world.publish()
    world.sync()
    assert world.publish() == {ADA, ADA_ELSEWHERE, ZOE}
    world.change(ADA, images=(image(),))
    world.sync()
    assert world.publish() == {ZOE}


@pytest.mark.slow
def test_an_awaited_image_of_two_people_is_erased_without_them(world):
    show_two_people(world)
    world.add(URL)
    world.change(ZOE, images=(image(4),))
    world.sync()
    assert world.publish() == {ADA, ADA_ELSEWHERE, ZOE}
    assert URL not in images_of(world)
    world.sync()
    assert URL not in images_of(world)


def test_picture_only_means_the_image_alone(world):
    show_two_people(world)
    world.add(URL, picture_only=True)
    world.sync()
    assert world.publish() == {ADA, ADA_ELSEWHERE, ZOE}
    assert URL not in images_of(world)


@pytest.mark.slow
def test_an_awaited_image_is_decided_before_a_release_when_the_sync_was_killed(world):
    show_two_people(world)
    world.add(URL)

    async def killed(writer, source):
        await writer.store([record for key, record in world.shown.items() if key[0] == source])

    world._sync = killed
    world.sync("stashdb", "fansdb")
    assert URL in images_of(world)
    assert world.publish() == {ZOE}


@pytest.mark.slow
def test_a_sealed_entry_of_an_unseen_image_means_the_person_in_a_new_catalog(world, tmp_path, catalog_file):
    entry = SuppressionEntry(URL, "asked", date(2026, 11, 20), unseen=True)
    with writing(world.engine) as connection:
        sealed = add_sealed(connection, KEY, entry).entry
    with fresh_world(catalog_file, tmp_path) as other:
        with writing(other.engine) as connection:
            add_suppressions(connection, KEY, [sealed])
        show_two_people(other)
        other.sync()
        assert other.publish() == {ZOE}
        with writing(other.engine) as connection:
            assert add_suppressions(connection, KEY, [sealed]) == 0
