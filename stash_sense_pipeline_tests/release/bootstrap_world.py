"""Two stash-boxes with rendered people on a loopback image server, and homes: catalogs that read them and publish."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sqlalchemy as sa
import voyager

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimedRelease, release_of
from stash_sense_pipeline.catalog.queries.identity.trusted_faces import CandidateRow, read_candidates
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.models.detector import DetectedFace, Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.identity.face_matching.trusted_faces import TrustReport, choose_trusted_faces
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.privacy.suppression.suppressed_faces import BlockedPerson, keep_templates
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.bootstrap.claim import opened_release_files
from stash_sense_pipeline.release.bootstrap.import_release import ImportReport, ImportRules, import_release
from stash_sense_pipeline.release.bootstrap.proof import ProofReport, ProofRules, prove
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.contract import zip_name
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import Limits, ReleaseSpec
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.invented.rendered_person import make_person
from stash_sense_pipeline.sandbox.invented.rendering import encode_jpeg, render_portrait
from stash_sense_pipeline.settings.schema import GlobalSettings, Settings, StashBoxSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline_tests.catalog_copies import new_catalog
from stash_sense_pipeline_tests.faces.world import HURRIED, ImageServer

from .damages import reseal

NOW = datetime(2026, 2, 18, 3, tzinfo=UTC)
KEY = b"k" * 32
# Short delays, and time enough for an answer on a slow machine.
RETRIES = replace(HURRIED, connect=120.0, read=120.0)
HOSTS = {"stashdb": "stashdb.org", "fansdb": "fansdb.cc"}
# The people of each stash-box by number, and how many pictures each of them has there.
PEOPLE = {"stashdb": (range(26), 4), "fansdb": (range(26, 34), 3)}


def uid(number: int) -> str:
    """An id in the format of stash-box."""
    return f"00000000-0000-4000-8000-{number:012d}"


def picture_id(person: int, photo: int) -> str:
    return f"p{person}-{photo}"


def serve_people(server: ImageServer) -> None:
    """Renders all pictures."""
    for people, photos in PEOPLE.values():
        for person in people:
            for photo in range(photos):
                image = render_portrait(make_person(1000 + person), photo, (400, 500)).image
                server.bodies[picture_id(person, photo)] = encode_jpeg(image)


def records_of(server: ImageServer, source: str) -> list[PerformerRecord]:
    """What the stash-box says about its people."""
    people, photos = PEOPLE[source]
    return [
        PerformerRecord(
            uid(person),
            f"Invented {person}",
            gender="FEMALE",
            birth_date="1990-01-01",
            images=tuple(
                ImageRecord(picture_id(person, photo), server.url(picture_id(person, photo)))
                for photo in range(photos)
            ),
        )
        for person in people
    ]


@dataclass
class Home:
    """The catalog and the releases of one operator."""

    directory: Path
    server: ImageServer
    pack: ModelPack
    now: datetime = NOW
    global_: GlobalSettings = field(
        default_factory=lambda: GlobalSettings(completeness_threshold=12, claimed_faces_a_night=0)
    )
    gone: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    url: str = ""
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "catalog.db"
        self.engine = (
            open_catalog(self.url or f"sqlite:///{file}") if self.url or file.exists() else new_catalog(file)
        )

    @property
    def settings(self) -> Settings:
        boxes = {
            name: StashBoxSettings(
                name=name, url=f"{self.server.base}/graphql", host=host, rate_limit=600_000.0, max_faces=9
            )
            for name, host in HOSTS.items()
        }
        return Settings(global_=self.global_, stash_boxes=boxes, reference_sites={})

    def rows(self, table: sa.Table) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key)))

    def count(self, table: sa.Table) -> int:
        return len(self.rows(table))

    def sync(self, unlisted: Collection[str] = ()) -> None:
        """Stores what the stash-boxes list, as a refresh does. `unlisted`: records that they do not list yet."""
        left_out = self.gone.union(unlisted)
        for source in HOSTS:
            records = [each for each in records_of(self.server, source) if each.source_id not in left_out]
            with writing(self.engine) as connection:
                performers.store_records(connection, source, records, self.now)
                performers.tombstone_records(connection, source, dict.fromkeys(self.gone), self.now)

    def collect(self, **kwargs: Any) -> dict[str, CollectReport]:
        return {source: asyncio.run(self.collect_one(source, **kwargs)) for source in HOSTS}

    async def collect_one(self, source: str, **kwargs: Any) -> CollectReport:
        """Collects the faces of one source."""
        suppressions = load_suppressions(self.engine, KEY)
        async with self.client(source) as (client, request):
            return await collect_faces(
                self.engine,
                self.settings.source(source),
                self.pack,
                client,
                request,
                self.global_,
                suppressions,
                limits=CollectLimits(batch_seconds=0.1),
                now=lambda: self.now,
                **kwargs,
            )

    @asynccontextmanager
    async def client(self, source: str) -> AsyncIterator[tuple[PoliteClient, Any]]:
        if source in self.closed:
            raise ConfigurationError(f"{source}: no key; set {source.upper()}_API_KEY")
        base = f"{self.server.base}/graphql"
        async with PoliteClient(source, base, rate=600_000.0, retry_policy=RETRIES) as client:
            yield client, lambda url: (url, {})

    def candidates(self) -> list[CandidateRow]:
        """The faces that may be trusted."""
        rebuild_identities(self.engine, HOSTS, Overrides(), self.now, models=self.pack.digests)
        with reading(self.engine) as connection:
            return read_candidates(connection)

    def identify(self) -> TrustReport:
        """Embeds, computes identities, and chooses trusted faces."""
        for source in HOSTS:
            embed_waiting(self.engine, source, self.pack)
        rebuild_identities(self.engine, HOSTS, Overrides(), self.now, models=self.pack.digests)
        return choose_trusted_faces(
            self.engine,
            max_faces_per_performer=20,
            source_caps=dict.fromkeys(HOSTS, 9),
            trust=dict.fromkeys(HOSTS, "high"),
            models=self.pack.digests,
        )

    def publish(self) -> Path:
        """The release of the catalog."""
        spec = ReleaseSpec(
            hosts=HOSTS,
            pack=self.pack,
            index=IndexParams(m=16, ef_construction=100),
            limits=Limits(shrink=1.0, recall_at_100_blocks=False),
        )
        return publish_release(self.engine, self.directory, "run", spec, date(2026, 2, 18)).path

    def build(self) -> Path:
        """What a build does."""
        self.sync()
        self.collect()
        self.identify()
        return self.publish()

    def take_over(self, release: Path, progress: Any = None) -> ImportReport:
        suppressions = load_suppressions(self.engine, KEY)
        with opened_release_files(release, self.warnings.append) as directory:
            return import_release(
                self.engine,
                directory,
                ImportRules(self.settings, self.pack, suppressions, self.now),
                progress,
            )

    def prove(self, release: ClaimedRelease, size: int = 200, **changes: Any) -> ProofReport:
        rules = ProofRules(
            pack=self.pack,
            open_source=self.client,
            forbids=load_suppressions(self.engine, KEY).forbids_picture,
            now=lambda: self.now,
            size=size,
            seed=1,
        )
        return asyncio.run(prove(self.engine, release, rules, **changes))

    def bootstrap(self, release: Path, size: int = 200) -> ProofReport:
        return self.prove(self.take_over(release).release, size)


def demo_pack() -> ModelPack:
    return load_pack(str(DEMO_PACK), Path("nowhere"))


# --- releases of other programs --------------------------------------------------------------------------------------

Change = Callable[[Path], None]
Crop = Callable[[np.ndarray, DetectedFace], np.ndarray]


def changed(release: Path, target: Path, *changes: Change) -> Path:
    """A copy of a release with changes, and with the right checksums."""
    shutil.copytree(release, target)
    for change in changes:
        change(target)
    reseal(target)
    return target


def of_manifest(**values: Any) -> Change:
    """Replaces keys of `models` in the manifest; None removes a key."""

    def change(release: Path) -> None:
        path = release / "manifest.json"
        manifest = json.loads(path.read_text())
        models = {**manifest["models"], **values}
        manifest["models"] = {name: value for name, value in models.items() if value is not None}
        path.write_text(json.dumps(manifest))

    return change


def as_the_sidecars_exporter(release: Path) -> None:
    """Rewrites the manifest, the JSON files and the database in the form of the sidecar's own exporter."""
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    own = {"format", "input_digest", "indices", "reproducible"}
    manifest = {name: value for name, value in reversed(manifest.items()) if name not in own}
    manifest["models"] = {
        "flip_averaging": True,
        "alignment": "insightface_norm_crop_5point",
        "detector": "retinaface_buffalo_sc",
        "facenet_dim": 512,
        "arcface_dim": 512,
    }
    path.write_text(json.dumps(manifest))
    people = json.loads((release / "performers.json").read_text())
    (release / "performers.json").write_text(json.dumps(dict(reversed(people.items())), indent=1))
    with closing(sqlite3.connect(release / "performers.db")) as connection:
        connection.execute("UPDATE faces SET quality_score = 1.0, yaw = NULL")
        connection.execute("CREATE TABLE scrape_progress (source TEXT PRIMARY KEY)")
        connection.commit()


