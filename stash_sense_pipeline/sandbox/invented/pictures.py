"""Pictures: which there are, and their bytes, rendered on first use."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from stash_sense_pipeline.foundation.files import write_atomically

if TYPE_CHECKING:
    from stash_sense_pipeline.sandbox.invented.rendered_person import RenderedPerson
    from stash_sense_pipeline.sandbox.invented.rendering import Photo


class Kind(StrEnum):
    """What a picture shows, or how its file is broken."""

    PORTRAIT = "portrait"
    GROUP = "group"
    SCENERY = "scenery"
    PLAIN = "plain"  # a few flat tiles: for worlds too large to render
    TRUNCATED = "truncated"
    HTML = "html"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"


BROKEN = frozenset({Kind.TRUNCATED, Kind.HTML, Kind.EMPTY, Kind.NOT_AN_IMAGE})


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file. Equal pictures have equal bytes on all servers.

    `people` are the numbers of the people in it from left to right, `feminine` how each of them presents. `size` is
    (width, height) in pixels.
    """

    seed: int
    kind: Kind = Kind.PLAIN
    people: tuple[int, ...] = ()
    feminine: tuple[bool, ...] = ()
    size: tuple[int, int] = (400, 500)

    @property
    def shown(self) -> tuple[int, ...]:
        """The people in the file; empty when it cannot be decoded."""
        return () if self.kind in BROKEN else self.people


_HTML = (
    b"<!DOCTYPE html><html><head><title>Just a moment</title></head><body>Checking your browser</body></html>"
)


class PictureStore:
    """Bytes of pictures, kept in memory and, with a directory, across processes. Thread-safe.

    With `tattoos` the portraits of half of the people show one.
    """

    def __init__(self, directory: Path | None = None, tattoos: bool = False) -> None:
        self._directory = directory
        self._tattoos = tattoos
        self._lock = threading.Lock()
        self._originals: dict[Picture, bytes] = {}
        self._derived: dict[tuple[Picture, str], bytes] = {}

    def original(self, picture: Picture) -> bytes:
        """The bytes of the upload."""
        with self._lock:
            known = self._originals.get(picture)
            if known is None:
                known = self._originals[picture] = self._load(picture)
            return known

    def resized(self, picture: Picture, longest: int) -> bytes:
        """A JPEG (quality 75) with no side over `longest`; the original if it is broken or small enough."""
        original = self.original(picture)
        if picture.kind in BROKEN or max(picture.size) <= longest:
            return original
        with self._lock:
            key = (picture, f"resized {longest}")
            if key not in self._derived:
                self._derived[key] = _resize(original, longest)
            return self._derived[key]

    def face(self, picture: Picture) -> bytes:
        """A square JPEG crop around the face of a portrait; the original of any other picture."""
        original = self.original(picture)
        if picture.kind is not Kind.PORTRAIT:
            return original
        with self._lock:
            key = (picture, "face")
            if key not in self._derived:
                self._derived[key] = _cut_out_face(picture, self._tattoos)
            return self._derived[key]

    def _load(self, picture: Picture) -> bytes:
        if self._directory is None or picture.kind in (Kind.HTML, Kind.EMPTY, Kind.NOT_AN_IMAGE):
            return _render(picture, self._tattoos)
        shown = f"{picture!r} with tattoos" if self._tattoos else repr(picture)
        path = self._directory / f"{hashlib.sha256(shown.encode()).hexdigest()[:32]}.jpg"
        if path.is_file():
            return path.read_bytes()
        data = _render(picture, self._tattoos)
        write_atomically(path, data)
        return data


def sniff(data: bytes) -> str:
    """The content type that Go's net/http finds in the first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.lstrip()[:14].upper() == b"<!DOCTYPE HTML" or data.lstrip()[:5].upper() == b"<HTML":
        return "text/html; charset=utf-8"
    if any(byte < 9 or 14 <= byte < 27 for byte in data[:512]):
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


def _render(picture: Picture, tattoos: bool) -> bytes:
    match picture.kind:
        case Kind.EMPTY:
            return b""
        case Kind.HTML:
            return _HTML
        case Kind.NOT_AN_IMAGE:
            return hashlib.shake_128(str(picture.seed).encode()).digest(4096)
        case Kind.PLAIN:
            return _plain(picture)
        case Kind.TRUNCATED:
            whole = _photo(picture, tattoos)
            return whole[: len(whole) * 55 // 100]
        case _:
            return _photo(picture, tattoos)


def _photo(picture: Picture, tattoos: bool) -> bytes:
    from stash_sense_pipeline.sandbox.invented import rendered_person, rendering

    people = [
        rendered_person.make_person(rendered_person.DEMO_SEEDS[number], feminine)
        for number, feminine in zip(picture.people, picture.feminine, strict=True)
    ]
    if not people:
        photo = rendering.render_scenery(picture.seed, picture.size)
    elif len(people) == 1:
        photo = _portrait(people[0], picture, tattoos)
    else:
        photo = rendering.render_group(people, picture.seed, picture.size)
    return rendering.encode_jpeg(photo.image)


def _portrait(person: RenderedPerson, picture: Picture, tattoos: bool) -> Photo:
    from stash_sense_pipeline.sandbox.invented.marks import make_mark
    from stash_sense_pipeline.sandbox.invented.rendering import render_portrait

    mark = make_mark(person.seed) if tattoos else None
    return render_portrait(person, picture.seed, picture.size, mark=mark)


def _plain(picture: Picture) -> bytes:
    import numpy as np

    from stash_sense_pipeline.sandbox.invented.rendering import encode_jpeg

    width, height = picture.size
    # A block of random tiles: different seeds give different bytes, and encoding is cheap.
    colours = np.random.default_rng(picture.seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(colours, (height + 1) // 2, 0), (width + 1) // 2, 1)[:height, :width]
    return encode_jpeg(np.ascontiguousarray(image))


def _resize(data: bytes, longest: int) -> bytes:
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return data
    scale = longest / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    _, encoded = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 75]
    )
    return encoded.tobytes()


def _cut_out_face(picture: Picture, tattoos: bool) -> bytes:
    from stash_sense_pipeline.sandbox.invented import rendered_person, rendering

    person = rendered_person.make_person(rendered_person.DEMO_SEEDS[picture.people[0]], picture.feminine[0])
    photo = _portrait(person, picture, tattoos)
    x1, y1, x2, y2 = photo.faces[0].box
    side = 1.6 * max(x2 - x1, y2 - y1)
    left, top = max(0, round((x1 + x2 - side) / 2)), max(0, round((y1 + y2 - side) / 2))
    cut = photo.image[top : top + round(side), left : left + round(side)]
    return rendering.encode_jpeg(cut.copy())
