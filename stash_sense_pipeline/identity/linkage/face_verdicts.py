"""The operator's verdicts on faces, `not_this_person` and `not_a_face`: reading, checks, and what they leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import face_verdicts as store
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey

NOT_THIS_PERSON, NOT_A_FACE = "not_this_person", "not_a_face"
SECTIONS = (NOT_THIS_PERSON, NOT_A_FACE)
_FORMS = {NOT_THIS_PERSON: "pairs [source:image, source:id]", NOT_A_FACE: "source:image"}


@dataclass(frozen=True)
class FaceVerdict:
    """One verdict as written in the file: no face of `image` is of the person with `record`, or of any person (None)."""

    image: ImageKey
    record: RecordKey | None
    line: int

    @property
    def section(self) -> str:
        """The section of the file that holds the verdict."""
        return NOT_A_FACE if self.record is None else NOT_THIS_PERSON

    def __str__(self) -> str:
        """The verdict in one line."""
        image = ":".join(self.image)
        return f"{self.section} {image}" + ("" if self.record is None else f", {':'.join(self.record)}")


@dataclass(frozen=True)
class FaceVerdicts:
    """What the verdicts leave out, for the present catalog.

    `no_faces`: images without any person's face. `other_people`: for each image, the live records of people that it
    does not show. `silent`: the images that are no evidence, because the verdict is on a record that lists them.
    `problems`: verdicts without effect, one line each.
    """

    no_faces: frozenset[ImageKey] = frozenset()
    other_people: Mapping[ImageKey, frozenset[RecordKey]] = field(default_factory=dict)
    silent: frozenset[ImageKey] = frozenset()
    problems: tuple[str, ...] = ()

    def disowned(self, reads: ShortReads) -> set[tuple[ImageKey, int]]:
        """(image, performer_id): a person that the image does not show, by a verdict on any record of the person."""
        records = {record for some in self.other_people.values() for record in some}
        performers = reads(store.read_performers_of, records)
        return {
            (image, performers[record])
            for image, some in self.other_people.items()
            for record in some
            if record in performers
        }


NO_VERDICTS = FaceVerdicts()


def read_verdicts(file: YamlFile) -> tuple[FaceVerdict, ...]:
    """The verdicts of both sections, in the order of the file.

    Notes problems in `file`: another form, the same verdict twice, and both verdicts on one image.
    """
    found: list[FaceVerdict] = []
    for section in SECTIONS:
        items = file.data.get(section)
        if items is None:
            continue
        if not isinstance(items, list):
            file.complain((section,), f"must be a list of {_FORMS[section]}")
            continue
        for index, item in enumerate(items):
            verdict = _verdict(file, (section, index), item)
            if verdict is not None:
                _check_against(file, (section, index), verdict, found)
                found.append(verdict)
    return tuple(found)


def _verdict(file: YamlFile, path: KeyPath, item: Any) -> FaceVerdict | None:
    if path[0] == NOT_A_FACE:
        image = read_key(file, path, item, "source:image")
        return None if image is None else FaceVerdict(image, None, file.line(path))
    if not isinstance(item, list) or len(item) != 2:
        file.complain(path, "must be a pair [source:image, source:id]")
        return None
    image = read_key(file, (*path, 0), item[0], "source:image")
    record = read_key(file, (*path, 1), item[1], "source:id")
    if image is None or record is None:
        return None
    return FaceVerdict(image, record, file.line(path))


def _check_against(file: YamlFile, path: KeyPath, verdict: FaceVerdict, before: list[FaceVerdict]) -> None:
    """Notes an earlier verdict that says the same, or that contradicts this one."""
    for other in before:
        if other.image != verdict.image:
            continue
        if other.record == verdict.record:
            file.complain(path, f"repeats line {other.line}; remove one")
        elif None in (other.record, verdict.record):
            file.complain(
                path,
                f"contradicts {other.section} of line {other.line}: an image without a face shows no other "
                "person either; remove one",
            )


def read_key(file: YamlFile, path: KeyPath, text: Any, form: str) -> RecordKey | None:
    """The two parts of a text of the form source:id; notes a problem and returns None for another form."""
    source, colon, own_id = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not (source.strip() and colon and own_id.strip()):
        file.complain(path, f"{text!r} is not of the form {form}")
        return None
    return source.strip(), own_id.strip()


def resolve_verdicts(reads: ShortReads, path: Path | None, verdicts: Collection[FaceVerdict]) -> FaceVerdicts:
    """What the verdicts leave out, with merged records replaced by the live records that they were merged into.

    A verdict on a record or an image that the catalog does not hold has no effect and is one of the `problems`, each
    with file and line: sources remove images, and the verdict counts again when the image comes back. `path` is for
    messages.
    """
    if not verdicts:
        return NO_VERDICTS
    owners = reads(store.read_owners_of_images, {verdict.image for verdict in verdicts})
    live = reads(store.read_survivors, {row.record for row in verdicts if row.record is not None})
    problems: list[str] = []
    no_faces: set[ImageKey] = set()
    others: dict[ImageKey, set[RecordKey]] = defaultdict(set)
    for verdict in sorted(verdicts, key=lambda verdict: verdict.line):
        where = f"{path}:{verdict.line}: {verdict.section}"
        if verdict.record is not None and verdict.record not in live:
            problems.append(
                f"{where} names {':'.join(verdict.record)}, which the catalog does not hold: it has no effect"
            )
        elif verdict.image not in owners:
            problems.append(
                f"{where} names the image {':'.join(verdict.image)}, which the catalog does not hold: it has no effect"
            )
        elif verdict.record is None:
            no_faces.add(verdict.image)
        elif (record := live[verdict.record]) is not None:
            others[verdict.image].add(record)
    own = {image for image, records in others.items() if records & owners[image]}
    return FaceVerdicts(
        frozenset(no_faces),
        {image: frozenset(records) for image, records in sorted(others.items())},
        frozenset(no_faces | own),
        tuple(problems),
    )
