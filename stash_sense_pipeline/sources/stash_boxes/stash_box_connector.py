"""Connector for the GraphQL interface of stash-box servers.

It knows no catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal

from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.privacy.intake.data_minimisation import drop_private_fields
from stash_sense_pipeline.privacy.redaction.log_redaction import redacted
from stash_sense_pipeline.records.performer_record import (
    ImageRecord,
    PerformerRecord,
    UnreadRecord,
    unique_images,
)
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date, instant
from stash_sense_pipeline.sources.cleaning.fields import Fields
from stash_sense_pipeline.sources.cleaning.ids import optional_id, record_id
from stash_sense_pipeline.sources.cleaning.numbers import SHORTEST_CM, TALLEST_CM, side, whole, year
from stash_sense_pipeline.sources.cleaning.text import clean_text, enumeration, label, required_text, text
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import MayRetry
from stash_sense_pipeline.sources.stash_boxes.item_failures import (
    MOST_BROKEN_IN_A_ROW,
    may_be_of_the_item,
    never,
)
from stash_sense_pipeline.sources.unread import ANOTHER_ANSWERED, NOT_ANSWERED, Row, read_rows, unread_row

Direction = Literal["ASC", "DESC"]
_Answer = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]
# Data of single performers by alias, and the aliases without an answer.
_Details = tuple[Mapping[str, Any], frozenset[str]]

# What is asked of a performer. Fields that cost the server one statement each (scene_count, scenes, studios,
# edits) are left out on purpose. Those in _REQUIRED make a server a stash-box; the rest is asked for where
# introspection shows it.
_SELECTION: Mapping[str, str] = {
    "id": "",
    "name": "",
    "disambiguation": "",
    "aliases": "",
    "gender": "",
    "birth_date": "",
    "death_date": "",
    "ethnicity": "",
    "country": "",
    "eye_color": "",
    "hair_color": "",
    "height": "",
    "career_start_year": "",
    "career_end_year": "",
    "tattoos": "{location}",
    "piercings": "{location}",
    "urls": "{url}",
    "images": "{id url width height}",
    "deleted": "",
    "merged_ids": "",
    "merged_into_id": "",
    "created": "",
    "updated": "",
}
# More of an error is not looked at.
_MOST_SAID = 20_000
_REQUIRED = frozenset({"id", "name", "aliases", "urls", "images", "deleted", "updated"})
_BRIEF = {"id": "", "updated": ""}
_LISTED = {"id": "", "updated": "", "merged_ids": "", "images": "{id}"}
# Of tattoos and piercings only the place on the body is kept, not the free text.
_UNMODELLED = ("tattoos", "piercings")

_DESCRIBE = """query Describe {
  performer: __type(name: "Performer") { fields { name } }
  query: __type(name: "Query") { fields { name } }
  edit: __type(name: "Edit") { fields { name } }
  edits: __type(name: "EditQueryInput") { inputFields { name } }
  version { version }
}"""
_HEAD = """query Head($input: PerformerQueryInput!) {
  queryPerformers(input: $input) { count performers { id updated } }
}"""
_CHANGES = """query Changes($since: Time!, $after: ID, $limit: Int) {
  performerChangelog(since: $since, after_id: $after, limit: $limit) { id updated_at deleted redirect_to }
}"""
_EDIT_FIELDS = frozenset({"closed", "created", "target", "merge_sources"})
_EDIT_FILTERS = frozenset({"operation", "applied", "target_type", "sort", "direction", "page", "per_page"})
_EDIT_QUERIES = {
    "DESTROY": "{ count edits { closed created target { ... on Performer { id } } } }",
    "MERGE": "{ count edits { closed created merge_sources { ... on Performer { id } } } }",
}

_TRIES = 3
_EDITS_A_PAGE = 100
_CHANGES_A_PAGE = 5000
_HTTP_UNAUTHORIZED = 401
_KEY_REFUSED = "the server refused the key (expired or wrong)"


@dataclass(frozen=True)
class ServerDescription:
    """What the server says it can do. `version` is None where it does not tell."""

    version: str | None
    performer_fields: frozenset[str]
    has_edits: bool
    has_changelog: bool


# What servers since the end of 2024 have; assumed of one that lets nobody see its interface.
_BASELINE = ServerDescription(None, frozenset(_SELECTION), has_edits=True, has_changelog=False)


@dataclass(frozen=True)
class Listed:
    """A live performer as a cheap listing shows it."""

    source_id: str
    updated: datetime | None
    merged_ids: tuple[str, ...] = ()
    image_ids: frozenset[str] | None = None


@dataclass(frozen=True)
class RecordPage(Generic[Row]):
    """One page of an enumeration. `count` is how many there are in all, `length` how many rows came on this page, and
    `unread` what of them could not be read, or gave an error.
    """

    count: int
    rows: tuple[Row, ...]
    unread: tuple[UnreadRecord, ...] = ()

    @property
    def length(self) -> int:
        """How many rows came, read or not."""
        return len(self.rows) + len(self.unread)


@dataclass(frozen=True)
class Details:
    """Answers about single performers: records (also deleted ones), ids that do not exist, and what cannot be read."""

    records: Mapping[str, PerformerRecord]
    absent: frozenset[str]
    unread: tuple[UnreadRecord, ...] = ()


@dataclass(frozen=True)
class Change:
    """An entry of the server's changelog."""

    source_id: str
    updated: datetime | None
    deleted: bool


