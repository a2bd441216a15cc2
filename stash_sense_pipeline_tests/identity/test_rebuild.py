from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.schema import metadata
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError, ConfigurationError
from stash_sense_pipeline.identity.linkage.candidates import Candidates, find_candidates
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides, without_suppressed
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.identity.rebuild import IdentityReport, rebuild_identities
from stash_sense_pipeline.privacy.erasure import erase_alone
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline_tests.identity.population import (
    HOSTS,
    NOW,
    evidence,
    log,
    members,
    show,
    states,
    store,
)

X = "https://x.com/sample_person"
A = Record("stashdb", "a", "Sample Person", "FEMALE", urls=(X,))
B = Record("fansdb", "b", "Sample Person", "FEMALE", urls=("https://twitter.com/Sample_Person",))
C = Record(
    "pmvstash", "c", "Sample Person", "FEMALE", urls=("https://www.iafd.com/person.rme/perfid=x/gender=f",)
)
ALONE = Record("stashdb", "z", "Other Person", "FEMALE")


def rebuild(engine: sa.Engine, overrides: Overrides | None = None) -> IdentityReport:
    return rebuild_identities(engine, HOSTS, overrides or Overrides(), NOW)


def overrides(tmp_path: Path, text: str) -> Overrides:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(text)
    return load_overrides(path)


def test_every_live_record_is_in_one_identity(any_catalog: sa.Engine) -> None:
    store(any_catalog, A, B, ALONE, Record("theporndb", "gone", live=False))
    report = rebuild(any_catalog)
    assert sorted(map(sorted, members(any_catalog).values())) == [["fansdb:b", "stashdb:a"], ["stashdb:z"]]
    assert (report.identities, report.records, report.joined_sources, report.created) == (2, 3, 1, 2)
    assert report.evidence["profile"] == 1
    kinds = {(row.kind, row.verdict, row.key) for row in evidence(any_catalog)}
    assert ("profile", "linked", "twitter:sample_person") in kinds


def test_a_second_run_writes_nothing(catalog: sa.Engine) -> None:
    store(catalog, A, B, C, ALONE)
    assert rebuild(catalog).changed
    before = (members(catalog), states(catalog), log(catalog), evidence(catalog))
    report = rebuild(catalog)
    assert not report.changed
    assert report.events == {}
    assert before == (members(catalog), states(catalog), log(catalog), evidence(catalog))


def test_a_merge_keeps_the_larger_id_and_redirects_the_other(any_catalog: sa.Engine) -> None:
    store(any_catalog, C, A, B)
    rebuild(any_catalog)
    ids = {
        next(iter(keys)): performer_id
        for performer_id, keys in members(any_catalog).items()
        if len(keys) == 1
    }
    small = ids["pmvstash:c"]
    (large,) = members(any_catalog).keys() - {small}
    store(any_catalog, replace(C, urls=(*C.urls, X)))
    report = rebuild(any_catalog)
    assert members(any_catalog) == {large: {"stashdb:a", "fansdb:b", "pmvstash:c"}}
    assert states(any_catalog) == {large: (False, None), small: (True, large)}
    assert (report.merged, report.retired) == (1, 1)
    (merged,) = [entry for entry in log(any_catalog) if entry.event == "merged"]
    assert merged.performer_id == large
    assert merged.detail["from"] == small
    assert any("twitter:sample_person" in reason for reason in merged.detail["because"])
    # Undone: the id that was merged comes back, and the others keep theirs.
    store(any_catalog, C)
    rebuild(any_catalog)
    assert members(any_catalog) == {large: {"stashdb:a", "fansdb:b"}, small: {"pmvstash:c"}}
    assert states(any_catalog) == {large: (False, None), small: (False, None)}


def test_a_split_keeps_the_id_with_the_larger_part(catalog: sa.Engine) -> None:
    store(catalog, A, B, replace(C, urls=(X,)))
    rebuild(catalog)
    (whole,) = members(catalog)
    store(catalog, replace(A, urls=()))
    report = rebuild(catalog)
    assert members(catalog)[whole] == {"fansdb:b", "pmvstash:c"}
    (new,) = members(catalog).keys() - {whole}
    assert new > whole
    assert report.split == 1
    (split,) = [entry for entry in log(catalog) if entry.event == "split"]
    assert (split.performer_id, split.detail) == (whole, {"members": [["stashdb", "a"]], "to": new})


def test_equal_parts_leave_the_id_with_the_smallest_key(catalog: sa.Engine) -> None:
    store(catalog, A, B)
    rebuild(catalog)
    (whole,) = members(catalog)
    store(catalog, replace(A, urls=()))
    rebuild(catalog)
    assert members(catalog)[whole] == {"fansdb:b"}


