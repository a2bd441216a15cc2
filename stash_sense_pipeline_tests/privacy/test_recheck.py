import itertools

import pytest

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline_tests.privacy.leaving_world import World, page_of

BORN = "1990-05-17"
PAGE = "https://www.iafd.com/person.rme/id=0a1b2c3d-0000-4000-8000-00000000000"


@pytest.fixture
def world(catalog):
    return World(catalog)


def linked_pair(world, how):
    """Two records of one person on two boxes, linked in one way."""
    a = {"birth_date": BORN}
    b = {"birth_date": BORN}
    names = ["Ada Lovely", "Ada Lovely"]
    if how == "cross link":
        b["urls"] = (page_of("stashdb", "a1"),)
    elif how == "cross link back":
        a["urls"] = (page_of("fansdb", "b1"),)
    elif how == "page":
        names[1] = "Bea Other"
        a["urls"] = b["urls"] = (PAGE + "1",)
    elif how == "alias and date":
        names[1] = "Bea Other"
        b["aliases"] = ("Ada Lovely",)
    elif how == "similar name and date":
        names[1] = "Ada Lovelly"
    elif how == "name and nearly the date":
        b["birth_date"] = "1990-05-18"
    elif how == "name and year":
        b["birth_date"] = "1990"
    elif how == "two names":
        a = {"aliases": ("Ada Second",)}
        b = {"aliases": ("Ada Second",)}
    world.show("stashdb", "a1", names[0], **a)
    world.show("fansdb", "b1", names[1], **b)


WAYS = [
    "name and date", "cross link", "cross link back", "page", "alias and date", "similar name and date",
    "name and nearly the date", "name and year", "two names",
]  # fmt: skip
STEPS = {
    "add": lambda world: world.add("stashdb:a1"),
    "stashdb": lambda world: world.sync("stashdb"),
    "fansdb": lambda world: world.sync("fansdb"),
    "identities": lambda world: world.identities(),
}


@pytest.mark.parametrize("how", WAYS)
def test_a_person_is_gone_in_every_order_of_list_syncs_and_identities(world, how, tmp_path, catalog_file):
    from stash_sense_pipeline_tests.privacy.leaving_world import fresh_world

    for number, order in enumerate(itertools.permutations(STEPS)):
        directory = tmp_path / str(number)
        directory.mkdir()
        with fresh_world(catalog_file, directory) as one:
            linked_pair(one, how)
            one.show("stashdb", "z9", "Zoe Stranger", birth_date="1985-01-02")
            for step in order:
                STEPS[step](one)
            assert one.person_of(("stashdb", "a1")) == {("stashdb", "a1"), ("fansdb", "b1")}
            one.publish()
            one.sync()
            assert one.publish() == {("stashdb", "z9")}, order


def test_the_same_name_and_birth_date_come_back_as_a_new_record_and_are_held(world):
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.sync()
    world.publish()
    world.add("stashdb:a1")
    world.apply()
    new = world.show("stashdb", "a2", "Lovely Ada", birth_date=BORN)
    assert world.sync("stashdb").tally.held == {"a2"}
    assert world.publish() == set()
    assert world.held() == {new}


@pytest.mark.parametrize(
    ("name", "born"), [("Ada Lovely", "1972-03-04"), ("Eve Lovely", BORN), ("Ada Lovely", None)]
)
def test_a_name_alone_or_a_birth_date_alone_holds_no_record(world, name, born):
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    new = world.show("fansdb", "b1", name, birth_date=born)
    world.sync()
    assert world.publish() == {new}


def test_what_links_to_a_held_record_is_held_and_all_of_it_is_released_with_it(world):
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    first = world.show("fansdb", "b1", "Ada Lovely", birth_date=BORN, urls=(PAGE + "1",))
    second = world.show("pmvstash", "c1", "Cleo Third", urls=(PAGE + "1", PAGE + "2"))
    third = world.show("javstash", "d1", "Dora Fourth", urls=(PAGE + "2",))
    world.sync("fansdb", "pmvstash", "javstash")
    assert world.publish() == set()
    assert world.held() == {first, second, third}
    world.settle(first, same=False)
    world.sync()
    assert world.publish() == {first, second, third}
    assert world.held() == set()


def test_a_held_record_that_is_the_same_person_is_suppressed_and_leaves_no_id(world):
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    held = world.show("fansdb", "b1", "Ada Lovely", birth_date=BORN)
    world.sync()
    world.settle(held, same=True)
    assert world.held() == set()
    world.change(held, name="Ada Newname", birth_date=None)
    world.sync()
    assert world.publish() == set()
    with pytest.raises(ConfigurationError, match="fansdb:b1 is not a held record"):
        world.settle(held, same=False)


@pytest.mark.parametrize("linked_by", [{"urls": ("https://unlisted.example/ada/",)}])
def test_a_page_of_an_unknown_site_that_only_this_person_has_holds_a_new_record(world, linked_by):
    world.show("stashdb", "a1", "Ada Lovely", urls=("http://www.unlisted.example/ada",))
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    held = world.show("fansdb", "b1", "Bea Other", **linked_by)
    world.sync()
    assert world.publish() == set()
    assert world.held() == {held}


def test_a_page_of_an_unknown_site_that_others_list_too_holds_no_record(world):
    page = "https://unlisted.example/studio"
    world.show("stashdb", "a1", "Ada Lovely", urls=(page,))
    other = world.show("fansdb", "z1", "Zoe Stranger", urls=(page,))
    world.sync()
    world.publish()
    world.add("stashdb:a1")
    world.apply()
    new = world.show("pmvstash", "z2", "Yve Stranger", urls=(page,))
    world.sync()
    assert world.publish() == {other, new}


@pytest.mark.parametrize("direction", ["into the person", "of the person"])
def test_a_merge_at_the_source_takes_the_other_record_with_it(world, direction):
    person = world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    other = world.show("stashdb", "a2", "Bea Other")
    world.sync()
    world.publish()
    world.add("stashdb:a1")
    pair = (other, person) if direction == "into the person" else (person, other)
    world.merge(*pair)
    world.sync()
    assert world.publish() == set()


def test_a_new_page_of_a_refused_record_is_remembered_when_it_is_read_again(world):
    person = world.show("stashdb", "a1", "Ada Lovely")
    world.add("stashdb:a1")
    world.sync()
    world.change(person, urls=(PAGE + "1",), aliases=("Ada Second",))
    world.sync()
    world.show("fansdb", "b1", "Bea Other", urls=(PAGE + "1",))
    world.show("pmvstash", "c1", "Ada Lovely", aliases=("Ada Second",))
    world.sync()
    assert world.publish() == set()


def test_a_pair_that_the_operator_keeps_apart_does_not_leave_together(world, tmp_path):
    world.overrides = tmp_path / "identity_overrides.yaml"
    world.overrides.write_text("cannot_link:\n- ['stashdb:a1', 'fansdb:b1']\n")
    linked_pair(world, "alias and date")
    world.sync("fansdb")
    world.sync("stashdb")
    world.add("stashdb:a1")
    world.apply()
    assert world.stored() == {("fansdb", "b1")}


def test_a_pair_that_the_operator_joins_leaves_together(world, tmp_path):
    world.overrides = tmp_path / "identity_overrides.yaml"
    world.overrides.write_text("must_link:\n- ['stashdb:a1', 'fansdb:b1']\n")
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.show("fansdb", "b1", "Bea Other")
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    assert world.stored() == set()
