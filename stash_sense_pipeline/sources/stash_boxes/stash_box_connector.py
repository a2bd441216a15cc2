"""Connector for the GraphQL interface of stash-box servers.

It does not use the catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

from stash_sense_pipeline.foundation.errors import SourceError
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import MayRetry
from stash_sense_pipeline.sources.stash_boxes.item_failures import (
    MOST_BROKEN_IN_A_ROW,
    may_be_item_failure,
    never,
)
from stash_sense_pipeline.sources.stash_boxes.stash_box_graphql import RowsError, StashBoxGraphQL, path_of
from stash_sense_pipeline.sources.stash_boxes.stash_box_queries import (
    BASELINE,
    BRIEF_FIELDS,
    CHANGES,
    DESCRIBE,
    EDITS_A_PAGE,
    HEAD,
    LISTED_FIELDS,
    RECORD_FIELDS,
    REMOVING_OPERATIONS,
    REQUIRED_FIELDS,
    SAMPLE,
    Direction,
    ServerDescription,
    described,
    details_query,
    edits_query,
    page_query,
    selection_of,
)
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import (
    Change,
    Details,
    Edits,
    Listed,
    ListSample,
    RecordPage,
    Removals,
    asked_record,
    read_change,
    read_listed,
    read_record,
)
from stash_sense_pipeline.sources.unread import NOT_ANSWERED, Row, read_rows

# The answers for single performers by alias, and the aliases without an answer.
_Details = tuple[Mapping[str, Any], frozenset[str]]

_CHANGES_A_PAGE = 5000
# The parts of the interface that a server may hide from introspection.
_INTROSPECTED = (("performer",), ("query",), ("edit",), ("edits",))


class StashBoxConnector:
    """One stash-box server. All methods raise SourceError; the description is read once, at first use.

    `left_out` counts by field the unusable values that were left out of records.
    """

    details_a_request = 25
    records_a_page = 100
    listed_a_page = 2000

    def __init__(self, url: str, api_key: str, client: PoliteClient, source: str) -> None:
        """`url` is the address of the GraphQL endpoint."""
        self.source = source
        self.client = client
        self.left_out: Counter[str] = Counter()
        self._graphql = StashBoxGraphQL(url, api_key, client, source)
        self._lookup = _DetailLookup(self._graphql, partial(self.head, 1))
        self._description: ServerDescription | None = None

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the original bytes of an image. Images need no key, so none is sent."""
        return f"{url}?size=full", {}

    async def describe(self) -> ServerDescription:
        """The server's version and features; SourceError (parse_error) when it is not a stash-box."""
        if self._description is None:
            data, errors = await self._graphql.exchange(DESCRIBE, {})
            if any(path_of(error)[:1] not in _INTROSPECTED for error in errors):
                raise self._graphql.failure(errors)
            with json.reading(self.source):
                description = BASELINE if errors else described(data)
            missing = sorted(REQUIRED_FIELDS - description.performer_fields)
            if missing:
                raise self._graphql.parse_error(
                    f"{self._graphql.url} is not a stash-box: its interface has no {missing[0]}"
                )
            self._description = description
        return self._description

    async def head(self, rows: int, page: int = 1) -> RecordPage[Listed]:
        """The performers changed last, newest first. The server reads a page in one statement, so it has no gaps."""
        given = {"page": page, "per_page": rows, "sort": "UPDATED_AT", "direction": "DESC"}
        return await self._read_page(partial(self._graphql.ask, HEAD, {"input": given}), read_listed)

    async def sample(self, rows: int) -> ListSample:
        """The number of performers, and of the pictures of the first `rows` of them by name, from one request."""
        given = {"page": 1, "per_page": rows, "sort": "NAME", "direction": "ASC"}
        data, errors = await self._graphql.exchange(SAMPLE, {"input": given})
        if errors and not data.get("queryPerformers"):
            raise self._graphql.failure(errors)
        with json.reading(self.source):
            result = json.mapping(data.get("queryPerformers"), "queryPerformers")
            performers = json.sequence(result, "performers", "queryPerformers")
            count = json.count(result, "count", "queryPerformers")
        images = [row.get("images") for row in performers if isinstance(row, dict)]
        return ListSample(count, tuple(len(each) for each in images if isinstance(each, list)))

    async def records(self, direction: Direction) -> AsyncGenerator[RecordPage[PerformerRecord], None]:
        """All live performers, page by page in the order of their names."""
        async with aclosing(_walk(partial(self.records_page, direction), self.records_a_page)) as pages:
            async for page in pages:
                yield page

    async def listing(
        self, direction: Direction, *, brief: bool = False
    ) -> AsyncGenerator[RecordPage[Listed], None]:
        """All live performers by id, last change, merged ids and image ids, in the order of their names.

        A `brief` list has only ids and last changes.
        """
        fields = BRIEF_FIELDS if brief else LISTED_FIELDS
        ask = partial(self._listing_page, fields, direction)
        async with aclosing(_walk(ask, self.listed_a_page)) as pages:
            async for page in pages:
                yield page

    async def records_page(self, direction: Direction, size: int, number: int) -> RecordPage[PerformerRecord]:
        """One page of `records`. When the page or its answer is broken, its performers are requested by id."""
        selection = await self._selection(RECORD_FIELDS)
        query = page_query(selection, direction, size, number)
        try:
            return await self._read_page(partial(self._graphql.ask, *query), read_record)
        except SourceError as error:
            if not (isinstance(error, RowsError) or may_be_item_failure(error)):
                raise
            listed = await self._listing_page(BRIEF_FIELDS, direction, size, number)
        details = await self.details([row.source_id for row in listed.rows])
        return RecordPage(listed.count, tuple(details.records.values()), (*listed.unread, *details.unread))

    async def details(self, source_ids: Sequence[str]) -> Details:
        """Single performers, deleted ones too. A server error about a performer does not mean that it is absent.

        When a request for several performers fails, and the server answers other requests, it is split.
        """
        records: dict[str, PerformerRecord] = {}
        absent: set[str] = set()
        unread: list[UnreadRecord] = []
        selection = await self._selection(RECORD_FIELDS)
        batches = [
            source_ids[start : start + self.details_a_request]
            for start in range(0, len(source_ids), self.details_a_request)
        ]
        asked = [partial(self._lookup.find, selection, batch) for batch in batches]
        async with aclosing(ordered_prefetch(asked)) as answers:
            for batch in batches:
                data, failed = await anext(answers)
                for number, source_id in enumerate(batch):
                    alias = f"p{number}"
                    if data.get(alias) is not None:
                        answer = asked_record(source_id, data[alias], self.left_out)
                        if isinstance(answer, UnreadRecord):
                            unread.append(answer)
                        else:
                            records[source_id] = answer
                    elif alias in failed or alias not in data:
                        unread.append(UnreadRecord(source_id, NOT_ANSWERED, source_id))
                    else:
                        absent.add(source_id)
        return Details(records, frozenset(absent), tuple(unread))

    async def removals(self, since: datetime | None) -> Removals:
        """The performers removed by DESTROY and MERGE edits closed since then; empty when the server has no edits."""
        if not (await self.describe()).has_edits:
            return Removals(frozenset(), None)
        removed: set[str] = set()
        newest: datetime | None = None
        wanted, page = list(REMOVING_OPERATIONS), 1
        while wanted:
            data = await self._ask_edits(wanted, page)
            with json.reading(self.source):
                for operation in list(wanted):
                    edits = Edits.of(data, operation, self.left_out)
                    removed |= edits.removed
                    newest = max(filter(None, (newest, *edits.closed)), default=None)
                    passed = since is not None and any(closed < since for closed in edits.closed)
                    if passed or not edits.rows or page * EDITS_A_PAGE >= edits.count:
                        wanted.remove(operation)
            page += 1
        return Removals(frozenset(removed), newest)

    async def changes(self, since: datetime) -> list[Change]:
        """The changelog from `since` on, tombstones included. Requires a server with `has_changelog`."""
        changes: list[Change] = []
        moment, after = since.isoformat().replace("+00:00", "Z"), None
        while True:
            variables = {"since": moment, "after": after, "limit": _CHANGES_A_PAGE}
            data = await self._graphql.ask(CHANGES, variables)
            with json.reading(self.source):
                entries = json.sequence(data, "performerChangelog", "the answer")
            rows = [change for entry in entries if (change := read_change(entry)) is not None]
            if len(rows) < len(entries):
                self.left_out["performerChangelog"] += len(entries) - len(rows)
            # Without a readable entry the next page has no start; the next sweep finds the rest.
            if not rows:
                return changes
            if (rows[-1][0], rows[-1][1].source_id) == (moment, after):
                raise self._graphql.parse_error("the changelog does not advance")
            changes += [change for _, change in rows]
            moment, after = rows[-1][0], rows[-1][1].source_id

    # --- requests ---------------------------------------------------------------------------------

    async def _listing_page(
        self, fields: Mapping[str, str], direction: Direction, size: int, number: int
    ) -> RecordPage[Listed]:
        query = page_query(await self._selection(fields), direction, size, number)
        return await self._read_page(partial(self._graphql.ask, *query), read_listed)

    async def _selection(self, fields: Mapping[str, str]) -> str:
        return selection_of(fields, (await self.describe()).performer_fields)

    async def _ask_edits(self, operations: Sequence[str], page: int) -> Mapping[str, Any]:
        data, errors = await self._graphql.exchange(*edits_query(operations, page))
        # The target of an old edit may have been deleted, which the server reports as an error of that field.
        if any("target" not in path_of(error) and "merge_sources" not in path_of(error) for error in errors):
            raise self._graphql.failure(errors)
        return data

    async def _read_page(
        self,
        ask: Callable[[], Coroutine[Any, Any, Mapping[str, Any]]],
        read: Callable[[Any, Counter[str]], Row],
    ) -> RecordPage[Row]:
        """A page. A page of several rows, all of them unreadable, is requested once more."""
        page = self._page(await ask(), read)
        if page.rows or page.length <= 1:
            return page
        return self._page(await ask(), read)

    def _page(self, data: Mapping[str, Any], read: Callable[[Any, Counter[str]], Row]) -> RecordPage[Row]:
        with json.reading(self.source):
            result = json.mapping(data.get("queryPerformers"), "queryPerformers")
            rows = json.sequence(result, "performers", "queryPerformers")
            count = json.count(result, "count", "queryPerformers")
        return RecordPage(count, *read_rows(rows, lambda row: read(row, self.left_out)))


