"""Counts how visits and searches end, and stops the run when the site as a whole fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from stash_sense_pipeline.catalog.queries.sync_state import load_state
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import (
    REFUSALS_IN_A_ROW,
    CircuitOpenError,
    HttpStatusError,
    LayoutChangedError,
    Outcome,
    SourceError,
)
from stash_sense_pipeline.sources.cooldown import is_refusal, start_cooldown
from stash_sense_pipeline.sources.reference_sites.enrichment.context import EnrichContext
from stash_sense_pipeline.sources.unread import UnreadNotes


class AnswerLog:
    """The outcomes of one run.

    Several failures in a row make the site suspect (`is_suspect`): it refuses every request, or its layout changed, or
    only these pages fail. The caller then asks for other items (`look_elsewhere`). If these fail too, the run ends. If
    one is answered, the next suspicion takes twice as many failures.

    `layout_mismatches`: how many pages in a row without the page selector make the site suspect.
    """

    def __init__(self, context: EnrichContext, layout_mismatches: int) -> None:
        self.outcomes: Counter[str] = Counter()
        # Answers of any kind, and pages that were read.
        self.answers = self.pages = 0
        self._context = context
        self._source = context.source
        self._most_mismatches = layout_mismatches
        self._failures_in_a_row = self._mismatches_in_a_row = 0
        self._last_failure: SourceError | None = None
        self._suspicion: SourceError | None = None
        self._tolerance = 1
        with reading(context.engine) as connection:
            before = load_state(connection, context.source).detail.get("unread")
        # By the hash of the item, because the key of a profile is made of a name.
        self.unread = UnreadNotes(context.source, before)

    @property
    def is_suspect(self) -> bool:
        """True when so many items failed in a row that the site itself may fail."""
        return self._suspicion is not None

    def answered(self, page: bool) -> None:
        """Counts an answer; `page`: it was a profile page, and not only "not found" or the result of a search."""
        self.answers += 1
        self.pages += page
        self._failures_in_a_row = 0
        self._mismatches_in_a_row = 0 if page else self._mismatches_in_a_row
        if page or not isinstance(self._suspicion, LayoutChangedError):
            self._suspicion = None

    def failed(self, error: SourceError) -> bool:
        """Counts an error. True when it is no answer, so nothing stored may change. Raises `error` when the circuit of
        the host is open."""
        self.outcomes[error.outcome.value] += 1
        if isinstance(error, CircuitOpenError):
            raise error
        if error.outcome.is_answer:
            self.answered(page=False)
            return False
        self._last_failure = error
        if error.outcome is not Outcome.DISALLOWED and not isinstance(error, LayoutChangedError):
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= REFUSALS_IN_A_ROW * self._tolerance:
                self._suspicion = error
        if isinstance(error, LayoutChangedError):
            self._mismatches_in_a_row += 1
            if self._mismatches_in_a_row >= self._most_mismatches * self._tolerance:
                self._suspicion = error
        return True

    async def look_elsewhere(
        self, items: Sequence[str], ask: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        """Asks for `items` until one is answered. Raises SourceError when none is; after a refusal the source also gets
        a cooldown."""
        for item in items:
            await ask(item)
            if self._suspicion is None:
                break
        error = self._suspicion
        if error is None:
            self._tolerance *= 2
            return
        if isinstance(error, LayoutChangedError):
            raise self._new_layout()
        times = f"{self._failures_in_a_row} times in a row{_status(error)}"
        if not is_refusal(error.outcome):
            message = f"gave no answer {times}; the next run asks others first"
            raise SourceError(self._source, error.outcome, message)
        until = start_cooldown(self._context.engine, self._source, self._context.clock.now())
        raise SourceError(
            self._source,
            error.outcome,
            f"refused {times}; it is left alone until {until:%Y-%m-%d %H:%M} UTC",
        )

    def check(self) -> None:
        """Raises SourceError when nothing was answered, however few items were asked for, or when too many profiles are
        unread."""
        self.unread.check()
        if self.answers or self._last_failure is None:
            return
        if isinstance(self._last_failure, LayoutChangedError):
            raise self._new_layout()
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.outcomes.items()))
        raise SourceError(
            self._source,
            self._last_failure.outcome,
            f"nothing could be read: {counts}{_status(self._last_failure)}",
        )

    def _new_layout(self) -> SourceError:
        return LayoutChangedError(
            self._source,
            Outcome.PARSE_ERROR,
            f"{self._mismatches_in_a_row} page(s) in a row without {self._context.connector.site.page_selector}: "
            "the layout changed, or the site shows us another page; nothing was changed by them",
        )


def _status(error: SourceError) -> str:
    """The status code of an answer, for messages. The address is left out because it would name a person."""
    return f" (status {error.status})" if isinstance(error, HttpStatusError) else ""
