"""A pack is loaded only when its files are complete and pack.yaml is valid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack, read_description
from stash_sense_pipeline.faces.models.pack_fields import (
    SIDECAR_RULES,
    ChannelOrder,
    DetectionRules,
    Layout,
    RollCorrection,
    SecondPass,
)
from stash_sense_pipeline.foundation.errors import ModelPackError
from stash_sense_pipeline_tests.faces.nets import describe_pack, random_embedder


@pytest.fixture
def directory(pack: ModelPack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pack.directory, tmp_path / "models" / "test-pack"))


def change(directory: Path, **changes: Any) -> None:
    """Sets keys like `detector__input_size`; None removes one."""
    path = directory / "pack.yaml"
    data = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        body = data
        for parent in parents:
            body = body[parent]
        if value is None:
            del body[last]
        else:
            body[last] = value
    path.write_text(yaml.safe_dump(data))


def test_a_pack_is_loaded_by_name_by_directory_and_by_file(directory: Path) -> None:
    by_name = load_pack("test-pack", directory.parent)
    assert by_name == load_pack(str(directory), Path("nowhere"))
    assert by_name == load_pack(str(directory / "pack.yaml"), Path("nowhere"))
    assert by_name.detector.channel_order is ChannelOrder.RGB
    assert by_name.detector.threshold == 0.5
    assert list(by_name.embedders) == ["facenet", "arcface"]
    assert by_name.embedders["facenet"].layout is Layout.NHWC
    assert (by_name.embedders["facenet"].std, by_name.embedders["arcface"].std) == (127.5, 128.0)
    assert by_name.flip_averaging
    assert not by_name.demo
    assert by_name.digests == {name: spec.digest for name, spec in by_name.embedders.items()}


def test_a_digest_is_the_file_s_own_where_none_is_given(directory: Path) -> None:
    expected = load_pack("test-pack", directory.parent).detector.digest
    change(directory, detector__sha256=None)
    assert load_pack("test-pack", directory.parent).detector.digest == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stash-sense-v1", "stash-sense models pull stash-sense-v1"),
        ("some/where/else", "set STASH_SENSE_MODEL_PACK to a directory"),
    ],
)
def test_a_missing_pack_says_how_to_get_it(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ModelPackError, match=hint) as caught:
        load_pack(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_never_leads_out_of_the_models_directory(directory: Path) -> None:
    with pytest.raises(ModelPackError):
        load_pack("..", directory)


def test_a_missing_file_is_named(directory: Path) -> None:
    (directory / "arcface.onnx").unlink()
    with pytest.raises(
        ModelPackError, match=r"arcface\.onnx: the embedders\.arcface of the model pack is missing"
    ):
        load_pack("test-pack", directory.parent)


def test_an_optional_embedder_may_be_absent(directory: Path) -> None:
    change(directory, embedders__arcface__optional=True)
    assert set(load_pack("test-pack", directory.parent).embedders) == {"arcface", "facenet"}
    (directory / "arcface.onnx").unlink()
    assert set(load_pack("test-pack", directory.parent).embedders) == {"facenet"}


def test_another_file_than_described_is_refused(directory: Path) -> None:
    random_embedder(directory / "arcface.onnx", 99, size=112, layout="nhwc")
    with pytest.raises(ModelPackError, match=r"arcface\.onnx: is not the file that pack\.yaml describes"):
        load_pack("test-pack", directory.parent)


def test_a_wrong_size_is_refused(directory: Path) -> None:
    change(directory, detector__bytes=12)
    with pytest.raises(ModelPackError, match=r"bytes where pack\.yaml says 12"):
        load_pack("test-pack", directory.parent)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"colour": "red"}, "colour: unknown key; allowed are name, licence"),
        ({"licence": None}, "the key licence is missing"),
        ({"name": "../evil"}, "name: '../evil' is not allowed"),
        (
            {"flip_averaging": "yes please"},
            "flip_averaging: 'yes please' is not allowed; it must be true or false",
        ),
        ({"detector": [1]}, r"detector: \[1\] is not a mapping"),
        ({"detector__kind": "yolo"}, "detector.kind: 'yolo' is not allowed; it must be scrfd"),
        ({"detector__input_size": 630}, "a multiple of 32"),
        ({"detector__channel_order": "grb"}, "must be rgb or bgr"),
        ({"detector__threshold": 1.5}, "between 0 and 1"),
        ({"detector__file": "../../etc/passwd"}, "a file name inside the pack's directory"),
        ({"detector__sha256": "ABC"}, "64 small hexadecimal digits"),
        ({"detector__sha256": None, "detector__url": "https://example.org/x"}, "needs its sha256 beside it"),
        ({"detector__second_pass": "twice"}, "must be half_size, padded_edges or none"),
        ({"detector__second_pass": "padded_edges"}, "padding goes with second_pass: padded_edges"),
        ({"detector__padding": 0.3}, "padding goes with second_pass: padded_edges"),
        ({"detector__second_pass": "padded_edges", "detector__padding": 1}, "between 0 and 1"),
        ({"detector__roll_correction": 25}, "detector.roll_correction: 25 is not a mapping"),
        ({"detector__roll_correction": {"from_degrees": 25}}, "the key accept_below is missing"),
        (
            {"detector__roll_correction": {"from_degrees": 0, "accept_below": 200, "tries": 99}},
            "from_degrees: 0 is not allowed; it must be degrees above 0, at most 180",
        ),
        ({"embedders": {}}, "names no embedder"),
        ({"embedders__arcface__std": 0}, "a number above 0"),
        ({"embedders__arcface__dim": None}, "embedders.arcface: the key dim is missing"),
        ({"embedders__arcface__layout": "chwn"}, "nhwc or nchw"),
        ({"embedders__arcface__normalise": True}, "embedders.arcface.normalise: unknown key"),
        ({"embedders__Arc Face": {}}, "small letters, digits and _"),
    ],
)
def test_a_wrong_description_is_refused_with_its_line(
    directory: Path, changes: dict[str, Any], complaint: str
) -> None:
    change(directory, **changes)
    with pytest.raises(ModelPackError, match=complaint) as caught:
        load_pack("test-pack", directory.parent)
    assert f"{directory / 'pack.yaml'}:" in str(caught.value)


def test_the_rules_of_finding_faces_are_fields_of_the_description(directory: Path) -> None:
    plain = load_pack("test-pack", directory.parent).detector
    assert plain.rules == SIDECAR_RULES
    assert plain.finding_digest == plain.digest
    roll = {"from_degrees": 20, "accept_below": 10, "tries": 2}
    change(
        directory,
        detector__second_pass="padded_edges",
        detector__padding=0.25,
        detector__roll_correction=roll,
    )
    detector = load_pack("test-pack", directory.parent).detector
    assert detector.rules == DetectionRules(SecondPass.PADDED_EDGES, 0.25, RollCorrection(20.0, 10.0, 2))
    assert detector.digest == plain.digest
    assert detector.finding_digest not in (plain.digest, "")
    change(directory, detector__second_pass="none", detector__padding=None, detector__roll_correction=None)
    assert load_pack("test-pack", directory.parent).detector.rules == DetectionRules(SecondPass.NONE)


def test_a_description_beside_its_networks_is_a_pack_of_its_own(directory: Path) -> None:
    other = directory / "other.yaml"
    other.write_text((directory / "pack.yaml").read_text().replace("name: test-pack", "name: other"))
    assert load_pack(str(other), Path("nowhere")).name == "other"
    assert load_pack(str(directory), Path("nowhere")).name == "test-pack"
    with pytest.raises(ModelPackError, match=r"no model pack .*missing\.yaml"):
        load_pack(str(directory / "missing.yaml"), Path("nowhere"))


def test_broken_yaml_is_a_pack_error(directory: Path) -> None:
    (directory / "pack.yaml").write_text("name: [")
    with pytest.raises(ModelPackError, match="not valid YAML"):
        load_pack("test-pack", directory.parent)


def test_a_description_can_be_read_before_its_files_are_there(pack: ModelPack, tmp_path: Path) -> None:
    shutil.copy(pack.directory / "pack.yaml", tmp_path / "pack.yaml")
    description = read_description(tmp_path / "pack.yaml")
    assert [entry.role for entry in description.files] == [
        "detector",
        "embedders.facenet",
        "embedders.arcface",
    ]
    assert description.licence == pack.licence


def test_a_pack_may_have_any_number_of_embedders_with_any_names(directory: Path) -> None:
    random_embedder(directory / "third.onnx", 5, size=112, layout="nchw")
    third = {"file": "third.onnx", "input_size": 112, "layout": "nchw", "mean": 0, "std": 1, "dim": 512}
    embedders = yaml.safe_load((directory / "pack.yaml").read_text())["embedders"]
    describe_pack(directory, embedders={**embedders, "adaface": {**third, "channel_order": "bgr"}})
    loaded = load_pack("test-pack", directory.parent)
    assert list(loaded.embedders) == ["facenet", "arcface", "adaface"]
    assert loaded.embedders["adaface"].channel_order is ChannelOrder.BGR
