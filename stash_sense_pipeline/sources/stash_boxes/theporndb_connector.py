"""Connector for the REST interface of ThePornDB.

It knows no catalog."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any
from urllib.parse import quote

from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.privacy.intake.data_minimisation import drop_private_fields
from stash_sense_pipeline.records.performer_record import (
    ImageRecord,
    PerformerRecord,
    UnreadRecord,
    unique_images,
)
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date
from stash_sense_pipeline.sources.cleaning.fields import Fields
from stash_sense_pipeline.sources.cleaning.ids import optional_id, record_id
from stash_sense_pipeline.sources.cleaning.numbers import SHORTEST_CM, TALLEST_CM, whole, year
from stash_sense_pipeline.sources.cleaning.raw_values import clean_raw
from stash_sense_pipeline.sources.cleaning.text import clean_texts, enumeration, is_blank, required_text, text
from stash_sense_pipeline.sources.http.ordered_prefetch import ordered_prefetch
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import MayRetry
from stash_sense_pipeline.sources.stash_boxes.item_failures import (
    MOST_BROKEN_IN_A_ROW,
    may_be_of_the_item,
    never,
)
from stash_sense_pipeline.sources.unread import NOT_ANSWERED, read_rows, unread_row

# No list is longer than this, whatever it should hold.
_LIST_CAP = 10_000
_A_PAGE = 100
# A page that fails is asked for in parts: of ten rows, and the parts that fail row by row.
_PART = 10
# Lists that reach the cap are split by these filters, one after the other.
_SPLITS: Sequence[tuple[str, Sequence[str]]] = (
    ("letter", "abcdefghijklmnopqrstuvwxyz0123456789"),
    ("gender", ("Female", "Male", "Trans Female", "Trans Male", "Transgender Female", "Transgender Male")),
    ("ethnicity", ("Caucasian", "Asian", "Black", "Latin", "Indian", "Middle Eastern", "Mixed", "Other")),
)
# Modelled by the record, changing without a change of the person, or addresses of pictures.
_NOT_RAW = frozenset(
    {
        *(
            "id",
            "name",
            "disambiguation",
            "aliases",
            "image",
            "thumbnail",
            "face",
            "posters",
            "site_performers",
        ),
        *("rating", "is_parent", "extras"),
    }
)
_EXTRAS_NOT_RAW = frozenset(
    {
        *("gender", "birthday", "birthday_timestamp", "deathday", "deathday_timestamp", "ethnicity"),
        *("hair_colour", "eye_colour", "height", "career_start_year", "career_end_year", "links"),
    }
)
_CENTIMETRES = re.compile(r"(\d{2,3})\s*(?:cm)?", re.IGNORECASE)
_COUNTRY = re.compile(r"([A-Za-z]{2})(?:-.*)?")
_UNAUTHORIZED = 401
_LIST = "/performers"
_KEY_REFUSED = "the server refused the key (expired or wrong)"


@dataclass(frozen=True)
class RestPage:
    """A page of a list as it came. `total` is cut at 10,000. `is_past_end`: the server repeated its last page instead.

    `broken` are the numbers of rows of the list for which the server gave no answer, from 1.
    """

    total: int
    size: int
    is_past_end: bool
    rows: tuple[Any, ...]
    broken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Performers:
    """The performers of one page, and the rows of it that cannot be read."""

    rows: tuple[PerformerRecord, ...]
    unread: tuple[UnreadRecord, ...] = ()


class ThePornDbConnector:
    """ThePornDB. All methods raise SourceError. Only parents are people; site performers add to their parent.

    `left_out` counts by field what was left out of records because it cannot be used.
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

    async def everyone(self) -> AsyncGenerator[Performers, None]:
        """All performers, page by page; many come more than once. Long lists are read from both ends and split."""
        async with aclosing(self._part({}, 0, frozenset())) as pages:
            async for records in pages:
                yield records

    async def recently_updated(self) -> AsyncGenerator[Performers, None]:
        """Performers by their last change, newest first, as far as the list goes. It has no times."""
        async with aclosing(self._walk(_LIST, {"orderBy": "recently_updated"}, under_way=1)) as pages:
            async for page in pages:
                yield self._records(page)

    async def changed_since(self, day: date) -> frozenset[str] | None:
        """Ids of performers changed on that day or later; None where the server does not tell."""
        changed: set[str] = set()
        try:
            async with aclosing(self._walk("/changes/performers", {"from": day.isoformat()})) as pages:
                async for page in pages:
                    ids = [_id_of(row, "uuid") for row in page.rows]
                    changed.update(source_id for source_id in ids if source_id is not None)
        except HttpStatusError as error:
            if error.outcome.is_answer or error.outcome is Outcome.PARSE_ERROR:
                return None
            raise
        return frozenset(changed)

    async def check_answering(self) -> None:
        """Asks for one row of the list. Raises SourceError when the server does not answer that either."""
        await self._page(_LIST, {"orderBy": "asc_name"}, 1, 1)

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
            return self._record(row)
        except json.FieldError as error:
            return unread_row(row, str(error), numbers=True)

    # --- asking -----------------------------------------------------------------------------------

    async def _part(
        self, filters: Mapping[str, str], depth: int, parent: frozenset[str]
    ) -> AsyncGenerator[Performers, None]:
        """All performers that pass `filters`. A filter that changes nothing (`parent` ids again) is not followed."""
        first = await self._page_in_parts(_LIST, {"orderBy": "asc_name", **filters}, 1)
        ids = frozenset(str(_id_of(row, "id")) for row in first.rows)
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
                async with aclosing(self._part({**filters, name: value}, depth + 1, ids)) as parts:
                    async for records in parts:
                        yield records

    async def _walk(
        self, path: str, filters: Mapping[str, str], under_way: int = 4
    ) -> AsyncGenerator[RestPage, None]:
        """The pages of a list. Past its end the server answers with the last page again."""
        first = await self._page_in_parts(path, filters, 1)
        yield first
        last = -(-first.total // first.size) if first.size else 1
        # As an iterator: the total can be any number.
        questions = (partial(self._page_in_parts, path, filters, number) for number in range(2, last + 1))
        async with aclosing(ordered_prefetch(questions, under_way)) as pages:
            async for page in pages:
                if page.is_past_end or not (page.rows or page.broken):
                    return
                yield page

    async def _page_in_parts(self, path: str, filters: Mapping[str, str], number: int) -> RestPage:
        """A page of a list. When it fails, and the server answers otherwise, it is asked for in smaller parts."""
        try:
            return await self._page(path, filters, number)
        except SourceError as error:
            if path != _LIST or not may_be_of_the_item(error):
                raise
            await self.check_answering()
            return await self._parts(path, filters, number, error)

    async def _parts(
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
                if not may_be_of_the_item(error):
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
                raise SourceError(self.source, Outcome.BLOCKED, _KEY_REFUSED) from error
            raise
        with json.reading(self.source):
            return json.mapping(response.json(), "the answer")

    # --- reading ----------------------------------------------------------------------------------

    def _records(self, page: RestPage) -> Performers:
        rows, unread = read_rows(page.rows, self._record, numbers=True)
        broken = (UnreadRecord(f"row {number} of the list", NOT_ANSWERED) for number in page.broken)
        return Performers(rows, (*unread, *broken))

    def _record(self, row: Any) -> PerformerRecord | None:
        """A person; None for a site performer. Raises FieldError for one without a readable id or name."""
        row = json.mapping(row, "it")
        if row.get("is_parent") in (False, "0", "false"):
            return None
        source_id = record_id(row.get("id"), numbers=True)
        name = required_text(row.get("name"), "its name")
        fields = Fields(row, self.left_out)
        stated = row.get("extras")
        extras = stated if isinstance(stated, dict) else {}
        if not isinstance(stated, dict) and not is_blank(stated):
            fields.lose("extras")
        facts = Fields(extras, self.left_out)
        children = fields.objects("site_performers")
        images = unique_images([*_images(row, "", fields), *self._images_of(children)])
        return PerformerRecord(
            source_id=source_id,
            name=name,
            disambiguation=fields.one("disambiguation", text),
            aliases=clean_texts([*_aliases(row, fields), *_names_of(children, name)]),
            gender=facts.one("gender", _gender),
            birth_date=facts.date("birthday", birth_date),
            death_date=facts.date("deathday", death_date),
            country=facts.one("birthplace_code", _country),
            ethnicity=facts.one("ethnicity", enumeration),
            eye_color=facts.one("eye_colour", enumeration),
            hair_color=facts.one("hair_colour", enumeration),
            height_cm=facts.number("height", _height),
            career_start_year=facts.number("career_start_year", year),
            career_end_year=facts.number("career_end_year", year),
            urls=_links(facts),
            images=images,
            keeps_images=fields.has_lost("posters") or fields.has_lost("site_performers"),
            raw=drop_private_fields(clean_raw(_unmodelled(row, extras), self.left_out)),
        )

    def _images_of(self, children: Sequence[Mapping[str, Any]]) -> Iterator[ImageRecord]:
        for child in children:
            yield from _images(child, "site-", Fields(child, self.left_out))


def _id_of(row: Any, key: str) -> str | None:
    """An id that is a text, or sometimes a number; None for one that cannot be used."""
    return optional_id(row.get(key), numbers=True) if isinstance(row, dict) else None


def _unmodelled(row: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    number = _id_of(row, "_id")
    return {
        **{key: row[key] for key in row if key not in _NOT_RAW and key != "_id"},
        **({"_id": number} if number is not None else {}),
        "extras": {
            key: value for key, value in extras.items() if key not in _EXTRAS_NOT_RAW and value is not None
        },
    }


def _height(value: Any) -> int | None:
    """Centimetres of `170` or `170cm`."""
    match = _CENTIMETRES.fullmatch(text(value) or "")
    return whole(match[1], SHORTEST_CM, TALLEST_CM) if match else None


def _gender(value: Any) -> str | None:
    """As stash-box writes it: `Trans Female` is TRANSGENDER_FEMALE."""
    gender = enumeration(value)
    if gender is not None and gender.startswith("TRANS"):
        return f"TRANSGENDER_{'FEMALE' if gender.endswith('FEMALE') else 'MALE'}"
    return gender


def _country(value: Any) -> str | None:
    match = _COUNTRY.fullmatch(text(value) or "")
    return match[1].upper() if match else None


def _aliases(row: Mapping[str, Any], fields: Fields) -> Sequence[str]:
    stated = row.get("aliases")
    return stated.split(",") if isinstance(stated, str) else fields.each("aliases", text)


def _names_of(children: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    for child in children:
        called = text(child.get("name"))
        if called is not None and called != name:
            yield called


def _links(facts: Fields) -> tuple[str, ...]:
    """`links` maps sites to addresses, or lists of them, and is an empty list when there are none."""
    stated = [
        each for value in facts.items("links") for each in (value if isinstance(value, list) else [value])
    ]
    known = [each for each in stated if not is_blank(each)]
    links = [found for each in known if (found := link(each)) is not None]
    if len(links) < len(known):
        facts.lose("links", len(known) - len(links))
    return tuple(dict.fromkeys(links))


def _images(row: Mapping[str, Any], prefix: str, fields: Fields) -> Iterator[ImageRecord]:
    """Posters by their number; the main image where it is none of them, and the cut-out face where there is nothing."""
    addresses = set()
    for poster in fields.objects("posters"):
        url, number = address(poster.get("url")), _id_of(poster, "id")
        if url is None or number is None:
            fields.lose("posters")
            continue
        addresses.add(url)
        yield ImageRecord(f"{prefix}poster-{number}", url)
    owner = _id_of(row, "_id") or _id_of(row, "id")
    for kind in ("image", "face"):
        url = fields.one(kind, address)
        if (
            url is not None
            and owner is not None
            and url not in addresses
            and not (kind == "face" and addresses)
        ):
            addresses.add(url)
            # These have no number of their own: another file name is another picture.
            digest = hashlib.sha256(url.split("?")[0].rpartition("/")[2].encode()).hexdigest()[:8]
            yield ImageRecord(f"{prefix}{kind}-{owner}-{digest}", url)
