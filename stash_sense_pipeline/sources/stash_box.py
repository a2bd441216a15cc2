"""The GraphQL interface of stash-box servers: bytes in, performer records out. It knows no catalog."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from stash_sense_pipeline.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.privacy.minimal import drop_private_fields
from stash_sense_pipeline.privacy.redaction import redacted
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.http import PoliteClient
from stash_sense_pipeline.sources.in_order import in_order
from stash_sense_pipeline.sources.records import (
    ImageRecord,
    PerformerRecord,
    birth_date,
    clean_text,
    clean_texts,
    enumeration,
    instant,
    optional_text,
    partial_date,
    unique_images,
)

Direction = Literal["ASC", "DESC"]
Row = TypeVar("Row")
_Answer = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]

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
class Page(Generic[Row]):
    """One page of an enumeration. `count` is how many there are in all; `unreadable` ids gave an error."""

    count: int
    rows: tuple[Row, ...]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Details:
    """Answers about single performers: records (also deleted ones), ids that do not exist, and no answers."""

    records: Mapping[str, PerformerRecord]
    absent: frozenset[str]
    unreadable: frozenset[str]


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
    """One stash-box server. All methods raise SourceError; the description is read once, at first use."""

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

    async def head(self, rows: int, page: int = 1) -> Page[Listed]:
        """The performers changed last, newest first. A page is one statement of the server: it has no gaps."""
        given = {"page": page, "per_page": rows, "sort": "UPDATED_AT", "direction": "DESC"}
        return self._page(await self._ask(_HEAD, {"input": given}), self._listed)

    async def records(self, direction: Direction) -> AsyncGenerator[Page[PerformerRecord], None]:
        """All live performers, page by page in the order of their names."""
        async with aclosing(self._walk(partial(self.records_page, direction), self.records_a_page)) as pages:
            async for page in pages:
                yield page

    async def listing(
        self, direction: Direction, *, brief: bool = False
    ) -> AsyncGenerator[Page[Listed], None]:
        """All live performers by id, last change, merged ids and image ids, in the order of their names.

        A `brief` list has ids and last changes alone.
        """
        wanted = _BRIEF if brief else _LISTED
        ask = partial(self._listing_page, wanted, direction)
        async with aclosing(self._walk(ask, self.listed_a_page)) as pages:
            async for page in pages:
                yield page

    async def records_page(self, direction: Direction, size: int, number: int) -> Page[PerformerRecord]:
        """One page of `records`. Performers of a page that breaks are asked for alone."""
        selection = await self._selection(_SELECTION)
        try:
            return self._page(await self._ask_page(selection, direction, size, number), self._record)
        except _RowsError:
            listed = await self._listing_page(_BRIEF, direction, size, number)
        details = await self.details([row.source_id for row in listed.rows])
        return Page(listed.count, tuple(details.records.values()), tuple(sorted(details.unreadable)))

    async def details(self, source_ids: Sequence[str]) -> Details:
        """Single performers, deleted ones too. An error of the server about one of them is not an absence."""
        records: dict[str, PerformerRecord] = {}
        absent: set[str] = set()
        unreadable: set[str] = set()
        selection = await self._selection(_SELECTION)
        batches = [
            source_ids[start : start + self.details_a_request]
            for start in range(0, len(source_ids), self.details_a_request)
        ]
        asked = [partial(self._ask_details, selection, batch) for batch in batches]
        async with aclosing(in_order(asked)) as answers:
            for batch in batches:
                data, failed = await anext(answers)
                with json.reading(self.source):
                    for number, source_id in enumerate(batch):
                        alias = f"p{number}"
                        if data.get(alias) is not None:
                            records[source_id] = self._asked_for(source_id, data[alias])
                        elif alias in failed or alias not in data:
                            unreadable.add(source_id)
                        else:
                            absent.add(source_id)
        return Details(records, frozenset(absent), frozenset(unreadable))

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
                    edits = _Edits.of(data, operation)
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
                rows = [_change(row) for row in json.sequence(data, "performerChangelog", "the answer")]
            if not rows:
                return changes
            if (rows[-1][0], rows[-1][1].source_id) == (moment, after):
                raise self._wrong("the changelog does not go on")
            changes += [change for _, change in rows]
            moment, after = rows[-1][0], rows[-1][1].source_id

    # --- asking -----------------------------------------------------------------------------------

    async def _listing_page(
        self, wanted: Mapping[str, str], direction: Direction, size: int, number: int
    ) -> Page[Listed]:
        selection = await self._selection(wanted)
        return self._page(await self._ask_page(selection, direction, size, number), self._listed)

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

    async def _ask_details(
        self, selection: str, batch: Sequence[str]
    ) -> tuple[Mapping[str, Any], frozenset[str]]:
        """Data by alias `p0`, `p1`, ..., and the aliases that the server reports errors for."""
        variables = {f"i{number}": source_id for number, source_id in enumerate(batch)}
        declared = ", ".join(f"${name}: ID!" for name in variables)
        asked = " ".join(
            f"p{number}: findPerformer(id: $i{number}) {{ ...F }}" for number in range(len(batch))
        )
        query = f"query Details({declared}) {{ {asked} }} fragment F on Performer {{ {selection} }}"
        data, errors = await self._exchange(query, variables)
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

    async def _exchange(self, query: str, variables: Mapping[str, Any]) -> _Answer:
        """Data (empty when null) and errors of one question; a refused key is raised at once."""
        payload = {"query": query, "variables": variables}
        try:
            response = await self.client.post_json(self._url, payload, headers=self._headers)
        except HttpStatusError as error:
            raise self._status(error) from error
        answer = response.json()
        if not isinstance(answer, dict) or not ("data" in answer or "errors" in answer):
            raise self._wrong(f"{self._url} did not give a GraphQL answer; is it a stash-box?")
        with json.reading(self.source):
            found = json.optional_sequence(answer, "errors", "the answer") or ()
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
        return redacted(_message(error), [self._api_key])

    def _wrong(self, message: str) -> SourceError:
        return SourceError(self.source, Outcome.PARSE_ERROR, message)

    async def _walk(
        self, ask: Callable[[int, int], Coroutine[Any, Any, Page[Row]]], size: int
    ) -> AsyncGenerator[Page[Row], None]:
        """Pages in order, some of them asked for ahead, until as many rows came as the server counts.

        Servers up to v0.6.17 give at most 100 rows a page without saying so, so a short first page sets the
        size of the next ones, and a short page never ends the walk.
        """
        page = await ask(size, 1)
        got = len(page.rows) + len(page.unreadable)
        yield page
        if 0 < got < min(size, page.count):
            size = got
        seen, number = got, 2
        ahead = range(2, math.ceil(page.count / size) + 1)
        async with aclosing(in_order([partial(ask, size, each) for each in ahead])) as pages:
            async for page in pages:
                seen += len(page.rows) + len(page.unreadable)
                number += 1
                yield page
        while got and seen < page.count:
            page = await ask(size, number)
            got = len(page.rows) + len(page.unreadable)
            seen += got
            number += 1
            if got:
                yield page

    # --- reading ----------------------------------------------------------------------------------

    def _page(self, data: Mapping[str, Any], read: Callable[[Any, str], Row]) -> Page[Row]:
        with json.reading(self.source):
            result = json.mapping(data.get("queryPerformers"), "queryPerformers")
            rows = json.sequence(result, "performers", "queryPerformers")
            read_rows = tuple(
                read(row, f"performer {number} of a page") for number, row in enumerate(rows, start=1)
            )
            return Page(json.whole(result, "count", "queryPerformers"), read_rows)

    def _asked_for(self, source_id: str, row: Any) -> PerformerRecord:
        # No id: the message goes into the run history, which an erasure does not reach.
        record = self._record(row, "a performer that was asked for")
        if record.source_id != source_id:
            raise self._wrong("the server answered another performer than was asked for")
        return record

    def _listed(self, row: Any, where: str) -> Listed:
        row = json.mapping(row, where)
        images = json.optional_sequence(row, "images", where)
        return Listed(
            source_id=json.text(row, "id", where),
            updated=_instant(json.text(row, "updated", where), where),
            merged_ids=tuple(json.texts(row, "merged_ids", where)),
            image_ids=None
            if images is None
            else frozenset(json.text(image, "id", where) for image in images),
        )

    def _record(self, row: Any, where: str) -> PerformerRecord:
        row = json.mapping(row, where)
        created = json.optional_text(row, "created", where)
        name = clean_text(json.text(row, "name", where))
        if not name:
            raise self._wrong(f"{where} has an empty name")
        return PerformerRecord(
            source_id=json.text(row, "id", where),
            name=name,
            disambiguation=optional_text(json.optional_text(row, "disambiguation", where)),
            aliases=clean_texts(json.texts(row, "aliases", where)),
            gender=enumeration(json.optional_text(row, "gender", where)),
            birth_date=birth_date(json.optional_text(row, "birth_date", where)),
            death_date=partial_date(json.optional_text(row, "death_date", where)),
            country=optional_text(json.optional_text(row, "country", where)),
            ethnicity=enumeration(json.optional_text(row, "ethnicity", where)),
            eye_color=enumeration(json.optional_text(row, "eye_color", where)),
            hair_color=enumeration(json.optional_text(row, "hair_color", where)),
            height_cm=json.optional_whole(row, "height", where),
            career_start_year=json.optional_whole(row, "career_start_year", where),
            career_end_year=json.optional_whole(row, "career_end_year", where),
            urls=clean_texts(json.text(url, "url", where) for url in json.sequence(row, "urls", where)),
            images=unique_images(_image(image, where) for image in json.sequence(row, "images", where)),
            merged_ids=tuple(dict.fromkeys(json.texts(row, "merged_ids", where))),
            created_at=_instant(created, where) if created is not None else None,
            updated_at=_instant(json.text(row, "updated", where), where),
            deleted=json.flag(row, "deleted", where),
            merged_into=json.optional_text(row, "merged_into_id", where),
            raw=drop_private_fields({key: _places(row, key, where) for key in _UNMODELLED if row.get(key)}),
        )


@dataclass(frozen=True)
class _Edits:
    """A page of applied edits of one operation."""

    count: int
    rows: Sequence[Any]
    closed: Sequence[datetime]
    removed: frozenset[str]

    @classmethod
    def of(cls, data: Mapping[str, Any], operation: str) -> _Edits:
        result = json.mapping(data.get(operation), operation)
        rows = json.sequence(result, "edits", operation)
        removed: set[str] = set()
        closed = []
        for row in rows:
            edit = json.mapping(row, f"an edit of {operation}")
            time = json.optional_text(edit, "closed", "an edit") or json.text(edit, "created", "an edit")
            closed.append(_instant(time, "an edit"))
            gone = [edit.get("target"), *(json.optional_sequence(edit, "merge_sources", "an edit") or ())]
            removed.update(json.text(target, "id", "an edit") for target in gone if target)
        return cls(
            json.whole(result, "count", operation),
            rows,
            [each for each in closed if each],
            frozenset(removed),
        )


def _described(data: Mapping[str, Any]) -> ServerDescription:
    """The answer to `_DESCRIBE`; without fields when it is not the interface of a stash-box."""
    queries = _names(data.get("query"), "fields")
    version = json.mapping(data.get("version"), "version")
    has_both = {"findPerformer", "queryPerformers"} <= queries
    return ServerDescription(
        version=json.optional_text(version, "version", "version"),
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
    return frozenset(json.text(entry, "name", key) for entry in json.sequence(described, key, "a type"))


def _path(error: Mapping[str, Any]) -> tuple[str, ...]:
    """The path of a GraphQL error without list positions; empty when it has none."""
    path = error.get("path")
    return tuple(step for step in path if isinstance(step, str)) if isinstance(path, list) else ()


def _message(error: Mapping[str, Any]) -> str:
    return clean_text(str(error.get("message")))[:200]


def _instant(text: str, where: str) -> datetime | None:
    try:
        return instant(text)
    except ValueError as error:
        raise json.FieldError(f"{where} has the time {text[:40]!r}") from error


def _change(row: Any) -> tuple[str, Change]:
    """An entry of the changelog, and its time as the server wrote it: it is sent back to go on from there."""
    entry = json.mapping(row, "a change")
    moment = json.text(entry, "updated_at", "a change")
    change = Change(
        json.text(entry, "id", "a change"),
        _instant(moment, "a change"),
        json.flag(entry, "deleted", "a change"),
    )
    return moment, change


def _image(row: Any, where: str) -> ImageRecord:
    image = json.mapping(row, f"an image of {where}")
    width, height = (json.optional_whole(image, key, "an image") for key in ("width", "height"))
    return ImageRecord(
        image_id=json.text(image, "id", "an image"),
        url=json.text(image, "url", "an image").split("?")[0],
        # The server says -1 by -1 for a vector drawing.
        width=width if width and width > 0 else None,
        height=height if height and height > 0 else None,
    )


def _places(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    places = json.sequence(row, key, where)
    return sorted(clean_texts(json.text(place, "location", key) for place in places))
