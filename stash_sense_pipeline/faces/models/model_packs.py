"""Model packs: pack.yaml read and validated, files verified by SHA-256."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stash_sense_pipeline.foundation.errors import ConfigurationError, ModelPackError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, read_yaml

CROP_SIZE = 112


PACK_FILE = "pack.yaml"

_PACK_KEYS = ("name", "licence", "detector", "embedders", "flip_averaging", "demo", "description")
_FILE_KEYS = ("file", "sha256", "bytes", "url", "member")
_DETECTOR_KEYS = (*_FILE_KEYS, "kind", "input_size", "channel_order", "threshold")
_EMBEDDER_KEYS = (*_FILE_KEYS, "input_size", "layout", "mean", "std", "dim", "channel_order", "optional")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EMBEDDER_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The coarsest stride of SCRFD: the feature maps have whole cells only at multiples of it.
_SCRFD_STRIDE = 32


class ChannelOrder(StrEnum):
    """Order of the colour channels in the input of a network's class."""

    RGB = "rgb"
    BGR = "bgr"


class Layout(StrEnum):
    """Order of the axes of an embedder's input after the batch: height, width, channels, or channels first."""

    NHWC = "nhwc"
    NCHW = "nchw"


@dataclass(frozen=True)
class DetectorSpec:
    """An SCRFD face detector with five landmarks.

    `digest` is the SHA-256 of its file, `input_size` the side of its square input in pixels.
    """

    path: Path
    digest: str
    input_size: int
    channel_order: ChannelOrder
    threshold: float


@dataclass(frozen=True)
class EmbedderSpec:
    """A network that maps a square face of `input_size` pixels to `dim` numbers.

    Each input value is (value - mean) / std.
    """

    path: Path
    digest: str
    input_size: int
    layout: Layout
    mean: float
    std: float
    dim: int
    channel_order: ChannelOrder = ChannelOrder.RGB


@dataclass(frozen=True)
class ModelPack:
    """One verified pack. `demo` marks a pack that recognises no real people."""

    name: str
    licence: str
    directory: Path
    detector: DetectorSpec
    embedders: Mapping[str, EmbedderSpec]
    flip_averaging: bool
    demo: bool

    @property
    def digests(self) -> Mapping[str, str]:
        """Embedder name to the sha256 of its network."""
        return {name: spec.digest for name, spec in self.embedders.items()}


@dataclass(frozen=True)
class PackFile:
    """One network in a pack.yaml: `models pull` fetches it, and `load_pack` verifies it.

    `role` is its key in pack.yaml, `size` is in bytes. With `member` the file has that name in a zip at `url`.
    """

    role: str
    file: str
    sha256: str | None
    size: int | None
    url: str | None
    member: str | None
    optional: bool


@dataclass(frozen=True)
class PackDescription:
    """A checked pack.yaml. Its networks may be missing."""

    path: Path
    name: str
    licence: str
    files: tuple[PackFile, ...]
    data: Mapping[str, Any]


def load_pack(name_or_path: str, models_dir: Path) -> ModelPack:
    """Loads a pack and verifies its files.

    `name_or_path` is the name of a directory in `models_dir`, or the path of any pack directory. An embedder marked
    `optional` is left out when its file is missing. Raises ModelPackError when the pack or a file is missing, when a
    file has another SHA-256 or size than in pack.yaml, or when pack.yaml is invalid.
    """
    directory = _find(name_or_path, models_dir)
    description = read_description(directory / PACK_FILE)
    digests = {entry.role: _verified(directory, entry, name_or_path) for entry in description.files}
    data = description.data
    detector = data["detector"]
    embedders = {}
    for name, body in data["embedders"].items():
        digest = digests[f"embedders.{name}"]
        if digest is not None:
            embedders[name] = EmbedderSpec(
                path=directory / body["file"],
                digest=digest,
                input_size=body["input_size"],
                layout=Layout(body["layout"]),
                mean=float(body["mean"]),
                std=float(body["std"]),
                dim=body["dim"],
                channel_order=ChannelOrder(body.get("channel_order", "rgb")),
            )
    if not embedders:
        raise ModelPackError(
            f"{directory / PACK_FILE}: none of the pack's embedders is there; {_how_to_get(name_or_path)}"
        )
    detector_digest = digests["detector"]
    assert detector_digest is not None  # only embedders can be optional
    return ModelPack(
        name=description.name,
        licence=description.licence,
        directory=directory,
        detector=DetectorSpec(
            path=directory / detector["file"],
            digest=detector_digest,
            input_size=detector["input_size"],
            channel_order=ChannelOrder(detector.get("channel_order", "rgb")),
            threshold=float(detector.get("threshold", 0.5)),
        ),
        embedders=MappingProxyType(embedders),
        flip_averaging=data.get("flip_averaging", True),
        demo=data.get("demo", False),
    )


