"""The memory of a living review after its cards were answered: no byte of a picture that was fetched or shown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import aligned_crops
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline_tests.review.world import ReviewWorld

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc/PID/mem on this system"),
]

CARDS = 4
_BLOCK = 2**20
# A part of a picture that is looked for. It is shorter than what an allocator overwrites at the ends of a block.
_PART = 48
_PARTS = 4


def readable(pid: int) -> Iterator[tuple[int, int]]:
    """The readable mappings of a process, as start and end, but those of files that the process cannot change."""
    for line in _read(pid, "maps").decode().splitlines():
        span, rights, _, _, inode, *_ = line.split(maxsplit=5)
        special = line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]"))
        if rights[0] == "r" and (rights[1] == "w" or inode == "0") and not special:
            first, last = (int(end, 16) for end in span.split("-"))
            yield first, last


def memory(pid: int) -> Iterator[bytes]:
    """The memory of a process in blocks that overlap by the length of a part; none when it has ended."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(f"/proc/{pid}/mem").open("rb", buffering=0))
        except (FileNotFoundError, ProcessLookupError):
            return
        for first, last in readable(pid):
            at = first
            while at < last:
                size = min(_BLOCK, last - at)
                try:
                    stream.seek(at)
                    block = stream.read(size)
                except OSError:
                    # The mapping has gone meanwhile, or lies behind the end of its file.
                    break
                # Most pages of the stacks of threads were never written.
                if block.strip(b"\0"):
                    yield block
                at += size if at + size == last else size - _PART


def parts(content: bytes) -> list[bytes]:
    """Parts of a content that no other content has: some stretches with many different bytes."""
    found: list[bytes] = []
    step = max(_PART, len(content) // (3 * _PARTS))
    for at in range(step, len(content) - _PART, step):
        part = content[at : at + _PART]
        if len(set(part)) > _PART // 2:
            found.append(part)
    return found[:: max(1, len(found) // _PARTS)]


@dataclass
class Seen:
    """What the browser received, what the source sent, and how many faces each card showed."""

    crops: list[bytes]
    originals: list[bytes]

    def traces(self) -> dict[bytes, str]:
        """By part of a picture, what it is a part of."""
        found: dict[bytes, str] = {}
        for number, crop in enumerate(self.crops):
            found |= dict.fromkeys(parts(crop), f"crop {number} as sent")
            bgr = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_COLOR)
            for name, pixels in (("BGR", bgr), ("RGB", bgr[:, :, ::-1])):
                # The middle of some rows: aligned faces are there.
                rows = [np.ascontiguousarray(pixels[row]).tobytes()[144:192] for row in range(35, 90, 15)]
                kept = [row for row in rows if len(set(row)) > 12]
                found |= dict.fromkeys(kept, f"pixels of crop {number} as {name}")
        for number, original in enumerate(self.originals):
            found |= dict.fromkeys(parts(original), f"picture {number} as fetched")
        return found


def traces_in(pid: int, wanted: dict[bytes, str]) -> set[str]:
    """What of `wanted` is in the memory of a process."""
    return {name for block in memory(pid) for part, name in wanted.items() if part in block}


def children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have. A process that has ended has none."""
    found: set[int] = set()
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (thread / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        # The process or its thread has ended between two reads.
        pass
    return [each for child in sorted(found) for each in (child, *children(child))]


def answer_cards(world: ReviewWorld, client: httpx.Client, pid: int) -> tuple[Seen, set[str], int]:
    """Shows the faces of some cards and answers each card. Returns what the processes of the crops held meanwhile."""
    seen, meanwhile, most = Seen([], []), set(), 0
    for number in range(CARDS):
        page = client.get("?kind=pair").text
        token = re.search(r'name="token" value="([^"]+)"', page)[1]  # type: ignore[index]
        decision = re.search(r'name="id" value="([^"]+)"', page)[1]  # type: ignore[index]
        faces = re.findall(r"/crops/(\d+)", page)
        assert faces
        for face in faces:
            answer = client.get(f"crops/{face}")
            assert answer.headers["content-type"] == "image/png", answer.text
            seen.crops.append(answer.content)
            original = world.pictures.files.get(f"/pictures/{face}.jpg")
            if f"/pictures/{face}.jpg" in world.pictures.asked and original is not None:
                seen.originals.append(original)
        most = max(most, len(children(pid)))
        if number == CARDS - 1:
            for child in children(pid):
                meanwhile |= traces_in(child, seen.traces())
        form = {"token": token, "id": decision, "answer": "later", "kind": "pair", "source": ""}
        origin = str(client.base_url).split("/" + token)[0]
        assert client.post("settle", data=form, headers={"Origin": origin}).status_code == 303
    return seen, meanwhile, most


def wait_until(done: object, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def files_with(directory: Path, wanted: dict[bytes, str]) -> set[str]:
    return {
        f"{path.name}: {name}"
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
        for content in [path.read_bytes()]
        for part, name in wanted.items()
        if part in content
    }


def test_no_byte_of_a_picture_is_in_memory_or_a_file_after_the_cards_were_answered(
    world: ReviewWorld,
) -> None:
    world.pictures.asked.clear()
    with reading(world.engine) as connection:
        kept = set(connection.execute(sa.select(aligned_crops.c.png)).scalars())
    with world.serving() as (address, pid), httpx.Client(base_url=address, timeout=240) as client:
        seen, meanwhile, most = answer_cards(world, client, pid)
        fetched = [crop for crop in seen.crops if crop not in kept]
        assert len(fetched) >= CARDS - 1
        assert len(seen.originals) == len(fetched)
        # A control of the search: the processes of the open card held its crop and its picture.
        assert any(name.endswith("as sent") for name in meanwhile)
        assert any(name.endswith("as fetched") for name in meanwhile)
        assert most >= 2
        # Of the processes that made crops none is left; the template has none.
        wait_until(lambda: len(children(pid)) == 1)
        wanted = seen.traces()
        assert len(wanted) > 8 * len(seen.crops)
        for each in (pid, *children(pid)):
            assert traces_in(each, wanted) == set(), _command(each)
        # Kept crops are in the catalog. Those that were fetched are in no file.
        of_fetched = Seen(fetched, seen.originals).traces()
        assert files_with(world.directory, of_fetched) == set()
    assert files_with(world.directory, of_fetched) == set()


def _command(pid: int) -> bytes:
    """The command line of a process; empty when the process has ended."""
    return _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    """What the system tells about a process; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