def list_three_checksums(release: Path) -> None:
    """The manifest has checksums of the database and the indices only, as the predecessor's had."""
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    listed = ("performers.db", "face_facenet.voy", "face_arcface.voy")
    manifest["checksums"] = {name: manifest["checksums"][name] for name in listed}
    path.write_text(json.dumps(manifest))


def of_vectors(
    model: str,
    change: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors,
    storage: str = "Float32",
) -> Change:
    """Replaces the vectors of an index, or their storage."""

    def rewrite(release: Path) -> None:
        path = release / f"face_{model}.voy"
        old = voyager.Index.load(str(path))
        numbers = list(range(len(old)))
        vectors = np.ascontiguousarray(change(old.get_vectors(numbers)), dtype=np.float32)
        kind = getattr(voyager.StorageDataType, storage)
        new = voyager.Index(voyager.Space.Cosine, vectors.shape[1], M=16, storage_data_type=kind)
        new.add_items(vectors, ids=numbers, num_threads=1)
        new.save(str(path))

    return rewrite


def digests(release: Path) -> dict[str, str]:
    """SHA-256 of every file of a release, and of its zip."""
    files = {path.name: sha256_file(path) for path in release.iterdir()}
    return {**files, "zip": sha256_file(release.parent / zip_name(release.name))}