class _DetailLookup:
    """Requests single performers by id; a request that fails is split until the broken performers are alone."""

    def __init__(self, graphql: StashBoxGraphQL, probe: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """`probe` sends another request. It raises SourceError when the server does not answer that either."""
        self._graphql = graphql
        self._probe = probe

    async def find(self, selection: str, batch: Sequence[str]) -> _Details:
        """Data by alias `p0`, `p1`, ..., and the aliases without an answer."""
        try:
            return await self._ask(selection, batch)
        except SourceError as error:
            if not may_be_item_failure(error):
                raise
            await self._probe()
            return await self._ask_parts(selection, batch, error)

    async def _ask_parts(self, selection: str, batch: Sequence[str], failure: SourceError) -> _Details:
        """Requests the parts of a failed batch, each part once.

        Raises `failure` when MOST_BROKEN_IN_A_ROW consecutive performers fail alone.
        """
        data: dict[str, Any] = {}
        failed: set[str] = set()
        broken = 0
        waiting = [(0, len(batch))]
        while waiting:
            start, end = waiting.pop()
            if (start, end) != (0, len(batch)) or len(batch) == 1:
                try:
                    found, missing = await self._ask(selection, batch[start:end], never)
                except SourceError as error:
                    if not may_be_item_failure(error):
                        raise
                else:
                    broken = 0
                    numbers = [number for number in range(end - start) if f"p{number}" in found]
                    data |= {f"p{start + number}": found[f"p{number}"] for number in numbers}
                    failed |= {f"p{start + int(alias[1:])}" for alias in missing}
                    continue
            if end - start == 1:
                broken += 1
                if broken >= MOST_BROKEN_IN_A_ROW:
                    raise failure
                failed.add(f"p{start}")
                continue
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
        return data, frozenset(failed)

    async def _ask(self, selection: str, batch: Sequence[str], may_retry: MayRetry | None = None) -> _Details:
        query, variables = details_query(selection, batch)
        data, errors = await self._graphql.exchange(query, variables, may_retry)
        paths = [path_of(error) for error in errors]
        if not all(paths):
            raise self._graphql.failure(errors)
        return data, frozenset(path[0] for path in paths)


async def _walk(
    ask: Callable[[int, int], Coroutine[Any, Any, RecordPage[Row]]], size: int
) -> AsyncGenerator[RecordPage[Row], None]:
    """Yields the pages in order, some of them requested ahead, until the number of rows that the server counts arrived.

    Servers up to v0.6.17 return at most 100 rows a page without reporting the limit. So a short first page sets the
    size of the next ones, and a short page never ends the walk.
    """
    page = await ask(size, 1)
    got = page.length
    yield page
    if 0 < got < min(size, page.count):
        size = got
    seen, number = got, 2
    # The count can be wrong by any factor. So the requests are a generator, and the walk ends at an empty page, or at a
    # page that the server repeats past the end.
    ahead = (partial(ask, size, each) for each in range(2, -(-page.count // size) + 1))
    async with aclosing(ordered_prefetch(ahead)) as pages:
        async for following in pages:
            if not following.length or following == page:
                return
            page = following
            seen += page.length
            number += 1
            yield page
    while got and seen < page.count:
        following = await ask(size, number)
        if not following.length or following == page:
            return
        page = following
        seen += page.length
        number += 1
        yield page
