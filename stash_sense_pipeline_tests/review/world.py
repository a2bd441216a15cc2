"""A data directory with fifty open decisions about invented people, a server of their pictures, and the served page."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.extraction.extract_face import encode_crop
from stash_sense_pipeline.faces.models.model_packs import embedder_digests
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.privacy.enforcement import current_suppressions
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.invented.rendered_person import make_person
from stash_sense_pipeline.sandbox.invented.rendering import encode_jpeg, render_portrait
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.identity.population import NOW, members, store

PROGRAM = Path(sys.executable).with_name("stash-sense")
BOXES = ("stashdb", "fansdb", "pmvstash")
PAIRS, HUBS, COLLISIONS, HUB_FACES, CONFUSABLE, WITHHELD, HELD = 24, 4, 8, 4, 6, 2, 2
DECISIONS = PAIRS + HUBS + COLLISIONS + HUB_FACES + CONFUSABLE + WITHHELD + HELD
# The name of a person in a pair: every page must show it as text.
HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> \u202egnp"
_PERFORMERS = "https://x.com/studio{}"


@dataclass
class Pictures:
    """A server of pictures on loopback that counts the requests for each."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def picture_server() -> Iterator[Pictures]:
    pictures = Pictures()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            pictures.asked.append(path)
            content = pictures.files.get(path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    pictures.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield pictures
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class ReviewWorld:
    """The data directory, its catalog and its pictures. `faces`: the face ids of each record."""

    directory: Path
    engine: sa.Engine
    pictures: Pictures
    faces: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of a command."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("STASH_SENSE_", "DAGSTER_"))
        }
        keys = {f"{name.upper()}_API_KEY": "key" for name in BOXES}
        own = {
            "DATA_DIR": str(self.directory),
            "STASH_SENSE_SOURCES": str(self.directory / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        }
        return {**kept, **keys, **own}

    @property
    def environment(self) -> Environment:
        """The environment as the program reads it."""
        return read_environment(self.variables, self.directory)

    @property
    def overrides(self) -> Path:
        """The file of overrides."""
        return self.environment.overrides_file

    def desk(self, *, pictures: bool = True) -> ReviewDesk:
        """A review in this process."""
        settings = load_settings(self.environment.sources_file)
        return ReviewDesk(self.engine, self.environment, settings, pictures=pictures)

    def command(self, *words: str, code: int = 0) -> str:
        """What a command prints; it must end with `code`."""
        done = subprocess.run(
            [PROGRAM, *words], env=self.variables, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def command_here(self, *words: str, code: int = 0) -> str:
        """Does the same in this process."""
        done = run_here(self.directory, self.variables, *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def served(self, *options: str) -> Iterator[str]:
        """The address of the page, served by the command until the block ends."""
        with self.serving(*options) as (address, _):
            yield address

    @contextmanager
    def serving(self, *options: str) -> Iterator[tuple[str, int]]:
        """The address of the page and the number of the process that serves it."""
        log = self.directory.with_name("review.log")
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [PROGRAM, "review", *options],
                env=self.variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Review: "):
                    break
            assert "".join(lines[-1:]).startswith("Review: "), "".join(lines) + log.read_text()
            yield lines[-1].removeprefix("Review: ").strip(), process.pid
        finally:
            process.send_signal(signal.SIGINT)
            ended = process.wait(timeout=240)
            process.stdout.close()
            assert ended == 0, log.read_text()


@contextmanager
def review_world(directory: Path, catalog_file: Path, pictures: Pictures) -> Iterator[ReviewWorld]:
    """A data directory with DECISIONS open decisions."""
    directory.mkdir()
    catalog = directory / "catalog.db"
    catalog.write_bytes(catalog_file.read_bytes())
    boxes = {name: {"url": f"{pictures.address}/graphql", "rate_limit": 6000} for name in BOXES}
    (directory / "sources.yaml").write_text(yaml.safe_dump({"stash_boxes": boxes}))
    engine = open_catalog(f"sqlite:///{catalog}")
    world = ReviewWorld(directory, engine, pictures)
    try:
        _fill(world)
        yield world
    finally:
        engine.dispose()


def word(number: int) -> str:
    """A word of four letters that no other number gives."""
    first, second = divmod(number, 26)
    return f"q{ascii_lowercase[first]}{ascii_lowercase[second]}o"


def _fill(world: ReviewWorld) -> None:
    engine = world.engine
    records = []
    for number in range(PAIRS):
        name = f"{HOSTILE} {word(number)}" if number == 0 else f"Mira {word(number)}"
        records += [Record("stashdb", f"p{number}", name, country="US"), Record("fansdb", f"p{number}", name)]
    for number in range(HUBS):
        page = _PERFORMERS.format(number)
        records += [
            Record("stashdb", f"h{number}{letter}", f"Hub {word(100 + 3 * number + place)}", urls=(page,))
            for place, letter in enumerate("abc")
        ]
    alone = COLLISIONS + HUB_FACES + 2 * CONFUSABLE
    records += [Record("pmvstash", f"s{number}", f"Sole {word(200 + number)}") for number in range(alone)]
    store(engine, *records)
    rebuild_identities(engine, {name: f"{name}.org" for name in BOXES}, Overrides(), NOW)
    performers = {key: number for number, keys in members(engine).items() for key in keys}
    seeds = {record.key: number for number, record in enumerate(records)}
    shown = [record for record in records if record.source_id[0] in "ps"]
    _add_faces(world, [record.key for record in shown], seeds)
    sole = [performers[f"pmvstash:s{number}"] for number in range(alone)]
    _add_left_out(world, sole)
    release = world.environment.releases_dir / "2026.11.29"
    release.mkdir(parents=True)
    (release.parent / "latest").symlink_to(release.name)
    report = release.with_name("2026.11.29.report")
    report.mkdir()
    pairs = sole[COLLISIONS + HUB_FACES :]
    rows = [[*sorted(pairs[2 * number : 2 * number + 2]), 0.3] for number in range(CONFUSABLE)]
    (report / "confusable.json").write_text(json.dumps(rows))
    _withhold(world)


def _add_faces(world: ReviewWorld, keys: list[tuple[str, str]], seeds: dict[tuple[str, str], int]) -> None:
    """One picture with a face for each record; every second crop is kept."""
    models = embedder_digests(str(DEMO_PACK), world.directory)
    rng = np.random.default_rng(7)
    tables: dict[str, list[dict[str, Any]]] = {}
    for face_id, key in enumerate(keys, 1):
        photo = render_portrait(make_person(seeds[key]), 1)
        data = encode_jpeg(photo.image)
        path = f"/pictures/{face_id}.jpg"
        world.pictures.files[path] = data
        world.faces.setdefault(key, []).append(face_id)
        image = {"source": key[0], "image_id": f"i{face_id}"}
        landmarks = np.asarray(photo.faces[0].landmarks, dtype="<f4")
        rows: dict[str, list[dict[str, Any]]] = {
            "source_images": [
                {
                    **image, "url": f"{world.pictures.address}{path}", "state": "done", "attempts": 0, "refusals": 0,
                    "sha256": hashlib.sha256(data).hexdigest(), "processed_at": NOW,
                }
            ],
            "performer_images": [{**image, "source_id": key[1]}],
            "faces": [
                {
                    **image, "face_id": face_id, "face_index": 0, "detection_confidence": 0.9, "x1": 0, "y1": 0,
                    "x2": 9, "y2": 9, "landmarks": landmarks.tobytes(), "yaw": 0, "roll": 0, "blur": 1,
                    "quality": 0.5, "pack": "p", "detector_digest": "d", "created_at": NOW,
                }
            ],
            "embeddings": [
                {
                    "face_id": face_id, "model": model, "vector": rng.standard_normal(16).astype("<f4").tobytes(),
                    "pack": "p", "model_digest": digest, "created_at": NOW,
                }
                for model, digest in models.items()
            ],
        }  # fmt: skip
        if face_id % 2:
            crop = encode_crop(norm_crop(photo.image, landmarks))
            rows["aligned_crops"] = [{"face_id": face_id, "png": crop}]
        for table, some in rows.items():
            tables.setdefault(table, []).extend(some)
    with writing(world.engine) as connection:
        for name in ("source_images", "performer_images", "faces", "embeddings", "aligned_crops"):
            connection.execute(schema.metadata.tables[name].insert(), tables[name])


def _add_left_out(world: ReviewWorld, sole: list[int]) -> None:
    """Collisions and hub faces of the people with one record."""

    def own(number: int) -> dict[str, Any]:
        (face_id,) = world.faces["pmvstash", f"s{number}"]
        return {
            "face_id": face_id, "performer_id": sole[number], "source": "pmvstash", "source_id": f"s{number}",
            "found_at": NOW,
        }  # fmt: skip

    with writing(world.engine) as connection:
        for number in range(COLLISIONS):
            near = {"nearer_to": sole[(number + 1) % COLLISIONS], "similarity": 0.2, "nearer_similarity": 0.7}
            connection.execute(schema.face_collisions.insert().values(**own(number), **near))
        for number in range(COLLISIONS, COLLISIONS + HUB_FACES):
            connection.execute(schema.face_exclusions.insert().values(**own(number), reason="hub", people=9))


def _withhold(world: ReviewWorld) -> None:
    listed = current_suppressions(world.engine, world.environment, BOXES)
    reasons = ["under_18"] * WITHHELD + ["held"] * HELD
    with writing(world.engine) as connection:
        for number, reason in enumerate(reasons):
            connection.execute(
                schema.withheld_records.insert().values(
                    source="fansdb",
                    id_hash=listed.withheld_hash("fansdb", f"w{number}"),
                    checked_at=NOW,
                    reason=reason,
                    source_id=f"w{number}",
                )
            )
