import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.intake.data_minimisation import drop_private_fields

LABELS = """full_name|Full name|birthName|Birth-Name|BORN AS|legal_name|bio|birthplace|birthplace_code
Place of birth|description|comments|trivia|e-mail|Real name:"""


@pytest.mark.parametrize("label", LABELS.replace("\n", "|").split("|"))
def test_a_private_label_is_dropped_however_it_is_written(label):
    assert drop_private_fields({label: "Example Person", "name": "Example"}) == {"name": "Example"}


def test_private_labels_are_dropped_at_any_depth_with_everything_below_them():
    raw = {
        "name": "Example",
        "bio": {"text": "secret"},
        "extras": {
            "birthplace": "secret",
            "height": "160cm",
            "links": {"StashDB": "https://box.example/p/1"},
        },
        "tattoos": [{"location": "left arm", "description": "secret"}],
        "site_performers": [
            {"name": "Example", "bio": "secret", "extra": {"haircolor": "Red", "born": "secret"}}
        ],
        "urls": [{"url": "https://x.example/e", "site": {"name": "X", "description": "secret"}}],
    }
    before = json.dumps(raw)
    kept = drop_private_fields(raw)
    assert "secret" not in json.dumps(kept)
    assert json.dumps(raw) == before
    assert kept == {
        "name": "Example",
        "extras": {"height": "160cm", "links": {"StashDB": "https://box.example/p/1"}},
        "tattoos": [{"location": "left arm"}],
        "site_performers": [{"name": "Example", "extra": {"haircolor": "Red"}}],
        "urls": [{"url": "https://x.example/e", "site": {"name": "X"}}],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "bio", "height", "full_name", "x"]), inner, max_size=4)
    ),
)


def without(value):
    if isinstance(value, dict):
        return {key: without(item) for key, item in value.items() if key not in ("bio", "full_name")}
    return [without(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["name", "bio", "urls"]), JSON))
def test_only_private_labels_are_dropped_from_any_json_record(raw):
    assert drop_private_fields(raw) == without(raw)