@pytest.mark.slow
def test_ids_are_never_used_again(catalog: sa.Engine) -> None:
    store(catalog, A)
    rebuild(catalog)
    (first,) = members(catalog)
    store(catalog, replace(A, live=False))
    rebuild(catalog)
    assert members(catalog) == {}
    assert states(catalog) == {first: (True, None)}
    store(catalog, ALONE)
    rebuild(catalog)
    (second,) = members(catalog)
    assert second != first
    store(catalog, A)
    rebuild(catalog)
    assert members(catalog) == {first: {"stashdb:a"}, second: {"stashdb:z"}}
    assert states(catalog)[first] == (False, None)
    assert [entry.event for entry in log(catalog) if entry.performer_id == first] == [
        "created", "left", "retired", "revived",
    ]  # fmt: skip


def test_an_upstream_merge_leads_to_the_survivor(catalog: sa.Engine) -> None:
    link = Record(
        "fansdb",
        "b",
        "Somebody",
        urls=("https://stashdb.org/performers/00000000-0000-0000-0000-000000000001",),
    )
    old = Record("stashdb", "00000000-0000-0000-0000-000000000001", "Somebody")
    new = Record("stashdb", "00000000-0000-0000-0000-000000000002", "Somebody")
    store(catalog, link, old, new)
    rebuild(catalog)
    keeper = next(performer_id for performer_id, keys in members(catalog).items() if "fansdb:b" in keys)
    other = next(performer_id for performer_id, keys in members(catalog).items() if "fansdb:b" not in keys)
    store(catalog, replace(old, live=False, merged_into=new.source_id))
    rebuild(catalog)
    assert members(catalog) == {keeper: {"fansdb:b", f"stashdb:{new.source_id}"}}
    assert states(catalog)[other] == (True, keeper)
    assert {row.kind for row in evidence(catalog)} >= {"merge", "cross_link"}


@pytest.mark.slow
def test_redirects_have_no_chains(catalog: sa.Engine) -> None:
    store(catalog, A, B, replace(C, urls=()))
    rebuild(catalog)
    c = next(performer_id for performer_id, keys in members(catalog).items() if "pmvstash:c" in keys)
    d = Record("javstash", "d", "Sample Person", "FEMALE")
    store(catalog, d)
    rebuild(catalog)
    jav = next(performer_id for performer_id, keys in members(catalog).items() if "javstash:d" in keys)
    iafd = C.urls[0]
    store(catalog, C, replace(d, urls=(iafd,)))
    rebuild(catalog)
    assert states(catalog)[jav] == (True, c)
    store(catalog, replace(C, urls=(iafd, X)))
    rebuild(catalog)
    (last,) = members(catalog)
    assert states(catalog)[jav] == states(catalog)[c] == (True, last)


def test_reference_sites_join_but_never_make_an_identity(catalog: sa.Engine) -> None:
    page = "https://www.babepedia.com/babe/Sample_Person"
    store(
        catalog,
        replace(A, urls=(page,)),
        Record("babepedia", "sample_person", "Sample Person", urls=(page,)),
        Record("thenude", "777", "Nobody Else", urls=("https://www.thenude.com/_777.htm",)),
    )
    rebuild(catalog)
    assert list(members(catalog).values()) == [{"stashdb:a", "babepedia:sample_person"}]


def test_an_erased_record_leaves_its_identity(catalog: sa.Engine) -> None:
    store(catalog, A, B)
    rebuild(catalog)
    (whole,) = members(catalog)
    with catalog.begin() as connection:
        connection.exec_driver_sql("DELETE FROM source_performers WHERE source_id = 'b'")
    rebuild(catalog)
    assert members(catalog) == {whole: {"stashdb:a"}}


def test_theporndb_is_named_by_uuid_number_or_slug(any_catalog: sa.Engine) -> None:
    uuid = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
    tpdb = Record("theporndb", uuid, "Sample Person")
    boxes = ("stashdb", uuid.upper()), ("fansdb", "12345"), ("pmvstash", "Sample-Person")
    store(
        any_catalog,
        tpdb,
        *(
            Record(box, "1", "Sample Person", urls=(f"https://theporndb.net/performers/{name}",))
            for box, name in boxes
        ),
        Record("javstash", "1", "Sample Person", urls=("https://theporndb.net/performers/somebody-else",)),
        raw={tpdb.key: {"slug": "sample-person", "_id": 12345}},
    )
    rebuild(any_catalog)
    joined = {f"theporndb:{uuid}", "stashdb:1", "fansdb:1", "pmvstash:1"}
    assert sorted(map(len, members(any_catalog).values())) == [1, 4]
    assert joined in members(any_catalog).values()


