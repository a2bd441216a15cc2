"""The suppression list during a run, and the images that it forbids to store."""

from __future__ import annotations

from typing import Protocol, Self

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.faces.collection.verdicts import ImageVerdict


class ImageSuppressions(Protocol):
    """A suppression list: privacy.suppression.Suppressions."""

    def covers_record(self, source: str, source_id: str) -> bool: ...
    def covers_url(self, url: str) -> bool: ...
    def covers_image(self, sha256_hex: str) -> bool: ...
    def covers_likeness(self, picture_hash: str) -> bool: ...
    def refreshed(self, connection: sa.Connection) -> Self: ...


class CurrentSuppressions:
    """The newest suppression list that the run knows. `refresh` replaces it for all parts of the run."""

    def __init__(self, suppressions: ImageSuppressions) -> None:
        self._list = suppressions

    def refresh(self, connection: sa.Connection) -> bool:
        """Reads the list again; returns True when it changed."""
        before, self._list = self._list, self._list.refreshed(connection)
        return self._list is not before

    def covers_record(self, source: str, source_id: str) -> bool:
        """True when the record is suppressed."""
        return self._list.covers_record(source, source_id)

    def covers_url(self, url: str) -> bool:
        """True when the image at `url` is suppressed."""
        return self._list.covers_url(url)

    def covers_image(self, sha256_hex: str) -> bool:
        """True when the image with these bytes is suppressed."""
        return self._list.covers_image(sha256_hex)

    def covers_face(self, face: StoredFace | None) -> bool:
        """True when the image of the face is a copy of a suppressed picture, in another size, format or quality."""
        picture = face.picture_hash if face is not None else None
        return picture is not None and self._list.covers_likeness(picture)

    def covers_verdict(self, verdict: ImageVerdict) -> bool:
        """True when the image of the verdict is suppressed by its URL, its bytes or its picture."""
        return (
            self.covers_url(verdict.image.ledger.url)
            or (verdict.sha256 is not None and self.covers_image(verdict.sha256))
            or self.covers_face(verdict.face)
            or (verdict.second is not None and self.covers_face(verdict.second.face))
        )
