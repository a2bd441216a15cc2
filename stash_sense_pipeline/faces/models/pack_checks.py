"""Checks of pack.yaml: its keys, and the values that each may have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder, Layout, SecondPass
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile

PACK_FILE = "pack.yaml"
PACK_SUFFIX = ".yaml"
PACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_PACK_KEYS = ("name", "licence", "detector", "embedders", "flip_averaging", "demo", "description", "tattoo")
_FILE_KEYS = ("file", "sha256", "bytes", "url", "member")
_DETECTOR_KEYS = (
    *(*_FILE_KEYS, "kind", "input_size", "channel_order", "threshold"),
    *("second_pass", "padding", "roll_correction"),
)
_ROLL_KEYS = ("from_degrees", "accept_below", "tries")
_EMBEDDER_KEYS = (*_FILE_KEYS, "input_size", "layout", "mean", "std", "dim", "channel_order", "optional")
_TATTOO_KEYS = ("detector", "embedder")
_TATTOO_DETECTOR_KEYS = (*_FILE_KEYS, "kind", "input_size")
_TATTOO_EMBEDDER_KEYS = (*_FILE_KEYS, "input_size", "dim")
_TATTOO_CROP = 224
_EMBEDDER_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The coarsest stride of SCRFD and YOLOv5: the feature maps have whole cells only at multiples of it.
_STRIDE = 32
_HALF_TURN = 180
# Each try turns and searches the whole picture again.
_MOST_TRIES = 10


def check_description(file: YamlFile) -> None:
    """Notes each problem of a pack.yaml."""
    data = _mapping(file, (), file.data, _PACK_KEYS, required=("name", "licence", "detector", "embedders"))
    if data is None:
        return
    check = _Values(file, (), data).check
    check("name", _is_pack_name, "letters, digits, ., _ and -")
    check("licence", _is_text, "a text")
    check("description", _is_text, "a text")
    check("flip_averaging", _is_flag, "true or false")
    check("demo", _is_flag, "true or false")
    if "detector" in data:
        _check_detector(file, data["detector"])
    if "embedders" in data:
        _check_embedders(file, data["embedders"])
    if "tattoo" in data:
        _check_tattoo(file, data["tattoo"])


def _check_tattoo(file: YamlFile, body: Any) -> None:
    path: KeyPath = ("tattoo",)
    section = _mapping(file, path, body, _TATTOO_KEYS, required=_TATTOO_KEYS)
    if section is None:
        return
    if "detector" in section:
        here: KeyPath = (*path, "detector")
        detector = _mapping(
            file, here, section["detector"], _TATTOO_DETECTOR_KEYS, ("file", "kind", "input_size")
        )
        if detector is not None:
            _check_file(file, here, detector)
            check = _Values(file, here, detector).check
            check("kind", lambda value: value == "yolov5", "yolov5")
            check("input_size", _is_detection_size, f"a multiple of {_STRIDE}")
    if "embedder" in section:
        here = (*path, "embedder")
        embedder = _mapping(
            file, here, section["embedder"], _TATTOO_EMBEDDER_KEYS, ("file", "input_size", "dim")
        )
        if embedder is not None:
            _check_file(file, here, embedder)
            check = _Values(file, here, embedder).check
            check("input_size", lambda value: value == _TATTOO_CROP, str(_TATTOO_CROP))
            check("dim", _is_count, "a whole number of at least 1")


def _check_detector(file: YamlFile, body: Any) -> None:
    path: KeyPath = ("detector",)
    detector = _mapping(file, path, body, _DETECTOR_KEYS, required=("file", "kind", "input_size"))
    if detector is None:
        return
    _check_file(file, path, detector)
    check = _Values(file, path, detector).check
    check("kind", lambda value: value == "scrfd", "scrfd")
    check("input_size", _is_detection_size, f"a multiple of {_STRIDE}")
    check("channel_order", lambda value: value in tuple(ChannelOrder), "rgb or bgr")
    check("threshold", _is_share, "between 0 and 1")
    check("second_pass", lambda value: value in tuple(SecondPass), "half_size, padded_edges or none")
    check("padding", _is_share, "between 0 and 1")
    padded = detector.get("second_pass") == SecondPass.PADDED_EDGES
    if padded != ("padding" in detector):
        file.complain(path, "padding goes with second_pass: padded_edges, and only with it")
    if "roll_correction" in detector:
        _check_roll(file, (*path, "roll_correction"), detector["roll_correction"])


def _check_roll(file: YamlFile, path: KeyPath, body: Any) -> None:
    roll = _mapping(file, path, body, _ROLL_KEYS, required=_ROLL_KEYS)
    if roll is None:
        return
    check = _Values(file, path, roll).check
    check("from_degrees", _is_angle, "degrees above 0, at most 180")
    check("accept_below", _is_angle, "degrees above 0, at most 180")
    check("tries", lambda value: _is_count(value) and value <= _MOST_TRIES, f"1 to {_MOST_TRIES}")


def _check_embedders(file: YamlFile, body: Any) -> None:
    embedders = _mapping(file, ("embedders",), body, None, required=())
    if embedders is None:
        return
    if not embedders:
        file.complain(("embedders",), "names no embedder; at least one is needed")
    for name, entry in embedders.items():
        path: KeyPath = ("embedders", name)
        if not _EMBEDDER_NAME.fullmatch(name):
            file.complain(path, "an embedder's name is small letters, digits and _")
        required = ("file", "input_size", "layout", "mean", "std", "dim")
        embedder = _mapping(file, path, entry, _EMBEDDER_KEYS, required)
        if embedder is None:
            continue
        _check_file(file, path, embedder)
        check = _Values(file, path, embedder).check
        check("input_size", _is_count, "a whole number of pixels of at least 1")
        check("layout", lambda value: value in tuple(Layout), "nhwc or nchw")
        check("mean", _is_number, "a number")
        check("std", lambda value: _is_number(value) and value > 0, "a number above 0")
        check("dim", _is_count, "a whole number of at least 1")
        check("channel_order", lambda value: value in tuple(ChannelOrder), "rgb or bgr")
        check("optional", _is_flag, "true or false")


def _check_file(file: YamlFile, path: KeyPath, body: Mapping[str, Any]) -> None:
    check = _Values(file, path, body).check
    check("file", _is_file_name, "a file name inside the pack's directory")
    check("sha256", _is_sha256, "64 small hexadecimal digits in quotes")
    check("bytes", _is_count, "a whole number of at least 1")
    check("url", _is_url, "an https address")
    check("member", _is_text, "a name inside the zip at the url")
    if "url" in body and "sha256" not in body:
        file.complain((*path, "url"), "a file that is downloaded needs its sha256 beside it")


def _mapping(
    file: YamlFile, path: KeyPath, data: Any, allowed: tuple[str, ...] | None, required: tuple[str, ...]
) -> Mapping[str, Any] | None:
    if not isinstance(data, dict):
        file.complain(path, f"{data!r} is not a mapping")
        return None
    for key in data:
        if allowed is not None and key not in allowed:
            file.complain((*path, key), f"unknown key; allowed are {', '.join(allowed)}")
    for key in required:
        if key not in data:
            file.complain(path, f"the key {key} is missing")
    return data


@dataclass(frozen=True)
class _Values:
    """The values of one mapping of pack.yaml, which stands at `path`."""

    file: YamlFile
    path: KeyPath
    body: Mapping[str, Any]

    def check(self, key: str, accepts: Callable[[Any], bool], allowed: str) -> None:
        """Complains about the value of a key, if it has one, that `accepts` refuses. `allowed` says what is accepted."""
        if key in self.body and not accepts(self.body[key]):
            self.file.complain((*self.path, key), f"{self.body[key]!r} is not allowed; it must be {allowed}")


def _is_pack_name(value: Any) -> bool:
    return isinstance(value, str) and PACK_NAME.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_detection_size(value: Any) -> bool:
    return _is_count(value) and value % _STRIDE == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _is_angle(value: Any) -> bool:
    return _is_number(value) and 0 < value <= _HALF_TURN


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_file_name(value: Any) -> bool:
    # A pack is untrusted input: a file name must not lead out of its directory.
    return (
        isinstance(value, str) and value not in ("", ".", "..", PACK_FILE) and not set(value) & set("/\\\0")
    )


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("https://") or value.startswith("http://127.0.0.1"))
