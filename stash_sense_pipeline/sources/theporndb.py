"""The REST interface of ThePornDB: bytes in, performer records out. It knows no catalog."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from stash_sense_pipeline.errors import HttpStatusError, Outcome, SourceError
from stash_sense_pipeline.privacy.minimal import drop_private_fields
from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.http import PoliteClient
from stash_sense_pipeline.sources.in_order import in_order
from stash_sense_pipeline.sources.records import (
    ImageRecord,
    PerformerRecord,
    birth_date,
    clean_raw,
    clean_text,
    clean_texts,
    enumeration,
    optional_text,
    partial_date,
    unique_images,
)

# No list is longer than this, whatever it should hold.
_LIST_CAP = 10_000
_A_PAGE = 100
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
_YEAR = re.compile(r"(?:18|19|20)\d\d")
_COUNTRY = re.compile(r"([A-Za-z]{2})(?:-.*)?")
_UNAUTHORIZED = 401
_LIST = "/performers"
_KEY_REFUSED = "the server refused the key (expired or wrong)"


@dataclass(frozen=True)
class RestPage:
    """A page of a list. `total` is cut at 10,000. `is_past_end`: the server repeated its last page instead."""

    total: int
    size: int
    is_past_end: bool
    rows: tuple[Mapping[str, Any], ...]


class ThePornDbConnector:
    """ThePornDB. All methods raise SourceError. Only parents are people; site performers add to their parent."""

    def __init__(self, url: str, api_key: str, client: PoliteClient, source: str) -> None:
        """`url` is the address of the REST interface, without a path."""
        self.source = source
        self.client = client
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}

    def image_request(self, url: str) -> tuple[str, dict[str, str]]:
        """Address and headers for the bytes of an image. Images need no key, so none is sent."""
        return url, {}

    async def everyone(self) -> AsyncGenerator[tuple[PerformerRecord, ...], None]:
        """All performers, page by page; many come more than once. Long lists are read from both ends and split."""
        async with aclosing(self._part({}, 0, frozenset())) as pages:
            async for records in pages:
                yield records

    async def recently_updated(self) -> AsyncGenerator[tuple[PerformerRecord, ...], None]:
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
                    with json.reading(self.source):
                        changed.update(_identifier(row, "uuid", "a change") for row in page.rows)
        except HttpStatusError as error:
            if error.outcome.is_answer or error.outcome is Outcome.PARSE_ERROR:
                return None
            raise
        return frozenset(changed)

    async def performer(self, identifier: str) -> PerformerRecord | None:
        """One performer by uuid, number or slug; None when the server does not know it."""
        try:
            answer = await self._get(f"/performers/{identifier}", {})
        except HttpStatusError as error:
            if error.outcome.is_answer:
                return None
            raise
        with json.reading(self.source):
            return self._record(json.mapping(answer.get("data"), "data"), "a performer that was asked for")

    # --- asking -----------------------------------------------------------------------------------

    async def _part(
        self, filters: Mapping[str, str], depth: int, parent: frozenset[str]
    ) -> AsyncGenerator[tuple[PerformerRecord, ...], None]:
        """All performers that pass `filters`. A filter that changes nothing (`parent` ids again) is not followed."""
        first = await self._page(_LIST, {"orderBy": "asc_name", **filters}, 1)
        with json.reading(self.source):
            ids = frozenset(_identifier(row, "id", "a performer") for row in first.rows)
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
        first = await self._page(path, filters, 1)
        yield first
        last = math.ceil(first.total / first.size) if first.size else 1
        questions = [partial(self._page, path, filters, number) for number in range(2, last + 1)]
        async with aclosing(in_order(questions, under_way)) as pages:
            async for page in pages:
                if page.is_past_end:
                    return
                yield page

    async def _page(self, path: str, filters: Mapping[str, str], number: int) -> RestPage:
        try:
            answer = await self._get(path, {**filters, "page": number, "per_page": _A_PAGE})
        except HttpStatusError as error:
            if path == _LIST and error.outcome.is_answer:
                message = f"{self._url} has no list of performers (status {error.status}); is it ThePornDB?"
                raise SourceError(self.source, Outcome.PARSE_ERROR, message) from error
            raise
        with json.reading(self.source):
            rows = [json.mapping(row, "a row") for row in json.sequence(answer, "data", "the answer")]
            meta = json.mapping(answer.get("meta"), "meta")
            return RestPage(
                total=_number(meta, "total"),
                size=_number(meta, "per_page"),
                is_past_end=_number(meta, "current_page") < number,
                rows=tuple(rows),
            )

    async def _get(self, path: str, params: Mapping[str, str | int]) -> Mapping[str, Any]:
        try:
            response = await self.client.get(f"{self._url}{path}", headers=self._headers, params=params)
        except HttpStatusError as error:
            if error.status == _UNAUTHORIZED:
                raise SourceError(self.source, Outcome.BLOCKED, _KEY_REFUSED) from error
            raise
        with json.reading(self.source):
            return json.mapping(response.json(), "the answer")

    # --- reading ----------------------------------------------------------------------------------

    def _records(self, page: RestPage) -> tuple[PerformerRecord, ...]:
        with json.reading(self.source):
            read = [self._record(row, f"performer {at} of a page") for at, row in enumerate(page.rows, 1)]
        return tuple(record for record in read if record is not None)

    def _record(self, row: Mapping[str, Any], where: str) -> PerformerRecord | None:
        """A person; None for a site performer and for an entry without a name."""
        name = optional_text(json.optional_text(row, "name", where))
        if name is None or row.get("is_parent") is False:
            return None
        extras = row.get("extras")
        extras = extras if isinstance(extras, dict) else {}
        children = [
            json.mapping(child, "a site performer")
            for child in json.optional_sequence(row, "site_performers", where) or ()
        ]
        number = row.get("_id")
        return PerformerRecord(
            source_id=_identifier(row, "id", where),
            name=name,
            disambiguation=optional_text(_loose_text(row.get("disambiguation"))),
            aliases=clean_texts([*_aliases(row, where), *_names_of(children, name)]),
            gender=_gender(extras.get("gender")),
            birth_date=birth_date(_loose_text(extras.get("birthday"))),
            death_date=partial_date(_loose_text(extras.get("deathday"))),
            country=_country(extras.get("birthplace_code")),
            ethnicity=enumeration(_loose_text(extras.get("ethnicity"))),
            eye_color=enumeration(_loose_text(extras.get("eye_colour"))),
            hair_color=enumeration(_loose_text(extras.get("hair_colour"))),
            height_cm=_matched(_CENTIMETRES, extras.get("height")),
            career_start_year=_matched(_YEAR, extras.get("career_start_year")),
            career_end_year=_matched(_YEAR, extras.get("career_end_year")),
            urls=clean_texts(_links(extras.get("links"))),
            images=unique_images([*_images(row, "", where), *_images_of(children)]),
            raw=drop_private_fields(
                clean_raw(
                    {
                        **{key: row[key] for key in row if key not in _NOT_RAW},
                        **({"_id": str(number)} if number is not None else {}),
                        "extras": {
                            key: value
                            for key, value in extras.items()
                            if key not in _EXTRAS_NOT_RAW and value is not None
                        },
                    }
                )
            ),
        )


def _identifier(row: Any, key: str, where: str) -> str:
    """An id that is a text, or sometimes a number."""
    value = json.mapping(row, where).get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return json.text(row, key, where)


def _number(meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return json.whole(meta, key, "meta")


def _loose_text(value: Any) -> str | None:
    """A text or a number as text; nothing else is worth a failure here."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _matched(pattern: re.Pattern[str], value: Any) -> int | None:
    match = pattern.fullmatch((_loose_text(value) or "").strip())
    return int(match[1] if match.re.groups else match[0]) if match else None