def test_only_pictures_with_a_face_count_as_evidence(any_catalog: sa.Engine) -> None:
    one, other, third = (replace(record, urls=()) for record in (A, B, C))
    store(any_catalog, one, other, third)
    show(any_catalog, one, "i", "same bytes")
    show(any_catalog, other, "j", "same bytes")
    show(any_catalog, third, "k", "same bytes", state="rejected")
    rebuild(any_catalog)
    assert sorted(map(len, members(any_catalog).values())) == [1, 2]
    assert {"stashdb:a", "fansdb:b"} in members(any_catalog).values()


def test_a_sync_that_writes_meanwhile_is_not_overlooked(
    catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(catalog, A)
    news = iter([B, ALONE])

    def find_slowly(*arguments: Any) -> Candidates:
        record = next(news, None)
        if record is not None:
            store(catalog, record)
        return find_candidates(*arguments)

    monkeypatch.setattr("stash_sense_pipeline.identity.rebuild.find_candidates", find_slowly)
    rebuild(catalog)
    assert sorted(map(sorted, members(catalog).values())) == [["fansdb:b", "stashdb:a"], ["stashdb:z"]]


@pytest.mark.slow
def test_syncs_that_write_during_every_try_do_not_keep_a_run_from_ending(
    catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(catalog, *(Record("stashdb", f"s{number}", f"Stranger N{number}") for number in range(60)))
    written: list[Record] = []

    def find_slowly(*arguments: Any) -> Candidates:
        written.append(Record("fansdb", f"new{len(written)}", f"Late Comer{len(written)}"))
        store(catalog, written[-1])
        return find_candidates(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("stash_sense_pipeline.identity.rebuild.find_candidates", find_slowly)
        rebuild(catalog)
    known = set().union(*members(catalog).values())
    assert {f"fansdb:{record.source_id}" for record in written[:-1]} <= known
    assert f"fansdb:{written[-1].source_id}" not in known
    report = rebuild(catalog)
    assert report.incremental
    assert f"fansdb:{written[-1].source_id}" in set().union(*members(catalog).values())
    assert not rebuild_identities(catalog, HOSTS, Overrides(), NOW, full=True).changed


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, 4])
def test_a_record_that_is_erased_during_a_run_does_not_come_back(
    any_catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    gone = [Record("stashdb", f"gone{number}", "Sample Person", country="US") for number in range(tries)]
    store(any_catalog, A, B, *gone)
    left = list(gone)

    def erase_meanwhile(*arguments: Any) -> Candidates:
        found = find_candidates(*arguments)
        if left:
            with writing(any_catalog) as connection:
                erase_alone(connection, {left.pop().key}, NOW)
        return found

    monkeypatch.setattr("stash_sense_pipeline.identity.rebuild.find_candidates", erase_meanwhile)
    rebuild(any_catalog)
    with reading(any_catalog) as connection:
        for table in metadata.sorted_tables:
            rows = connection.execute(sa.select(table)).all()
            assert not any("gone" in str(row) for row in rows), table.name
    assert {"stashdb:a", "fansdb:b"} in members(any_catalog).values()


@pytest.mark.slow
def test_records_that_vanish_during_every_try_end_a_rebuild_in_one_line(
    catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(catalog, *(Record("stashdb", f"s{number:02}", f"Stranger N{number}") for number in range(60)))

    def erase_meanwhile(*arguments: Any) -> Candidates:
        found = find_candidates(*arguments)
        with writing(catalog) as connection:
            erase_alone(connection, {max(found.records)}, NOW)
        return found

    monkeypatch.setattr("stash_sense_pipeline.identity.rebuild.find_candidates", erase_meanwhile)
    with pytest.raises(CatalogError, match="run it again"):
        rebuild(catalog)


def test_private_stash_boxes_cross_link_by_their_host(catalog: sa.Engine) -> None:
    uuid = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
    store(
        catalog,
        Record("mine", uuid, "Sample Person"),
        Record("stashdb", "a", "Sample P", urls=(f"http://127.0.0.1:9998/performers/{uuid}",)),
    )
    rebuild_identities(catalog, {"mine": "127.0.0.1:9998", "stashdb": "stashdb.org"}, Overrides(), NOW)
    assert list(members(catalog).values()) == [{f"mine:{uuid}", "stashdb:a"}]


def test_must_link_joins_and_cannot_link_separates_records(catalog: sa.Engine, tmp_path: Path) -> None:
    store(catalog, A, B, replace(C, birth_date="1950"), replace(ALONE, birth_date="1990"))
    found = overrides(
        tmp_path, "must_link:\n- [stashdb:z, pmvstash:c]\ncannot_link:\n- [stashdb:a, fansdb:b]\n"
    )
    rebuild(catalog, found)
    assert sorted(map(sorted, members(catalog).values())) == [
        ["fansdb:b"], ["pmvstash:c", "stashdb:z"], ["stashdb:a"],
    ]  # fmt: skip
    refused = [row for row in evidence(catalog) if row.verdict == "refused"]
    apart = [
        row
        for row in refused
        if (row.source_a, row.source_b) == ("fansdb", "stashdb") and row.source_id_b == "a"
    ]
    assert {row.reason for row in apart} == {"cannot_link override"}
    assert "override" in {row.kind for row in evidence(catalog)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("must_link:\n- [stashdb:a, nowhere:9]\n", ":2: must_link names nowhere:9"),
        ("cannot_link:\n\n- [stashdb:a, stashdb:nobody]\n", ":3: cannot_link names stashdb:nobody"),
        (
            "must_link:\n- [stashdb:a, fansdb:b]\n- [fansdb:b, pmvstash:c]\n- [pmvstash:c, stashdb:a]\n",
            ":4: must_link pmvstash:c, stashdb:a closes a cycle",
        ),
        (
            "must_link:\n- [stashdb:a, fansdb:b]\n- [fansdb:b, stashdb:z]\n",
            ":3: must_link would make stashdb:a and stashdb:z one person",
        ),
        (
            "must_link:\n- [stashdb:a, fansdb:b]\n- [fansdb:b, pmvstash:c]\ncannot_link:\n- [stashdb:a, pmvstash:c]\n",
            ":5: cannot_link pmvstash:c, stashdb:a contradicts",
        ),
    ],
)
def test_an_impossible_override_is_refused_by_itself_with_its_line(
    catalog: sa.Engine, tmp_path: Path, text: str, complaint: str
) -> None:
    store(catalog, A, B, C, ALONE)
    given = overrides(tmp_path, text)
    (refused,) = refused_overrides(ShortReads(catalog), given)
    assert complaint in refused
    rebuild(catalog, given)
    # The other lines have their effect: the result is that of a file without the refused line.
    found = evidence(catalog)
    line = int(complaint.split(":")[1]) - 1
    lines = text.splitlines()
    lines[line] = ""
    rest = overrides(tmp_path, "\n".join(lines))
    assert refused_overrides(ShortReads(catalog), rest) == ()
    rebuild(catalog, rest)
    assert evidence(catalog) == found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("must_lnk: []\n", ":1: must_lnk: is not known"),
        ("must_link:\n- [stashdb:a]\n", ":2: must_link.0: must be a pair"),
        ("must_link:\n- [stashdb, fansdb:b]\n", ":2: must_link.0.0: 'stashdb' is not of the form source:id"),
        ("must_link: stashdb:a\n", ":1: must_link: must be a list"),
        ("cannot_link:\n- [stashdb:a, stashdb:a]\n", ":2: cannot_link.0: names stashdb:a twice"),
        ("- 1\n", ":1: must be a mapping"),
        ("must_link: [\n", "not valid YAML"),
    ],
)
def test_malformed_overrides_are_refused_with_file_and_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        overrides(tmp_path, text)