def read_description(path: Path) -> PackDescription:
    """Reads and checks a pack.yaml, but not the networks. Raises ModelPackError with line and key of each problem."""
    try:
        file = read_yaml(path)
        _check(file)
        file.raise_problems()
    except ConfigurationError as error:
        raise ModelPackError(str(error)) from error
    data = file.data
    bodies = {"detector": data["detector"]}
    bodies |= {f"embedders.{name}": body for name, body in data["embedders"].items()}
    files = tuple(
        PackFile(
            role=role,
            file=body["file"],
            sha256=body.get("sha256"),
            size=body.get("bytes"),
            url=body.get("url"),
            member=body.get("member"),
            optional=body.get("optional", False),
        )
        for role, body in bodies.items()
    )
    return PackDescription(path, data["name"], data["licence"].strip(), files, data)


def embedder_digests(name_or_path: str, models_dir: Path) -> Mapping[str, str]:
    """Embedder name to the SHA-256 of its network; empty when the pack is not installed.

    For code that works without faces too. Raises ModelPackError for a damaged pack, as `load_pack` does.
    """
    try:
        _find(name_or_path, models_dir)
    except ModelPackError:
        return {}
    return load_pack(name_or_path, models_dir).digests


def _find(name_or_path: str, models_dir: Path) -> Path:
    if _NAME.fullmatch(name_or_path) and (models_dir / name_or_path / PACK_FILE).is_file():
        return models_dir / name_or_path
    directory = Path(name_or_path).expanduser()
    if directory.name == PACK_FILE:
        directory = directory.parent
    if (directory / PACK_FILE).is_file():
        return directory
    raise ModelPackError(
        f"there is no model pack {name_or_path!r} in {models_dir}; {_how_to_get(name_or_path)}"
    )


def _how_to_get(name_or_path: str) -> str:
    if _NAME.fullmatch(name_or_path):
        return (
            f"get it with `stash-sense models pull {name_or_path}`,"
            " or set STASH_SENSE_MODEL_PACK to a directory with a pack"
        )
    return (
        f"set STASH_SENSE_MODEL_PACK to a directory with a {PACK_FILE}, or to the name of an installed pack"
    )


def _verified(directory: Path, entry: PackFile, name_or_path: str) -> str | None:
    """The digest of the file; None when it is optional and missing."""
    path = directory / entry.file
    if not path.is_file():
        if entry.optional:
            return None
        raise ModelPackError(
            f"{path}: the {entry.role} of the model pack is missing; {_how_to_get(name_or_path)}"
        )
    stat = path.stat()
    if entry.size is not None and stat.st_size != entry.size:
        raise ModelPackError(
            f"{path}: has {stat.st_size} bytes where {PACK_FILE} says {entry.size};"
            f" {_how_to_get(name_or_path)}"
        )
    digest = _digest(path.resolve(), stat.st_size, stat.st_mtime_ns)
    if entry.sha256 is not None and digest != entry.sha256:
        raise ModelPackError(
            f"{path}: is not the file that {PACK_FILE} describes"
            f" (sha256 {digest[:12]}… instead of {entry.sha256[:12]}…); {_how_to_get(name_or_path)}"
        )
    return digest


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    """The SHA-256 of a file, computed once per process while size and modification time stay the same."""
    del size, modified_ns  # they are only parts of the cache key
    return sha256_file(path)


def _check(file: YamlFile) -> None:
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


def _check_detector(file: YamlFile, body: Any) -> None:
    path: KeyPath = ("detector",)
    detector = _mapping(file, path, body, _DETECTOR_KEYS, required=("file", "kind", "input_size"))
    if detector is None:
        return
    _check_file(file, path, detector)
    check = _Values(file, path, detector).check
    check("kind", lambda value: value == "scrfd", "scrfd")
    check(
        "input_size",
        lambda value: _is_count(value) and value % _SCRFD_STRIDE == 0,
        f"a multiple of {_SCRFD_STRIDE}",
    )
    check("channel_order", lambda value: value in tuple(ChannelOrder), "rgb or bgr")
    check(
        "threshold",
        lambda value: _is_number(value) and 0 < value < 1,
        "between 0 and 1",
    )


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
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_file_name(value: Any) -> bool:
    # A pack is untrusted input: a file name must not lead out of its directory.
    return (
        isinstance(value, str) and value not in ("", ".", "..", PACK_FILE) and not set(value) & set("/\\\0")
    )


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("https://") or value.startswith("http://127.0.0.1"))
