import itertools

import pytest

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline_tests.privacy.leaving_world import World, page_of

BORN = "1990-05-17"
PAGE = "https://www.iafd.com/person.rme/id=0a1b2c3d-0000-4000-8000-00000000000"


@pytest.fixture
def world(catalog):
    return World(catalog)


# The names and birth dates of people who have nothing in common.
PEOPLE = [
    ("Ada Lovely", BORN), ("Gwen Hartsfield", "1971-02-03"), ("Ines Quarry", "1973-11-29"),
    ("Petra Vinton", "1976-06-08"), ("Ruth Okonjo", "1979-12-24"), ("Sylvie Brandt", "1982-03-15"),
    ("Tamsin Youngblood", "1984-08-21"), ("Ursula Dmitrova", "1987-10-02"), ("Wilma Fenwick", "1993-01-27"),
]  # fmt: skip


def linked_pair(world, how, number=0):
    """Two records on two boxes of the person with this number, linked in one way. Returns their keys."""
    name, born = PEOPLE[number]
    one, other = ("stashdb", f"a{number + 1}"), ("fansdb", f"b{number + 1}")
    a = {"birth_date": born}
    b = {"birth_date": born}
    names = [name, name]
    if how == "cross link":
        b["urls"] = (page_of(*one),)
    elif how == "cross link back":
        a["urls"] = (page_of(*other),)
    elif how == "page":
        names[1] = "Bea Other"
        a["urls"] = b["urls"] = (PAGE + "1",)
    elif how == "alias and date":
        names[1] = "Cora Elsewhere"
        b["aliases"] = (name,)
    elif how == "similar name and date":
        # As Lovely and Lovelly.
        names[1] = f"{name[:-1]}{name[-2:]}"
    elif how == "name and nearly the date":
        b["birth_date"] = f"{born[:-1]}{int(born[-1]) + 1}"
    elif how == "name and year":
        b["birth_date"] = born[:4]
    elif how == "two names":
        a = {"aliases": (f"{name.split()[0]} Second",)}
        b = {"aliases": (f"{name.split()[0]} Second",)}
    world.show(*one, names[0], **a)
    world.show(*other, names[1], **b)
    return {one, other}


WAYS = [
    "name and date", "cross link", "cross link back", "page", "alias and date", "similar name and date",
    "name and nearly the date", "name and year", "two names",
]  # fmt: skip
STEPS = {
    "add": lambda world: world.add(*(f"stashdb:a{number + 1}" for number in range(len(WAYS)))),
    "stashdb": lambda world: world.sync("stashdb"),
    "fansdb": lambda world: world.sync("fansdb"),
    "identities": lambda world: world.identities(),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids=" ".join)
def test_a_person_is_gone_in_every_order_of_list_syncs_and_identities(world, order):
    """One person for each way in which two records are linked."""
    people = [linked_pair(world, how, number) for number, how in enumerate(WAYS)]
    stranger = world.show("stashdb", "z9", "Zoe Stranger", birth_date="1985-01-02")
    for step in order:
        STEPS[step](world)
    for how, person in zip(WAYS, people, strict=True):
        assert world.person_of(max(person)) == person, how
    world.publish()
    world.sync()
    assert world.publish() == {stranger}


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_pair_that_the_operator_joins_leaves_together(world, tmp_path):
    world.overrides = tmp_path / "identity_overrides.yaml"
    world.overrides.write_text("must_link:\n- ['stashdb:a1', 'fansdb:b1']\n")
    world.show("stashdb", "a1", "Ada Lovely", birth_date=BORN)
    world.show("fansdb", "b1", "Bea Other")
    world.sync()
    world.add("stashdb:a1")
    world.apply()
    assert world.stored() == set()
