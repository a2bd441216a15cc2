"""Templates as one matrix, and the exact search for products of its rows above a floor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.face_templates import Template
from stash_sense_pipeline.records.record_key import RecordKey

Vectors = NDArray[np.float32]


Indices = NDArray[np.int64]


# The size of a block: its products stay in the processor's cache while they are compared.
_ROWS, _COLUMNS = 1024, 4096


@dataclass(frozen=True)
class TemplateSet:
    """Templates in the order of records. `vectors` (records, dims of all models), each model's part of unit length."""

    records: tuple[RecordKey, ...]
    faces: NDArray[np.int32]
    vectors: Vectors
    models: tuple[str, ...]

    @classmethod
    def of(cls, templates: Mapping[RecordKey, Template], models: Collection[str]) -> TemplateSet:
        """From the catalog's templates. All models must have the same number of dimensions."""
        records = tuple(sorted(templates))
        faces = np.array([templates[key].faces for key in records], dtype=np.int32)
        if not records:
            return cls(records, faces, np.zeros((0, len(models)), np.float32), tuple(sorted(models)))
        vectors = np.empty((len(records), len(templates[records[0]].vector)), np.float32)
        for place, key in enumerate(records):
            vectors[place] = templates[key].vector
        return cls(records, faces, vectors, tuple(sorted(models)))

    def of_model(self, place: int) -> Vectors:
        """The vectors of one model, (records, dim)."""
        width = self.vectors.shape[1] // max(1, len(self.models))
        return self.vectors[:, place * width : (place + 1) * width]

    def sources(self) -> dict[str, range]:
        """The rows of each source."""
        found: dict[str, range] = {}
        for place, (source, _) in enumerate(self.records):
            begin = found[source].start if source in found else place
            found[source] = range(begin, place + 1)
        return found

    def source_numbers(self) -> Indices:
        """The number of the source of each record."""
        numbers = np.empty(len(self.records), np.int64)
        for number, part in enumerate(self.sources().values()):
            numbers[part.start : part.stop] = number
        return numbers

    def similarities(self, a: Indices, b: Indices) -> Vectors:
        """Cosines of pairs in each model, (pairs, models)."""
        found = np.empty((len(a), len(self.models)), np.float32)
        for begin in range(0, len(a), _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            for place in range(len(self.models)):
                vectors = self.of_model(place)
                found[part, place] = np.einsum("ij,ij->i", vectors[a[part]], vectors[b[part]])
        return found


def above(
    vectors: Vectors, rows: range, columns: range, floor: float | Vectors, left: Vectors | None = None
) -> Iterator[tuple[Indices, Indices, Vectors]]:
    """(row, column, product) of all products above `floor`, which is one number, or one for each row of `left`.

    Rows are those of `left`, or of `vectors` without it. When rows and columns are the same range, each pair is
    returned once.
    """
    same = left is None and rows == columns
    source = vectors if left is None else left
    for top in range(rows.start, rows.stop, _ROWS):
        part = source[top : min(top + _ROWS, rows.stop)]
        limit = floor[top : top + len(part), None] if isinstance(floor, np.ndarray) else floor
        for begin in range(top if same else columns.start, columns.stop, _COLUMNS):
            products = part @ vectors[begin : min(begin + _COLUMNS, columns.stop)].T
            hits = np.flatnonzero(products > limit)
            if len(hits):
                a, b = np.divmod(hits, products.shape[1])
                a, b, value = a + top, b + begin, products.ravel()[hits]
                if same:
                    once = a < b
                    a, b, value = a[once], b[once], value[once]
                yield a, b, value
