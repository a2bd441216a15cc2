"""Compares claimed vectors with those that the installed pack makes of the fetched picture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.extraction.align import norm_crop
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.decode_process import ImageDecoder
from stash_sense_pipeline.faces.extraction.rejection_reasons import Rejected
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.release.bootstrap.index_vectors import rounded_as

Vectors = NDArray[np.float32]
# More faces than this are a crowd, in which no release has a face of one person.
_MOST_FACES = 10


class FaceComparison:
    """The networks of the pack, and how each index of the release stores its vectors. Use it in a `with`."""

    def __init__(self, pack: ModelPack, storage: Mapping[str, str], limits: DecodeLimits) -> None:
        self._pack = pack
        self._storage = storage
        self._decoder = ImageDecoder(limits)
        self._detector = Detector(pack.detector)
        self._open = ExitStack()
        self._embedders = {
            name: self._open.enter_context(Embedder(name, spec)) for name, spec in pack.embedders.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def cosines(self, data: bytes, claimed: Mapping[str, Vectors]) -> dict[str, float] | None:
        """By embedder, the cosine of the claimed vector and that of the same face in the picture `data`.

        The same face is the nearest one over all embedders. Without a face in the picture the cosines are 0. None when
        the bytes are no usable picture.
        """
        try:
            image = self._decoder.decode(data)
        except Rejected:
            return None
        crops = []
        for face in self._detector.detect(image.rgb)[:_MOST_FACES]:
            try:
                crops.append(norm_crop(image.rgb, face.landmarks))
            except ValueError:
                continue
        if not crops:
            return dict.fromkeys(sorted(claimed), 0.0)
        stacked = np.stack(crops)
        found = {name: self._similarities(name, stacked, vector) for name, vector in sorted(claimed.items())}
        nearest = int(np.argmax(np.mean(list(found.values()), axis=0)))
        return {name: float(cosines[nearest]) for name, cosines in found.items()}

    def _similarities(self, name: str, crops: NDArray[np.uint8], claimed: Vectors) -> Vectors:
        """The cosines of the claimed vector and those of the crops, rounded as the index rounded it."""
        made = self._embedders[name].embed(crops, self._pack.flip_averaging)
        made = rounded_as(self._storage[name], made)
        norms = np.linalg.norm(made, axis=1) * max(float(np.linalg.norm(claimed)), np.finfo(np.float32).tiny)
        return np.asarray(made @ claimed / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
