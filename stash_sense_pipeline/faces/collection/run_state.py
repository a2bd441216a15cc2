"""The counts of a run, and whether and why the run ends early."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stash_sense_pipeline.catalog.queries.images import ImageState
from stash_sense_pipeline.faces.collection.verdicts import ImageVerdict
from stash_sense_pipeline.foundation.errors import Outcome, SourceError

log = logging.getLogger(__name__)


@dataclass
class RunCounts:
    """Counts of committed verdicts, and of requests.

    `first_asked` counts images with an answer that were not refused before. `evidence` counts requests that only test
    a host. `unreached` counts images without a connection. `second_faces` counts faces of the second pack,
    `second_looks` images that were requested only for it.
    """

    fetched: int = 0
    first_asked: int = 0
    evidence: int = 0
    unreached: int = 0
    done: int = 0
    reused: int = 0
    gone: int = 0
    second_faces: int = 0
    second_looks: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: ImageVerdict) -> None:
        """Counts a committed verdict. A postponed image counts nowhere, a look for the second pack only as such."""
        self.second_faces += verdict.second is not None and verdict.second.face is not None
        if verdict.kept:
            self.second_looks += not verdict.postponed
            return
        self.reused += verdict.reused
        if verdict.face is not None:
            self.done += 1
        elif verdict.state is ImageState.GONE:
            self.gone += 1
        elif verdict.state is ImageState.REJECTED:
            self.rejected[str(verdict.reason)] += 1
        elif not verdict.postponed:
            self.failed[str(verdict.reason)] += 1

    @property
    def verdicts(self) -> int:
        """All committed verdicts."""
        return self.done + self.gone + self.rejected.total() + self.failed.total() + self.second_looks


class RunEnd:
    """Ends a run early: by an interruption, or by an error of the source."""

    def __init__(self, source: str, closers: Sequence[Callable[[], None]]) -> None:
        """Each of `closers` is called when the run ends early."""
        self.is_ending = False
        self.interrupted = False
        self.outcome: Outcome | None = None
        self.message: str | None = None
        self._source = source
        self._closers = closers

    @property
    def ran_through(self) -> bool:
        """True when neither an error nor an interruption ended the run early."""
        return self.outcome is None and not self.interrupted

    def interrupt(self) -> None:
        """Ends the run on request."""
        self.interrupted = True
        self._close()

    def fail(self, error: SourceError) -> None:
        """Ends the run because of `error`. The first error gives the outcome and the message."""
        if self.outcome is None:
            self.outcome, self.message = error.outcome, str(error)
            log.warning("%s: collecting ends early: %s", self._source, error)
        self._close()

    def _close(self) -> None:
        self.is_ending = True
        for close in self._closers:
            close()
