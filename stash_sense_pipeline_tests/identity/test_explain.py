from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.identity.explain import explain
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store

X = "https://x.com/sample_person"


def test_explains_members_evidence_and_refusals(any_catalog: sa.Engine) -> None:
    store(
        any_catalog,
        Record("stashdb", "a", "Sample Person", "FEMALE", "1990-05-05", urls=(X,)),
        Record("fansdb", "b", "Sample Person", "FEMALE", urls=(X,)),
        Record("pmvstash", "c", "Sample Person", "MALE", urls=(X,)),
        Record("stashdb", "d", live=False),
    )
    rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    found = explain(any_catalog, "fansdb", "b")
    lines = found.lines()
    text = "\n".join(lines)
    assert lines[0].endswith("2 records:")
    assert "  stashdb:a  Sample Person, FEMALE, 1990-05-05" in lines
    assert "  +4.0 fansdb:b - stashdb:a  profile twitter:sample_person" in lines
    assert "[one is male, the other female]" in text
    assert "created: because profile twitter:sample_person" in text
    assert "members fansdb:b, stashdb:a" in text
    assert "in no identity" in explain(any_catalog, "stashdb", "d").lines()[0]
    with pytest.raises(StashSenseError, match="no record stashdb:nobody"):
        explain(any_catalog, "stashdb", "nobody")
    data = json.loads(json.dumps(found.as_data(), default=str))
    assert [(member["source"], member["birth_date"]) for member in data["members"]] == [
        ("fansdb", None), ("stashdb", "1990-05-05"),
    ]  # fmt: skip
    assert {row["verdict"] for row in data["evidence"]} >= {"linked", "refused"}
    assert (data["record"], data["history"][0]["event"]) == ("fansdb:b", "created")
