"""A catalog of invented people that changes at random: merges, splits, suppressions, other pictures, other networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.sense2.ledger import read_ledger
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy.erasure import ErasureScope, erase_alone, erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.spec import Sense2Spec
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.release.worlds import PACK

KEY = b"k" * 32
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = date(2026, 3, 4)
# `own` is a private stash-box, and `site` a reference site.
BOXES = {"stashdb": "stashdb.org", "fansdb": "fansdb.cc", "own": "own.example"}
SOURCES = (*BOXES, "site")
MODEL = "arcface"
_KEPT = {
    "suppressions",
    "suppressed_faces",
    "pending_purges",
    "sense2_performers",
    "sense2_faces",
    "sense2_releases",
}

ImageKey = tuple[str, str]


@dataclass
class Record:
    """A record: its person, what it shows, and the record that it was merged into."""

    person: int
    name: str
    aliases: tuple[str, ...] = ()
    country: str | None = None
    merged_into: str | None = None
    edits: int = 0


@dataclass
class Picture:
    """An image with one face: the record that shows it, and what was measured."""

    record: RecordKey
    quality: float
    yaw: float
    vector: np.ndarray
    trusted: bool = True


@dataclass
class Away:
    """A record that was erased and may come back, with the pictures that it had."""

    key: RecordKey
    record: Record
    pictures: dict[ImageKey, Picture]


@dataclass
class World:
    """The truth, and the catalog that it is written to. `digest` is that of the network.

    `blanked`: the ids of records and images that lost their number by an erasure. What comes back, or is shown under another
    record, has another number.
    """

    engine: sa.Engine
    data: Path
    rng: random.Random
    records: dict[RecordKey, Record] = field(default_factory=dict)
    pictures: dict[ImageKey, Picture] = field(default_factory=dict)
    digest: str = "a" * 64
    made: int = 0
    suppressed: list[str] = field(default_factory=list)
    away: list[Away] = field(default_factory=list)
    blanked: set[str] = field(default_factory=set)

    @property
    def spec(self) -> Sense2Spec:
        """The spec with the network and the suppressions of now."""
        embedders = {MODEL: replace(PACK.embedders[MODEL], digest=self.digest)}
        listed = load_suppressions(self.engine, KEY)
        return Sense2Spec(BOXES, replace(PACK, embedders=embedders), MODEL, listed, shrink=1.0)

    # --- what happens -------------------------------------------------------------------------------------------------

    def person(self) -> None:
        """A new person with one to three records."""
        self.made += 1
        number = self.made
        for source in self.rng.sample(SOURCES, self.rng.randint(1, 3)):
            record = (source, f"{source[:2]}{number:05d}x{self.rng.getrandbits(40):010x}")
            self.records[record] = Record(number, f"Person{number} of {source}", (f"Alias{number} {source}",))
            for _ in range(self.rng.randint(0, 2)):
                self.picture(record)

    def picture(self, record: RecordKey | None = None) -> None:
        """A new picture of a record."""
        record = record or self._any(self.records)
        if record is not None:
            self.made += 1
            image = (record[0], f"im{self.made:06d}x{self.rng.getrandbits(40):010x}")
            self.pictures[image] = Picture(record, 0.5, float(self.made % 50), self._vector())

    def rename(self) -> None:
        """A record has another name, another alias, or none."""
        if record := self._any(self.records):
            known = self.records[record]
            known.edits += 1
            known.name = f"Renamed{known.person} {known.edits} &amp; {record[0]}"
            known.aliases = tuple(
                f"Ánother{known.person} 名 {number}" for number in range(self.rng.randint(0, 3))
            )
            known.country = self.rng.choice([None, "NZ", "FR"])

    def touch(self) -> None:
        """A record has another time of change, and nothing else."""
        if record := self._any(self.records):
            self.records[record].edits += 1

    def split(self) -> None:
        """A record becomes a person of its own."""
        if record := self._any(self.records):
            self.made += 1
            self.records[record].person = self.made

    def join(self) -> None:
        """Two people become one, here and not at a source."""
        first, second = self._any(self.records), self._any(self.records)
        if first and second:
            people = self.records[first].person, self.records[second].person
            for record in self.records.values():
                if record.person == people[1]:
                    record.person = people[0]

    def merge(self) -> None:
        """A source merges one record into another. The pictures move along, or are still known under the old record."""
        live = [key for key, record in self.records.items() if record.merged_into is None]
        loser = self._any(live)
        survivor = self._any([key for key in live if loser and key[0] == loser[0] and key != loser])
        if loser and survivor:
            self.records[loser].merged_into = survivor[1]
            self.records[loser].person = self.records[survivor].person
            if self.rng.random() < 0.5:
                for picture in self.pictures.values():
                    if picture.record == loser:
                        picture.record = survivor

    def trust(self) -> None:
        """A face is chosen, or is not any more."""
        if image := self._any(self.pictures):
            self.pictures[image].trusted ^= True

    def measure(self) -> None:
        """A face has another vector, quality or yaw."""
        if image := self._any(self.pictures):
            self.pictures[image].vector = self._vector()
            self.pictures[image].yaw += self.rng.choice([0.0, 1.5])

    def give(self) -> None:
        """A picture turns out to be of another record of its source."""
        image = self._any(self.pictures)
        record = self._any([key for key in self.records if image and key[0] == image[0]])
        if image and record:
            self.pictures[image].record = record

    def delete(self) -> None:
        """A source deletes a record with its pictures."""
        if record := self._any(self.records):
            del self.records[record]
            self._drop_orphans()

    def embed_anew(self) -> None:
        """Another network makes all vectors."""
        self.digest = f"{self.rng.getrandbits(256):064x}"
        for picture in self.pictures.values():
            picture.vector = self._vector()

    def suppress(self) -> None:
        """A person leaves: everything of them is erased from the catalog."""
        record = self._any([key for key in self.records if key[0] in BOXES])
        if record is None:
            return
        self.write()
        entry = SuppressionEntry(f"{record[0]}:{record[1]}", "asked", DAY, unseen=True)
        with writing(self.engine) as connection:
            add_suppressions(connection, KEY, [entry])
        with self._noting_blanked():
            erase_suppressed(self.engine, load_suppressions(self.engine, KEY), NOW, ErasureScope())
        with self.engine.connect() as connection:
            table = schema.source_performers.c
            left = set(connection.execute(sa.select(table.source, table.source_id)).tuples())
            images = set(
                connection.execute(
                    sa.select(schema.source_images.c.source, schema.source_images.c.image_id)
                ).tuples()
            )
        gone = [key for key in self.records if key not in left]
        self.suppressed += [each for key in gone for each in (key[1], self.records[key].name)]
        assert record in gone
        self.records = {key: value for key, value in self.records.items() if key in left}
        self.pictures = {key: value for key, value in self.pictures.items() if key in images}
        self._drop_orphans()

    def hold(self) -> None:
        """A record is erased with its pictures, and is not on the list."""
        key = self._any(self.records)
        if key is None:
            return
        self.write()
        with self._noting_blanked(), writing(self.engine) as connection:
            erase_alone(connection, [key], NOW)
        pictures = {image: each for image, each in self.pictures.items() if each.record == key}
        self.away.append(Away(key, self.records.pop(key), pictures))
        self._drop_orphans()

    def come_back(self) -> None:
        """A record that was erased is read again. When all are there, one is erased first."""
        if not self.away:
            self.hold()
        if not self.away:
            return
        back = self.away.pop(self.rng.randrange(len(self.away)))
        if (back.key[0], back.record.merged_into) not in self.records:
            back.record.merged_into = None
        self.records[back.key] = back.record
        self.pictures.update(back.pictures)

    @contextmanager
    def _noting_blanked(self) -> Iterator[None]:
        before = self._numbered()
        yield
        self.blanked |= before - self._numbered()

    def _numbered(self) -> set[str]:
        with reading(self.engine) as connection:
            ledger = read_ledger(connection)
        return {key[1] for key in (*ledger.numbers, *ledger.indices)}

    # --- the catalog --------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Writes the truth to the catalog, in the place of what it holds; faces have new ids, as after a reset."""
        with writing(self.engine) as connection:
            for table in reversed(schema.metadata.sorted_tables):
                if table.name not in _KEPT:
                    connection.execute(sa.delete(table))
        rows: Rows = {}
        for person in sorted({record.person for record in self.records.values()}):
            add_rows(rows, {"identities": [{"performer_id": person, "created_at": NOW}]})
        for (source, source_id), record in self.records.items():
            at = NOW + timedelta(seconds=record.edits)
            gone = {"deleted_at": NOW if record.merged_into else None, "merged_into": record.merged_into}
            shown = {"name": record.name, "country": record.country, **gone}
            add_rows(rows, record_rows(source, source_id, record.person, NOW, **{**shown, "updated_at": at}))
            key = {"source": source, "source_id": source_id}
            aliases = [{**key, "alias": alias} for alias in record.aliases]
            add_rows(rows, {"performer_aliases": aliases})
        insert_rows(self.engine, {name: batch for name, batch in rows.items() if batch})
        self._write_pictures()

    def _write_pictures(self) -> None:
        boxed = {
            record.person
            for key, record in self.records.items()
            if key[0] in BOXES and record.merged_into is None
        }
        rows: Rows = {}
        pack = replace(self.spec.pack, detector=PACK.detector)
        order = list(self.pictures.items())
        self.rng.shuffle(order)
        for place, ((source, image), picture) in enumerate(order):
            person = self.records[picture.record].person
            face = TrustedFace(
                face_id=place + 1 + self.made * 1000,
                performer_id=person,
                source=source,
                source_id=picture.record[1],
                rank=int(image[2:8]),
                image_id=image,
                url=f"https://pictures.example/{source}/{image}",
                vectors={MODEL: picture.vector.astype("<f4").tobytes()},
                yaw=picture.yaw,
            )
            made = face.rows(pack, NOW)
            if not picture.trusted or person not in boxed:
                del made["trusted_faces"]
            add_rows(rows, made)
        insert_rows(self.engine, rows)

    def _vector(self) -> np.ndarray:
        numbers = np.random.default_rng(self.rng.getrandbits(32))
        return (numbers.standard_normal(512) * 7).astype(np.float32)

    def _any(self, choices):
        """One of them at random, or None."""
        listed = sorted(choices)
        return self.rng.choice(listed) if listed else None

    def _drop_orphans(self) -> None:
        self.pictures = {key: value for key, value in self.pictures.items() if value.record in self.records}
        for key, record in self.records.items():
            if record.merged_into and (key[0], record.merged_into) not in self.records:
                record.merged_into = None

    @property
    def has_faces(self) -> bool:
        """True when the catalog, as written now, has a trusted face."""
        with self.engine.connect() as connection:
            return (
                connection.execute(sa.select(sa.func.count()).select_from(schema.trusted_faces)).scalar_one()
                > 0
            )


EVENTS: dict[str, Callable[[World], None]] = {
    name: getattr(World, name)
    for name in (
        *(
            "person",
            "picture",
            "rename",
            "touch",
            "split",
            "join",
            "merge",
            "trust",
            "measure",
            "give",
            "delete",
        ),
        *("suppress", "hold", "come_back", "embed_anew"),
    )
}