@dataclass(frozen=True)
class Removals:
    """Ids that applied edits removed, a hint to be confirmed; `newest` is the time of the last edit."""

    source_ids: frozenset[str]
    newest: datetime | None


class _RowsError(SourceError):
    """Single performers of a page could not be resolved by the server."""


class StashBoxConnector:
    """One stash-box server. All methods raise SourceError; the description is read once, at first use.

    `left_out` counts by field what was left out of records because it cannot be used.
    """

    details_a_request = 25
    records_a_page = 100
    listed_a_page = 2000

    def __init__(self, url: str, api_key: str, client: PoliteClient, source: str) -> None:
        """`url` is the address of the GraphQL endpoint."""
        self.source = source
        self.client = client
        self._url = url
        self._api_key = api_key
        self._headers = {"Accept": "application/json", **({"ApiKey": api_key} if api_key else {})}
        self.left_out: Counter[str] = Counter()
        self._description: ServerDescription | None = None

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the original bytes of an image. Images need no key, so none is sent."""
        return f"{url}?size=full", {}

    async def describe(self) -> ServerDescription:
        """The server's version and features; SourceError (parse_error) when it is no stash-box."""
        if self._description is None:
            data, errors = await self._exchange(_DESCRIBE, {})
            closed = [_path(error)[:1] for error in errors]
            if any(path not in (("performer",), ("query",), ("edit",), ("edits",)) for path in closed):
                raise self._refused(errors)
            with json.reading(self.source):
                self._description = _BASELINE if errors else _described(data)
            missing = sorted(_REQUIRED - self._description.performer_fields)
            if missing:
                self._description = None
                raise self._wrong(f"{self._url} is not a stash-box: its interface has no {missing[0]}")
        return self._description

    async def head(self, rows: int, page: int = 1) -> RecordPage[Listed]:
        """The performers changed last, newest first. A page is one statement of the server: it has no gaps."""
        given = {"page": page, "per_page": rows, "sort": "UPDATED_AT", "direction": "DESC"}
        return await self._read_page(partial(self._ask, _HEAD, {"input": given}), self._listed)

    async def records(self, direction: Direction) -> AsyncGenerator[RecordPage[PerformerRecord], None]:
        """All live performers, page by page in the order of their names."""
        async with aclosing(self._walk(partial(self.records_page, direction), self.records_a_page)) as pages:
            async for page in pages:
                yield page

    async def listing(
        self, direction: Direction, *, brief: bool = False
    ) -> AsyncGenerator[RecordPage[Listed], None]:
        """All live performers by id, last change, merged ids and image ids, in the order of their names.

        A `brief` list has ids and last changes alone.
        """
        wanted = _BRIEF if brief else _LISTED
        ask = partial(self._listing_page, wanted, direction)
        async with aclosing(self._walk(ask, self.listed_a_page)) as pages:
            async for page in pages:
                yield page

    async def records_page(self, direction: Direction, size: int, number: int) -> RecordPage[PerformerRecord]:
        """One page of `records`. When the page breaks, or its answer, its performers are asked for alone."""
        selection = await self._selection(_SELECTION)
        try:
            return await self._read_page(
                partial(self._ask_page, selection, direction, size, number), self._record
            )
        except SourceError as error:
            if not (isinstance(error, _RowsError) or may_be_of_the_item(error)):
                raise
            listed = await self._listing_page(_BRIEF, direction, size, number)
        details = await self.details([row.source_id for row in listed.rows])
        return RecordPage(listed.count, tuple(details.records.values()), (*listed.unread, *details.unread))

    async def details(self, source_ids: Sequence[str]) -> Details:
        """Single performers, deleted ones too. An error of the server about one of them is not an absence.

        When a request for several of them fails, and the server answers otherwise, they are asked for in smaller parts.
        """
        records: dict[str, PerformerRecord] = {}
        absent: set[str] = set()
        unread: list[UnreadRecord] = []
        selection = await self._selection(_SELECTION)
        batches = [
            source_ids[start : start + self.details_a_request]
            for start in range(0, len(source_ids), self.details_a_request)
        ]
        asked = [partial(self._ask_details_in_parts, selection, batch) for batch in batches]
        async with aclosing(ordered_prefetch(asked)) as answers:
            for batch in batches:
                data, failed = await anext(answers)
                for number, source_id in enumerate(batch):
                    alias = f"p{number}"
                    if data.get(alias) is not None:
                        answer = self._asked_for(source_id, data[alias])
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
        """What applied DESTROY and MERGE edits closed since then removed; nothing where edits are not told."""
        if not (await self.describe()).has_edits:
            return Removals(frozenset(), None)
        removed: set[str] = set()
        newest: datetime | None = None
        wanted, page = dict(_EDIT_QUERIES), 1
        while wanted:
            data = await self._ask_edits(wanted, page)
            with json.reading(self.source):
                for operation in list(wanted):
                    edits = _Edits.of(data, operation, self.left_out)
                    removed |= edits.removed
                    newest = max(filter(None, (newest, *edits.closed)), default=None)
                    passed = since is not None and any(closed < since for closed in edits.closed)
                    if passed or not edits.rows or page * _EDITS_A_PAGE >= edits.count:
                        del wanted[operation]
            page += 1
        return Removals(frozenset(removed), newest)

    async def changes(self, since: datetime) -> list[Change]:
        """The changelog from `since` on, tombstones included. Only where `describe` shows one."""
        changes: list[Change] = []
        moment, after = since.isoformat().replace("+00:00", "Z"), None
        while True:
            variables = {"since": moment, "after": after, "limit": _CHANGES_A_PAGE}
            data = await self._ask(_CHANGES, variables)
            with json.reading(self.source):
                entries = json.sequence(data, "performerChangelog", "the answer")
            rows = [change for entry in entries if (change := _change(entry)) is not None]
            if len(rows) < len(entries):
                self.left_out["performerChangelog"] += len(entries) - len(rows)
            # Without an entry that can be read nothing tells from where to go on; the next sweep finds the rest.
            if not rows:
                return changes
            if (rows[-1][0], rows[-1][1].source_id) == (moment, after):
                raise self._wrong("the changelog does not go on")
            changes += [change for _, change in rows]
            moment, after = rows[-1][0], rows[-1][1].source_id

    # --- asking -----------------------------------------------------------------------------------

    async def _listing_page(
        self, wanted: Mapping[str, str], direction: Direction, size: int, number: int
    ) -> RecordPage[Listed]:
        selection = await self._selection(wanted)
        return await self._read_page(
            partial(self._ask_page, selection, direction, size, number), self._listed
        )

    async def _selection(self, wanted: Mapping[str, str]) -> str:
        fields = (await self.describe()).performer_fields
        return " ".join(f"{name}{inner}" for name, inner in wanted.items() if name in fields)

    async def _ask_page(
        self, selection: str, direction: Direction, size: int, number: int
    ) -> Mapping[str, Any]:
        query = (
            "query Performers($input: PerformerQueryInput!) "
            f"{{ queryPerformers(input: $input) {{ count performers {{ {selection} }} }} }}"
        )
        given = {"page": number, "per_page": size, "sort": "NAME", "direction": direction}
        return await self._ask(query, {"input": given})

    async def _ask_details_in_parts(self, selection: str, batch: Sequence[str]) -> _Details:
        """As _ask_details; a performer whose answer breaks off is among the failed ones."""
        try:
            return await self._ask_details(selection, batch)
        except SourceError as error:
            if not may_be_of_the_item(error):
                raise
            await self.head(1)
            return await self._ask_parts(selection, batch, error)

    async def _ask_parts(self, selection: str, batch: Sequence[str], failure: SourceError) -> _Details:
        """The parts of a batch that failed, each asked for once. Raises `failure` when too many fail alone, one after
        the other.
        """
        data: dict[str, Any] = {}
        failed: set[str] = set()
        broken = 0
        waiting = [(0, len(batch))]
        while waiting:
            start, end = waiting.pop()
            if (start, end) != (0, len(batch)) or len(batch) == 1:
                try:
                    found, missing = await self._ask_details(selection, batch[start:end], never)
                except SourceError as error:
                    if not may_be_of_the_item(error):
                        raise
                else:
                    broken = 0
                    data |= {f"p{start + number}": found.get(f"p{number}") for number in range(end - start)
                             if f"p{number}" in found}  # fmt: skip
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

    async def _ask_details(
        self, selection: str, batch: Sequence[str], may_retry: MayRetry | None = None
    ) -> _Details:
        """Data by alias `p0`, `p1`, ..., and the aliases that the server reports errors for."""
        variables = {f"i{number}": source_id for number, source_id in enumerate(batch)}
        declared = ", ".join(f"${name}: ID!" for name in variables)
        asked = " ".join(
            f"p{number}: findPerformer(id: $i{number}) {{ ...F }}" for number in range(len(batch))
        )
        query = f"query Details({declared}) {{ {asked} }} fragment F on Performer {{ {selection} }}"
        data, errors = await self._exchange(query, variables, may_retry)
        paths = [_path(error) for error in errors]
        if not all(paths):
            raise self._refused(errors)
        return data, frozenset(path[0] for path in paths)

    async def _ask_edits(self, wanted: Mapping[str, str], page: int) -> Mapping[str, Any]:
        declared = ", ".join(f"${operation}: EditQueryInput!" for operation in wanted)
        asked = " ".join(f"{name}: queryEdits(input: ${name}) {inner}" for name, inner in wanted.items())
        variables = {
            operation: {
                "operation": operation,
                "applied": True,
                "target_type": "PERFORMER",
                "sort": "CLOSED_AT",
                "direction": "DESC",
                "page": page,
                "per_page": _EDITS_A_PAGE,
            }
            for operation in wanted
        }
        data, errors = await self._exchange(f"query Edits({declared}) {{ {asked} }}", variables)
        # The target of an old edit may be gone for good, which the server reports as an error of that field.
        if any("target" not in _path(error) and "merge_sources" not in _path(error) for error in errors):
            raise self._refused(errors)
        return data

    async def _ask(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data of an answer without errors."""
        for attempt in range(1, _TRIES + 1):
            data, errors = await self._exchange(query, variables)
            if not errors:
                return data
            if any(_path(error)[:2] == ("queryPerformers", "performers") for error in errors):
                raise _RowsError(
                    self.source, Outcome.PARSE_ERROR, f"the server failed: {self._said(errors[0])}"
                )
            if attempt == _TRIES:
                raise self._refused(errors)
        raise AssertionError("unreachable")

    async def _exchange(
        self, query: str, variables: Mapping[str, Any], may_retry: MayRetry | None = None
    ) -> _Answer:
        """Data (empty when null) and errors of one question; a refused key is raised at once."""
        payload = {"query": query, "variables": variables}
        try:
            response = await self.client.post_json(
                self._url, payload, headers=self._headers, may_retry=may_retry
            )
        except HttpStatusError as error:
            raise self._status(error) from error
        answer = response.json()
        if not isinstance(answer, dict) or not ("data" in answer or "errors" in answer):
            raise self._wrong(f"{self._url} did not give a GraphQL answer; is it a stash-box?")
        with json.reading(self.source):
            found = json.sequence(answer, "errors", "the answer") if answer.get("errors") is not None else ()
            errors = [json.mapping(error, "an error") for error in found]
            data = json.mapping(answer.get("data") or {}, "data")
        if any(_message(error).lower() == "not authorized" for error in errors):
            raise SourceError(self.source, Outcome.BLOCKED, _KEY_REFUSED)
        if not data and not errors:
            raise self._wrong("the server answered neither data nor errors")
        return data, errors

    def _status(self, error: HttpStatusError) -> SourceError:
        if error.status == _HTTP_UNAUTHORIZED:
            return SourceError(self.source, Outcome.BLOCKED, _KEY_REFUSED)
        if error.outcome.is_answer or error.outcome is Outcome.PARSE_ERROR:
            return self._wrong(
                f"{self._url} did not accept a stash-box question (status {error.status}); is it a stash-box?"
            )
        return error

    def _refused(self, errors: Sequence[Mapping[str, Any]]) -> SourceError:
        return self._wrong(f"the server failed: {self._said(errors[0])}")

    def _said(self, error: Mapping[str, Any]) -> str:
        """The message of an error of the server. Some servers repeat the key that they refuse."""
        # Cut at its end only without the key: a part of that would stay.
        return redacted(_message(error), [self._api_key])[:200]

    def _wrong(self, message: str) -> SourceError:
        return SourceError(self.source, Outcome.PARSE_ERROR, message)

    async def _walk(
        self, ask: Callable[[int, int], Coroutine[Any, Any, RecordPage[Row]]], size: int
    ) -> AsyncGenerator[RecordPage[Row], None]:
        """Pages in order, some of them asked for ahead, until as many rows came as the server counts.

        Servers up to v0.6.17 give at most 100 rows a page without saying so, so a short first page sets the
        size of the next ones, and a short page never ends the walk.
        """
        page = await ask(size, 1)
        got = page.length
        yield page
        if 0 < got < min(size, page.count):
            size = got
        seen, number = got, 2
        # The count can be wrong by any factor: nothing is made for pages that are not asked for, and the walk ends at a
        # page that is empty, or that a server repeats past its end.
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

    # --- reading ----------------------------------------------------------------------------------

    async def _read_page(
        self, ask: Callable[[], Coroutine[Any, Any, Mapping[str, Any]]], read: Callable[[Any], Row]
    ) -> RecordPage[Row]:
        """A page; one of several rows of which none can be read is asked for once more."""
        page = self._page(await ask(), read)
        if page.rows or page.length <= 1:
            return page
        return self._page(await ask(), read)

    def _page(self, data: Mapping[str, Any], read: Callable[[Any], Row]) -> RecordPage[Row]:
        with json.reading(self.source):
            result = json.mapping(data.get("queryPerformers"), "queryPerformers")
            rows = json.sequence(result, "performers", "queryPerformers")
            count = json.count(result, "count", "queryPerformers")
        return RecordPage(count, *read_rows(rows, read))

    def _asked_for(self, source_id: str, row: Any) -> PerformerRecord | UnreadRecord:
        try:
            record = self._record(row)
        except json.FieldError as error:
            return replace(unread_row(row, str(error)), label=source_id, source_id=source_id)
        if record.source_id != source_id:
            return UnreadRecord(source_id, ANOTHER_ANSWERED, source_id)
        return record

    def _listed(self, row: Any) -> Listed:
        row = json.mapping(row, "it")
        fields = Fields(row, self.left_out)
        return Listed(
            source_id=record_id(row.get("id")),
            updated=fields.moment("updated"),
            merged_ids=fields.each("merged_ids", optional_id),
            image_ids=None if row.get("images") is None else frozenset(fields.each("images", _id_of_item)),
        )

    def _record(self, row: Any) -> PerformerRecord:
        row = json.mapping(row, "it")
        fields = Fields(row, self.left_out)
        deleted = json.flag(row, "deleted", "it")
        images = unique_images(fields.each("images", _image))
        merged_into = row.get("merged_into_id")
        return PerformerRecord(
            source_id=record_id(row.get("id")),
            name=required_text(row.get("name"), "its name"),
            disambiguation=fields.one("disambiguation", text),
            aliases=fields.each("aliases", text),
            gender=fields.one("gender", enumeration),
            birth_date=fields.date("birth_date", birth_date),
            death_date=fields.date("death_date", death_date),
            country=fields.one("country", label),
            ethnicity=fields.one("ethnicity", enumeration),
            eye_color=fields.one("eye_color", enumeration),
            hair_color=fields.one("hair_color", enumeration),
            height_cm=fields.number("height", _height),
            career_start_year=fields.number("career_start_year", year),
            career_end_year=fields.number("career_end_year", year),
            urls=fields.each("urls", _link_of_item),
            images=images,
            # The list is never null, so a null says nothing about the images.
            keeps_images=row.get("images") is None or fields.has_lost("images"),
            merged_ids=fields.each("merged_ids", optional_id),
            created_at=fields.moment("created"),
            updated_at=fields.moment("updated"),
            deleted=deleted,
            # Only of a deleted record does it matter, and then another id would name another person.
            merged_into=record_id(merged_into, "the id it was merged into")
            if deleted and merged_into is not None
            else fields.one("merged_into_id", optional_id),
            raw=drop_private_fields(
                {key: sorted(fields.each(key, _place)) for key in _UNMODELLED if row.get(key)}
            ),
        )


@dataclass(frozen=True)
class _Edits:
    """A page of applied edits of one operation."""

    count: int
    rows: Sequence[Any]
    closed: Sequence[datetime]
    removed: frozenset[str]

    @classmethod
    def of(cls, data: Mapping[str, Any], operation: str, left_out: Counter[str]) -> _Edits:
        """Edits are hints, so one that cannot be read is left out: a sweep finds what it removed."""
        result = json.mapping(data.get(operation), operation)
        rows = json.sequence(result, "edits", operation)
        removed: set[str] = set()
        closed: list[datetime] = []
        for row in rows:
            if not isinstance(row, dict):
                left_out["edits"] += 1
                continue
            fields = Fields(row, left_out)
            time = fields.moment("closed") or fields.moment("created")
            closed += [time] if time is not None else []
            target = fields.one("target", _id_of_item)
            removed.update({target} if target is not None else (), fields.each("merge_sources", _id_of_item))
        return cls(json.count(result, "count", operation), rows, closed, frozenset(removed))


def _described(data: Mapping[str, Any]) -> ServerDescription:
    """The answer to `_DESCRIBE`; without fields when it is not the interface of a stash-box."""
    queries = _names(data.get("query"), "fields")
    version = data.get("version")
    has_both = {"findPerformer", "queryPerformers"} <= queries
    return ServerDescription(
        version=label(version.get("version")) if isinstance(version, dict) else None,
        performer_fields=_names(data.get("performer"), "fields") if has_both else frozenset(),
        has_edits="queryEdits" in queries
        and _names(data.get("edit"), "fields") >= _EDIT_FIELDS
        and _names(data.get("edits"), "inputFields") >= _EDIT_FILTERS,
        has_changelog="performerChangelog" in queries,
    )


def _names(described: Any, key: str) -> frozenset[str]:
    """The names that introspection lists under `key` of a type; empty for a type that is not there."""
    if described is None:
        return frozenset()
    entries = json.sequence(json.mapping(described, "a type"), key, "a type")
    return frozenset(json.text(entry, "name", key) for entry in entries)


def _path(error: Mapping[str, Any]) -> tuple[str, ...]:
    """The path of a GraphQL error without list positions; empty when it has none."""
    path = error.get("path")
    return tuple(step for step in path if isinstance(step, str)) if isinstance(path, list) else ()


def _message(error: Mapping[str, Any]) -> str:
    return clean_text(str(error.get("message"))[:_MOST_SAID])


def _change(row: Any) -> tuple[str, Change] | None:
    """An entry of the changelog, and its time as the server wrote it: it is sent back to go on from there.

    None for one that cannot be read.
    """
    try:
        entry = json.mapping(row, "a change")
        moment = json.text(entry, "updated_at", "a change")
        deleted = json.flag(entry, "deleted", "a change")
        return moment, Change(record_id(entry.get("id")), instant(moment), deleted)
    except ValueError:
        return None


def _height(value: Any) -> int | None:
    return whole(value, SHORTEST_CM, TALLEST_CM)


def _id_of_item(item: Any) -> str | None:
    return optional_id(item.get("id")) if isinstance(item, dict) else None


def _link_of_item(item: Any) -> str | None:
    return link(item.get("url") if isinstance(item, dict) else item)


def _image(item: Any) -> ImageRecord | None:
    """None for an image without an id or an address: it could be neither known again nor fetched."""
    if not isinstance(item, dict):
        return None
    image_id, url = optional_id(item.get("id")), address(item.get("url"))
    if image_id is None or url is None:
        return None
    # The server says -1 by -1 for a vector drawing.
    return ImageRecord(image_id, url.split("?")[0], side(item.get("width")), side(item.get("height")))


def _place(item: Any) -> str | None:
    """Of a tattoo or piercing: the place on the body."""
    return text(item.get("location")) if isinstance(item, dict) else None
