"""Model packs: pack.yaml read and validated, files verified by SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stash_sense_pipeline.faces.models.pack_checks import PACK_FILE, PACK_NAME, PACK_SUFFIX, check_description
from stash_sense_pipeline.faces.models.pack_fields import (
    SIDECAR_RULES,
    ChannelOrder,
    DetectionRules,
    Layout,
    RollCorrection,
    SecondPass,
)
from stash_sense_pipeline.foundation.errors import ConfigurationError, ModelPackError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.yaml_file import read_yaml

if TYPE_CHECKING:
    from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels

CROP_SIZE = 112
# The roles of the networks for tattoos begin with this. They are always optional.
TATTOO_ROLE = "tattoo."


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
    rules: DetectionRules = SIDECAR_RULES

    @property
    def finding_digest(self) -> str:
        """What the catalog calls the detector of a face: faces with another digest were found another way.

        With the default rules it is the SHA-256 of the network, else that of the network's digest and the rules.
        """
        if not self.rules.text:
            return self.digest
        return hashlib.sha256(f"{self.digest} {self.rules.text}".encode()).hexdigest()


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


# What the layers of a YOLOv5m take on a core with AVX-512. Larger and smaller ones do as many operations for each weight.
_SEARCH_SECONDS_A_BYTE = 0.5 / 84e6


@dataclass(frozen=True)
class TattooDetectorSpec:
    """A YOLOv5 with one class. `input_size` is the side of its square input in pixels, RGB, values 0..1."""

    path: Path
    digest: str
    input_size: int

    @property
    def search_seconds(self) -> float:
        """The seconds of one core that the search of a picture takes, estimated from the size of the network."""
        return self.path.stat().st_size * _SEARCH_SECONDS_A_BYTE


@dataclass(frozen=True)
class TattooEmbedderSpec:
    """A network that maps a crop of 224 x 224 pixels, RGB, channels first, in ImageNet's normalisation, to `dim` numbers."""

    path: Path
    digest: str
    dim: int


@dataclass(frozen=True)
class TattooNetworks:
    """The two networks for tattoos of a pack."""

    detector: TattooDetectorSpec
    embedder: TattooEmbedderSpec

    @property
    def models(self) -> TattooModels:
        """Their digests."""
        # Imported here, because a pack is read by processes that need no database.
        from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels

        return TattooModels(self.detector.digest, self.embedder.digest)


@dataclass(frozen=True)
class ModelPack:
    """One verified pack. `demo` marks a pack that recognises no real people.

    `tattoo` is None for a pack without networks for tattoos, and while tattoos are not collected.
    """

    name: str
    licence: str
    directory: Path
    detector: DetectorSpec
    embedders: Mapping[str, EmbedderSpec]
    flip_averaging: bool
    demo: bool
    tattoo: TattooNetworks | None = None

    def for_tattoos(self, wanted: bool) -> ModelPack:
        """This pack, without the networks for tattoos when they are not `wanted`. ModelPackError when it lacks them."""
        if not wanted:
            return replace(self, tattoo=None)
        if self.tattoo is None:
            raise ModelPackError(
                f"faces.tattoos is true, but the model pack {self.name} has no networks for tattoos here; get them with"
                f" `stash-sense models pull {self.name} --with-tattoos`, or set faces.tattoos to false"
            )
        return self

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

    `name_or_path` is the name of a directory in `models_dir`, the path of any pack directory, or the path of a
    description (a .yaml file) beside its networks. An embedder marked `optional` is left out when its file is missing.
    Raises ModelPackError when the pack or a file is missing, when a file has another SHA-256 or size than described, or
    when the description is invalid.
    """
    description = read_description(_find(name_or_path, models_dir))
    directory = description.path.parent
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
            f"{description.path}: none of the pack's embedders is there; {_how_to_get(name_or_path)}"
        )
    detector_digest = digests["detector"]
    assert detector_digest is not None  # the detector of faces cannot be optional
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
            rules=_rules(detector),
        ),
        embedders=MappingProxyType(embedders),
        flip_averaging=data.get("flip_averaging", True),
        demo=data.get("demo", False),
        tattoo=_tattoo_networks(description, digests),
    )


def _tattoo_networks(
    description: PackDescription, digests: Mapping[str, str | None]
) -> TattooNetworks | None:
    """The networks for tattoos; None when the pack describes none, or neither of them is there."""
    section, directory = description.data.get("tattoo"), description.path.parent
    if section is None:
        return None
    detector, embedder = section["detector"], section["embedder"]
    found, embedded = digests["tattoo.detector"], digests["tattoo.embedder"]
    if found is None and embedded is None:
        return None
    if found is None or embedded is None:
        missing = detector if found is None else embedder
        raise ModelPackError(
            f"{directory / missing['file']}: is missing, but the other network for tattoos is there; get both with"
            f" `stash-sense models pull {description.name} --with-tattoos`, or remove both"
        )
    return TattooNetworks(
        TattooDetectorSpec(directory / detector["file"], found, detector["input_size"]),
        TattooEmbedderSpec(directory / embedder["file"], embedded, embedder["dim"]),
    )


def _rules(detector: Mapping[str, Any]) -> DetectionRules:
    roll = detector.get("roll_correction")
    return DetectionRules(
        second_pass=SecondPass(detector.get("second_pass", SecondPass.HALF_SIZE)),
        padding=float(detector.get("padding", 0)),
        roll=None
        if roll is None
        else RollCorrection(float(roll["from_degrees"]), float(roll["accept_below"]), roll["tries"]),
    )


def read_description(path: Path) -> PackDescription:
    """Reads and checks a pack.yaml, but not the networks. Raises ModelPackError with line and key of each problem."""
    try:
        file = read_yaml(path)
        check_description(file)
        file.raise_problems()
    except ConfigurationError as error:
        raise ModelPackError(str(error)) from error
    data = file.data
    bodies = {"detector": data["detector"]}
    bodies |= {f"embedders.{name}": body for name, body in data["embedders"].items()}
    bodies |= {f"{TATTOO_ROLE}{name}": body for name, body in data.get("tattoo", {}).items()}
    files = tuple(
        PackFile(
            role=role,
            file=body["file"],
            sha256=body.get("sha256"),
            size=body.get("bytes"),
            url=body.get("url"),
            member=body.get("member"),
            optional=body.get("optional", False) or role.startswith(TATTOO_ROLE),
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
    """The path of the pack's description."""
    path = Path(name_or_path).expanduser()
    places = [path] if path.suffix == PACK_SUFFIX else [path / PACK_FILE]
    if PACK_NAME.fullmatch(name_or_path):
        places.insert(0, models_dir / name_or_path / PACK_FILE)
    for place in places:
        if place.is_file():
            return place
    raise ModelPackError(
        f"there is no model pack {name_or_path!r} in {models_dir}; {_how_to_get(name_or_path)}"
    )


def _how_to_get(name_or_path: str) -> str:
    if PACK_NAME.fullmatch(name_or_path):
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