def vectors_in_use(home: Home) -> set[bytes]:
    """All vectors that a release could hold."""
    return {row.vector for row in home.rows(schema.embeddings)}


def released(home: Home, manifest_digest: str) -> ClaimedRelease:
    with reading(home.engine) as connection:
        found = release_of(connection, manifest_digest)
    assert found is not None
    return found


def rename_everybody(release: Path) -> None:
    with closing(sqlite3.connect(release / "performers.db")) as connection:
        connection.execute("UPDATE performers SET canonical_name = 'Other Person'")
        connection.execute("DELETE FROM aliases")
        connection.commit()


# --- vectors that are computed otherwise -----------------------------------------------------------------------------


def stretched(rgb: np.ndarray, face: DetectedFace) -> np.ndarray:
    """The box of the face as a crop, without alignment."""
    x1, y1, x2, y2 = (int(max(value, 0)) for value in face.box)
    return cv2.resize(rgb[y1:y2, x1:x2], (112, 112))


def swapped(rgb: np.ndarray, face: DetectedFace) -> np.ndarray:
    """The aligned crop with red and blue swapped."""
    return np.ascontiguousarray(norm_crop(rgb, face.landmarks)[:, :, ::-1])


MADE_OTHERWISE = {"without alignment": stretched, "with red and blue swapped": swapped}


def made_by(server: ImageServer, pack: ModelPack, detector: Detector, crop_of: Crop) -> Change:
    """Computes all vectors anew from the pictures, with this crop of the face."""

    def rewrite(release: Path) -> None:
        with closing(sqlite3.connect(release / "performers.db")) as connection:
            urls = connection.execute("SELECT image_url FROM faces ORDER BY facenet_index").fetchall()
        pictures = [server.bodies[url.rsplit("/", 1)[1]] for (url,) in urls]
        crops = np.stack([crop_of(_decoded(each), _first_face(each, detector)) for each in pictures])
        for model, spec in pack.embedders.items():
            with Embedder(model, spec) as embedder:
                vectors = embedder.embed(crops, pack.flip_averaging)
            of_vectors(model, lambda _, vectors=vectors: vectors)(release)

    return rewrite


def _decoded(picture: bytes) -> np.ndarray:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


@cache
def _first_face(picture: bytes, detector: Detector) -> DetectedFace:
    return detector.detect(_decoded(picture))[0]


def picture_beside_the_first(release: Path, person: int) -> str:
    """The address of a picture of a person that is not the one that the release shows."""
    shown = {entry["image_url"] for entry in json.loads((release / "performers.json").read_text()).values()}
    with closing(sqlite3.connect(release / "performers.db")) as connection:
        urls = [url for (url,) in connection.execute("SELECT image_url FROM faces") if f"/p{person}-" in url]
    return next(url for url in urls if url not in shown)


# --- people who leave ------------------------------------------------------------------------------------------------


def suppress(home: Home, record: RecordKey, url: str) -> None:
    """Puts a record and the address of a picture on the suppression list, as the operator does."""
    day = home.now.date()
    entries = [
        SuppressionEntry(":".join(record), "asked", day, unseen=True),
        SuppressionEntry(url, "asked", day, unseen=True, picture_only=True),
    ]
    with writing(home.engine) as connection:
        add_suppressions(connection, KEY, entries)


def block_face(home: Home, other: Home, record: RecordKey) -> int:
    """Refuses in `home` the face that a record has in another catalog. Returns the number of people."""
    with writing(other.engine) as connection:
        kept = keep_templates(connection, KEY, [BlockedPerson([record])], home.now)
        rows = [dict(row._mapping) for row in connection.execute(sa.select(schema.suppressed_faces))]
        connection.execute(sa.delete(schema.suppressed_faces))
    with writing(home.engine) as connection:
        connection.execute(sa.insert(schema.suppressed_faces), rows)
    return kept
