"""Erasure of what no record or image of the catalog leads to: claimed faces, permanent numbers of earlier records."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.claims import faces as claimed
from stash_sense_pipeline.catalog.queries.sense2.ledger import blank_numbers, numbered_records
from stash_sense_pipeline.privacy.suppression.suppressed_faces import SuppressedFaces
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions

_ROWS_A_BLOCK = 2_048


def erase_claims(connection: sa.Connection, suppressions: Suppressions, templates: SuppressedFaces) -> int:
    """Removes claimed faces of suppressed pictures, and those that are refused faces. Returns their number.

    The claims of an erased record go with it. The whole list is searched for: an address is marked as searched for when it
    is added, since no image of a source had it.
    """
    covered: set[int] = set()
    if suppressions.urls or suppressions.awaited:
        covered = {
            claim_id for claim_id, url in claimed.addresses(connection) if suppressions.forbids_picture(url)
        }
    return claimed.drop_claims(connection, covered | _refused(connection, templates))


def erase_numbers(connection: sa.Connection, sought: Suppressions) -> dict[str, int]:
    """Blanks the permanent numbers of covered records that the catalog does not hold any more; rows by table."""
    if not len(sought):
        return {}
    covered = {record for record in numbered_records(connection) if sought.covers_record(*record)}
    return dict(blank_numbers(connection, covered, ()))


def _refused(connection: sa.Connection, templates: SuppressedFaces) -> set[int]:
    """The claimed faces that are refused by every embedder that they share with a template."""
    models = {model for person in templates.people.values() for model in person}
    candidates: set[int] = set()
    for name, digest in sorted(models):
        for claims, vectors in _blocks(claimed.claimed_vectors_of(connection, name, digest)):
            candidates.update(np.asarray(claims)[templates.near({(name, digest): vectors})].tolist())
    digests = dict(sorted(models))
    found: set[int] = set()
    for claim_id, vectors_of in claimed.read_vectors(connection, candidates).items():
        known = {
            (name, digests[name]): vector[None] for name, vector in vectors_of.items() if name in digests
        }
        if known and templates.near(known)[0]:
            found.add(claim_id)
    return found


def _blocks(rows: Iterator[Any]) -> Iterator[tuple[list[int], np.ndarray[Any, np.dtype[np.float32]]]]:
    while part := list(islice(rows, _ROWS_A_BLOCK)):
        joined = b"".join(row[1] for row in part)
        yield [row[0] for row in part], np.frombuffer(joined, dtype="<f4").reshape(len(part), -1)