def _gender(value: Any) -> str | None:
    """As stash-box writes it: `Trans Female` is TRANSGENDER_FEMALE."""
    gender = enumeration(_loose_text(value))
    if gender is not None and gender.startswith("TRANS"):
        return f"TRANSGENDER_{'FEMALE' if gender.endswith('FEMALE') else 'MALE'}"
    return gender


def _country(value: Any) -> str | None:
    match = _COUNTRY.fullmatch((_loose_text(value) or "").strip())
    return match[1].upper() if match else None


def _aliases(row: Mapping[str, Any], where: str) -> list[str]:
    if isinstance(row.get("aliases"), str):
        return json.text(row, "aliases", where).split(",")
    return json.texts(row, "aliases", where)


def _names_of(children: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    for child in children:
        called = clean_text(_loose_text(child.get("name")) or "")
        if called != name:
            yield called


def _links(links: Any) -> Iterator[str]:
    """`links` maps sites to addresses, and is an empty list when there are none."""
    for value in links.values() if isinstance(links, dict) else ():
        for address in value if isinstance(value, list) else [value]:
            if isinstance(address, str):
                yield address


def _images(row: Mapping[str, Any], prefix: str, where: str) -> Iterator[ImageRecord]:
    """Posters by their number; the main image where it is none of them, and the cut-out face where there is nothing."""
    posters = [
        json.mapping(poster, "a poster") for poster in json.optional_sequence(row, "posters", where) or ()
    ]
    addresses = set()
    for poster in posters:
        address = json.optional_text(poster, "url", "a poster")
        if address:
            addresses.add(address)
            yield ImageRecord(f"{prefix}poster-{_identifier(poster, 'id', 'a poster')}", address)
    for kind in ("image", "face"):
        address = _loose_text(row.get(kind))
        if address and address not in addresses and not (kind == "face" and addresses):
            addresses.add(address)
            owner = _identifier(row, "_id" if row.get("_id") is not None else "id", where)
            # These have no number of their own: another file name is another picture.
            digest = hashlib.sha256(address.split("?")[0].rpartition("/")[2].encode()).hexdigest()[:8]
            yield ImageRecord(f"{prefix}{kind}-{owner}-{digest}", address)


def _images_of(children: Sequence[Mapping[str, Any]]) -> Iterator[ImageRecord]:
    for child in children:
        yield from _images(child, "site-", "a site performer")