def test_no_overrides_file_means_no_overrides(tmp_path: Path) -> None:
    assert load_overrides(tmp_path / "none.yaml") == Overrides()


def test_overrides_of_suppressed_records_do_not_stop_a_run(catalog: sa.Engine, tmp_path: Path) -> None:
    """The catalog does not hold an erased record, but a line that names it is not an error."""
    key = b"k" * 32
    store(catalog, B, C, ALONE)
    given = overrides(
        tmp_path,
        "must_link:\n- [stashdb:a, fansdb:b]\ncannot_link:\n- [pmvstash:c, stashdb:a]\n- [fansdb:b, stashdb:z]\n",
    )
    listed = Suppressions(key, records=frozenset({record_hash(key, "stashdb", "a")}))
    kept = without_suppressed(given, listed)
    assert [(pair.a, pair.b) for pair in kept.cannot_link] == [(("fansdb", "b"), ("stashdb", "z"))]
    rebuild(catalog, kept)
    assert refused_overrides(ShortReads(catalog), kept) == ()
    assert len(refused_overrides(ShortReads(catalog), without_suppressed(given, NO_SUPPRESSIONS))) == 2


def test_overrides_of_removed_records_have_no_effect(catalog: sa.Engine, tmp_path: Path) -> None:
    store(catalog, A, replace(B, urls=(), live=False))
    rebuild(catalog, overrides(tmp_path, "must_link:\n- [stashdb:a, fansdb:b]\n"))
    assert list(members(catalog).values()) == [{"stashdb:a"}]


def test_a_failure_leaves_nothing_behind(catalog: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    store(catalog, A, B)
    monkeypatch.setattr(
        "stash_sense_pipeline.catalog.queries.identity.identities.write_log", lambda *_: 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        rebuild(catalog)
    with reading(catalog) as connection:
        for table in ("identities", "identity_members", "identity_evidence", "identity_log"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
