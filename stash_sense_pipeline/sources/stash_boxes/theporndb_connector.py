"""Connector for the REST interface of ThePornDB.

It does not use the catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any
from urllib.parse import quote

from stash_sense_pipeline.foundation.errors import KEY_REFUSED, HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.records.performer_record import (
    PerformerRecord,
    UnreadRecord,
)
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import MayRetry
from stash_sense_pipeline.sources.stash_boxes.item_failures import (
    MOST_BROKEN_IN_A_ROW,
    may_be_item_failure,
    never,
)
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import ListSample
from stash_sense_pipeline.sources.stash_boxes.theporndb_records import id_in, read_record
from stash_sense_pipeline.sources.unread import NOT_ANSWERED, read_rows, unread_row

# The server truncates every list to this length.
_LIST_CAP = 10_000
_A_PAGE = 100
# A page that fails is requested in parts of this many rows; a part that fails is requested row by row.
_PART = 10
# Lists that reach the cap are split by these filters, in this order.
_SPLITS: Sequence[tuple[str, Sequence[str]]] = (
    ("letter", "abcdefghijklmnopqrstuvwxyz0123456789"),
    ("gender", ("Female", "Male", "Trans Female", "Trans Male", "Transgender Female", "Transgender Male")),
    ("ethnicity", ("Caucasian", "Asian", "Black", "Latin", "Indian", "Middle Eastern", "Mixed", "Other")),
)
_UNAUTHORIZED = 401
_LIST = "/performers"


@dataclass(frozen=True)
class RestPage:
    """A page of a list. `total` is at most 10,000. `is_past_end`: the server repeated its last page instead.

    `broken` are the numbers of rows in the list, counted from 1, for which the server failed to answer.
    """

    total: int
    size: int
    is_past_end: bool
    rows: tuple[Any, ...]
    broken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Performers:
    """The performers of one page, and its unreadable rows."""

    rows: tuple[PerformerRecord, ...]
    unread: tuple[UnreadRecord, ...] = ()


class ThePornDbConnector:
    """ThePornDB. All methods raise SourceError. Only parent performers are records; site performers add to theirs.

    `left_out` counts by field the unusable values that were left out of records.
    """

    def __init__(self, url: str, api_key: str, client: PoliteClient, source: str) -> None:
        """`url` is the address of the REST interface, without a path."""
        self.source = source
        self.client = client
        self.left_out: Counter[str] = Counter()
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the bytes of an image. Images need no key, so none is sent."""
        return url, {}

    async def all_records(self) -> AsyncGenerator[Performers, None]:
        """All performers, page by page, many of them repeatedly. Truncated lists are read from both ends and split."""
        async with aclosing(self._filtered({}, 0, frozenset())) as pages:
            async for records in pages:
                yield records

    async def recently_updated(self) -> AsyncGenerator[Performers, None]:
        """Performers by last change, newest first, up to the cap of the list. The list has no times."""
        async with aclosing(self._walk(_LIST, {"orderBy": "recently_updated"}, in_flight=1)) as pages:
            async for page in pages:
                yield self._records(page)

    async def changed_since(self, day: date) -> frozenset[str] | None:
        """Ids of performers changed on that day or later; None when the server has no such list."""
        changed: set[str] = set()
        try:
            async with aclosing(self._walk("/changes/performers", {"from": day.isoformat()})) as pages:
                async for page in pages:
                    ids = [id_in(row, "uuid") for row in page.rows]
                    changed.update(source_id for source_id in ids if source_id is not None)
        except HttpStatusError as error:
            if error.outcome.is_answer or error.outcome is Outcome.PARSE_ERROR:
                return None
            raise
        return frozenset(changed)

    async def check_answering(self) -> None:
        """Requests one row of the list. Raises SourceError when the server does not answer that either."""
        await self._page(_LIST, {"orderBy": "asc_name"}, 1, 1)

    async def sample(self, rows: int) -> ListSample:
        """The number of performers, and of the pictures of the first `rows` of them by name, from one request."""
        page = await self._page(_LIST, {"orderBy": "asc_name"}, 1, rows)
        records = self._records(page).rows
        return ListSample(page.total, tuple(len(one.images) for one in records), page.total >= _LIST_CAP)

    async def performer(self, identifier: str) -> PerformerRecord | UnreadRecord | None:
        """One performer by uuid, number or slug; None when the server does not know it."""
        try:
            answer = await self._get(f"/performers/{quote(identifier, safe='')}", {})
        except HttpStatusError as error:
            if error.outcome.is_answer:
                return None
            raise
        with json.reading(self.source):
            row = json.mapping(answer.get("data"), "data")
        try:
            return read_record(row, self.left_out)
        except json.FieldError as error:
            return unread_row(row, str(error), numbers=True)

    # --- requests ---------------------------------------------------------------------------------

    async def _filtered(
        self, filters: Mapping[str, str], depth: int, parent: frozenset[str]
    ) -> AsyncGenerator[Performers, None]:
        """All performers that pass `filters`. A filter without effect (the ids of `parent` again) is not followed."""
        first = await self._page_in_parts(_LIST, {"orderBy": "asc_name", **filters}, 1)
        ids = frozenset(str(id_in(row, "id")) for row in first.rows)
        if filters and first.total >= _LIST_CAP and ids == parent:
            return
        capped = first.total >= _LIST_CAP
        for order in ("asc_name", "desc_name") if capped else ("asc_name",):
            async with aclosing(self._walk(_LIST, {"orderBy": order, **filters})) as pages:
                async for page in pages:
                    yield self._records(page)
        if capped and depth < len(_SPLITS):
            name, values = _SPLITS[depth]
            for value in values:
                async with aclosing(self._filtered({**filters, name: value}, depth + 1, ids)) as parts:
                    async for records in parts:
                        yield records

    async def _walk(
        self, path: str, filters: Mapping[str, str], in_flight: int = 4
    ) -> AsyncGenerator[RestPage, None]:
        """The pages of a list. Past the end the server repeats the last page."""
        first = await self._page_in_parts(path, filters, 1)
        yield first
        last = -(-first.total // first.size) if first.size else 1
        # A generator, because the total can be any number.
        questions = (partial(self._page_in_parts, path, filters, number) for number in range(2, last + 1))
        async with aclosing(ordered_prefetch(questions, in_flight)) as pages:
            async for page in pages:
                if page.is_past_end or not (page.rows or page.broken):
                    return
                yield page

    async def _page_in_parts(self, path: str, filters: Mapping[str, str], number: int) -> RestPage:
        """A page of a list. When it fails, and the server answers other requests, it is requested in smaller parts."""
        try:
            return await self._page(path, filters, number)
        except SourceError as error:
            if path != _LIST or not may_be_item_failure(error):
                raise
            await self.check_answering()
            return await self._page_from_parts(path, filters, number, error)

    async def _page_from_parts(
        self, path: str, filters: Mapping[str, str], number: int, failure: SourceError
    ) -> RestPage:
        rows: list[Any] = []
        broken: list[int] = []
        first_row = (number - 1) * _A_PAGE
        waiting = [(first_row + start, _PART) for start in reversed(range(0, _A_PAGE, _PART))]
        total, in_a_row = 0, 0
        while waiting:
            start, size = waiting.pop()
            try:
                part = await self._page(path, filters, start // size + 1, size, never)
            except SourceError as error:
                if not may_be_item_failure(error):
                    raise
                if size > 1:
                    waiting += [(row, 1) for row in reversed(range(start, start + size))]
                    continue
                in_a_row += 1
                if in_a_row >= MOST_BROKEN_IN_A_ROW:
                    raise failure from error
                broken.append(start + 1)
                continue
            if part.size != size:
                raise failure
            in_a_row, total = 0, part.total
            if part.is_past_end or len(part.rows) < size:
                rows += () if part.is_past_end else part.rows
                break
            rows += part.rows
        return RestPage(total, _A_PAGE, not (rows or broken), tuple(rows), tuple(broken))

    async def _page(
        self,
        path: str,
        filters: Mapping[str, str],
        number: int,
        size: int = _A_PAGE,
        may_retry: MayRetry | None = None,
    ) -> RestPage:
        try:
            answer = await self._get(path, {**filters, "page": number, "per_page": size}, may_retry)
        except HttpStatusError as error:
            if path == _LIST and error.outcome.is_answer:
                message = f"{self._url} has no list of performers (status {error.status}); is it ThePornDB?"
                raise SourceError(self.source, Outcome.PARSE_ERROR, message) from error
            raise
        with json.reading(self.source):
            rows = json.sequence(answer, "data", "the answer")
            meta = json.mapping(answer.get("meta"), "meta")
            return RestPage(
                total=json.count(meta, "total", "meta"),
                size=json.count(meta, "per_page", "meta"),
                is_past_end=json.count(meta, "current_page", "meta") < number,
                rows=tuple(rows),
            )

    async def _get(
        self, path: str, params: Mapping[str, str | int], may_retry: MayRetry | None = None
    ) -> Mapping[str, Any]:
        try:
            response = await self.client.get(
                f"{self._url}{path}", headers=self._headers, params=params, may_retry=may_retry
            )
        except HttpStatusError as error:
            if error.status == _UNAUTHORIZED:
                raise SourceError(self.source, Outcome.BLOCKED, KEY_REFUSED) from error
            raise
        with json.reading(self.source):
            return json.mapping(response.json(), "the answer")

    def _records(self, page: RestPage) -> Performers:
        rows, unread = read_rows(page.rows, partial(read_record, left_out=self.left_out), numbers=True)
        broken = (UnreadRecord(f"row {number} of the list", NOT_ANSWERED) for number in page.broken)
        return Performers(rows, (*unread, *broken))
