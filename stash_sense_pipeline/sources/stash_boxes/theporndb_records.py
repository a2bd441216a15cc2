"""Reads performer records from the JSON of ThePornDB."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stash_sense_pipeline.privacy.intake.data_minimisation import drop_private_fields
from stash_sense_pipeline.records.performer_record import (
    ImageRecord,
    PerformerRecord,
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

# ThePornDB describes tattoos and piercings in free text, from which no place can be read. They are not stored.
_FREE_TEXTS = ("tattoos", "piercings")
# Fields that the record models, fields that change without a change of the performer, and addresses of images.
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
        *_FREE_TEXTS,
    }
)


_EXTRAS_NOT_RAW = frozenset(
    {
        *("gender", "birthday", "birthday_timestamp", "deathday", "deathday_timestamp", "ethnicity"),
        *("hair_colour", "eye_colour", "height", "career_start_year", "career_end_year", "links"),
        *_FREE_TEXTS,
    }
)


_CENTIMETRES = re.compile(r"(\d{2,3})\s*(?:cm)?", re.IGNORECASE)


_COUNTRY = re.compile(r"([A-Za-z]{2})(?:-.*)?")


def read_record(row: Any, left_out: Counter[str]) -> PerformerRecord | None:
    """A parent performer; None for a site performer. Raises FieldError for one without a valid id or name."""
    row = json.mapping(row, "it")
    if row.get("is_parent") in (False, "0", "false"):
        return None
    source_id = record_id(row.get("id"), numbers=True)
    name = required_text(row.get("name"), "its name")
    fields = Fields(row, left_out)
    stated = row.get("extras")
    extras = stated if isinstance(stated, dict) else {}
    if not isinstance(stated, dict) and not is_blank(stated):
        fields.lose("extras")
    facts = Fields(extras, left_out)
    children = fields.objects("site_performers")
    images = unique_images([*_images(row, "", fields), *_images_of(children, left_out)])
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
        raw=drop_private_fields(clean_raw(_unmodelled(row, extras), left_out)),
    )


def _images_of(children: Sequence[Mapping[str, Any]], left_out: Counter[str]) -> Iterator[ImageRecord]:
    for child in children:
        yield from _images(child, "site-", Fields(child, left_out))


def id_in(row: Any, key: str) -> str | None:
    """The id under `key`, a text or a number; None for an unusable one."""
    return optional_id(row.get(key), numbers=True) if isinstance(row, dict) else None


def _unmodelled(row: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    number = id_in(row, "_id")
    return {
        **{key: row[key] for key in row if key not in _NOT_RAW and key != "_id"},
        **({"_id": number} if number is not None else {}),
        "extras": {
            key: value for key, value in extras.items() if key not in _EXTRAS_NOT_RAW and value is not None
        },
    }


def _height(value: Any) -> int | None:
    """The height in centimetres, from `170` or `170cm`."""
    match = _CENTIMETRES.fullmatch(text(value) or "")
    return whole(match[1], SHORTEST_CM, TALLEST_CM) if match else None


def _gender(value: Any) -> str | None:
    """The gender in the notation of stash-box: `Trans Female` is TRANSGENDER_FEMALE."""
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
    """The links. The field maps sites to an address or a list of addresses; it is an empty list without links."""
    stated = [
        each for value in facts.items("links") for each in (value if isinstance(value, list) else [value])
    ]
    known = [each for each in stated if not is_blank(each)]
    links = [found for each in known if (found := link(each)) is not None]
    if len(links) < len(known):
        facts.lose("links", len(known) - len(links))
    return tuple(dict.fromkeys(links))


def _images(row: Mapping[str, Any], prefix: str, fields: Fields) -> Iterator[ImageRecord]:
    """Posters by number; the main image unless it is a poster; the cropped face if there is no other image."""
    addresses = set()
    for poster in fields.objects("posters"):
        url, number = address(poster.get("url")), id_in(poster, "id")
        if url is None or number is None:
            fields.lose("posters")
            continue
        addresses.add(url)
        yield ImageRecord(f"{prefix}poster-{number}", url)
    owner = id_in(row, "_id") or id_in(row, "id")
    for kind in ("image", "face"):
        url = fields.one(kind, address)
        if (
            url is not None
            and owner is not None
            and url not in addresses
            and not (kind == "face" and addresses)
        ):
            addresses.add(url)
            # These have no number: a different file name means a different image.
            digest = hashlib.sha256(url.split("?")[0].rpartition("/")[2].encode()).hexdigest()[:8]
            yield ImageRecord(f"{prefix}{kind}-{owner}-{digest}", url)
