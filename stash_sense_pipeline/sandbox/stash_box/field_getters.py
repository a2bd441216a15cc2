"""What each field of the schema's types returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from typing import Any, NamedTuple

from graphql import GraphQLError

from stash_sense_pipeline.sandbox.invented.clock import from_micros, rfc3339
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.fast_execution import Getter
from stash_sense_pipeline.sandbox.stash_box.rows import BoxSite, Edit, ImageRow, Moment, PerformerRow, Related

_SHAPE = attrgetter("shape")


@dataclass(frozen=True)
class Context:
    """One request: the box, whether its API key is valid, and the address of the server."""

    box: Box
    authorized: bool
    base_url: str
    number: int = 0


class PerformerView(NamedTuple):
    """A performer's row, and what later statements found for it."""

    row: PerformerRow
    related: Related
    context: Context


@dataclass(frozen=True, slots=True)
class PerformerPage:
    count: int
    performers: list[PerformerView]


@dataclass(frozen=True, slots=True)
class EditPage:
    count: int
    edits: list[EditView]


@dataclass(frozen=True, slots=True)
class EditView:
    edit: Edit
    context: Context


@dataclass(frozen=True, slots=True)
class _LinkView:
    url: str
    site: BoxSite


class _ImageView(NamedTuple):
    row: ImageRow
    directory: str


def _images(view: PerformerView) -> list[_ImageView]:
    """The images with the ratio nearest to 2:3 first, then the lowest. The order of equal ones differs between requests."""
    context = view.context
    rows = [row for key in view.related.joins.images if (row := context.box.images.get(key)) is not None]
    if context.number % 2:
        rows.reverse()
    rows.sort(key=_SHAPE)
    directory = f"{context.base_url}/images/"
    return [_ImageView(row, directory) for row in rows]


def _links(view: PerformerView) -> list[_LinkView]:
    sites = view.context.box.sites
    return [_LinkView(link.url, sites[link.site]) for link in view.related.joins.urls]


def _fuzzy_date(view: PerformerView) -> dict[str, str] | None:
    text = view.row.birth_date
    if text is None:
        return None
    accuracy = {4: "YEAR", 7: "MONTH", 10: "DAY"}[len(text)]
    return {"date": (text + "-01-01")[:10], "accuracy": accuracy}


def age_of(row: PerformerRow, today: date) -> int | None:
    """The age in years at death, or else today; None without a birth date."""
    if row.birth_date is None:
        return None
    born = (row.birth_date + "-01-01")[:10]
    until = (row.death_date + "-01-01")[:10] if row.death_date else today.isoformat()
    return int(until[:4]) - int(born[:4]) - (until[5:] < born[5:])


def today_of(box: Box) -> date:
    """The date of the box's clock."""
    return from_micros(box.clock.now()).date()


def _measurements(view: PerformerView) -> dict[str, Any]:
    row = view.row
    return {
        "cup_size": row.cup_size,
        "band_size": row.band_size,
        "waist": row.waist_size,
        "hip": row.hip_size,
    }


def _edit_target(view: EditView) -> PerformerView:
    row = view.context.box.find(view.edit.target)
    if row is None:
        raise GraphQLError("the target of the edit is gone")
    return views_of(view.context, [row])[0]


def _merge_sources(view: EditView) -> list[PerformerView]:
    box = view.context.box
    return views_of(
        view.context, [row for key in view.edit.merge_sources if (row := box.find(key)) is not None]
    )


def _items(*names: str) -> dict[str, Getter]:
    return {name: _item_getter(name) for name in names}


def _item_getter(name: str) -> Getter:
    return lambda value: value[name]


def _attributes(*names: str, prefix: str = "") -> dict[str, Getter]:
    return {name: attrgetter(prefix + name) for name in names}


GETTERS: Mapping[str, Mapping[str, Getter]] = {
    "Performer": {
        **_attributes(
            *("id", "name", "disambiguation", "gender", "birth_date", "death_date", "ethnicity", "country"),
            *("eye_color", "hair_color", "height", "cup_size", "band_size", "waist_size", "hip_size"),
            *("breast_type", "career_start_year", "career_end_year", "scene_count", "deleted"),
            prefix="row.",
        ),
        "aliases": lambda view: list(view.related.joins.aliases),
        "urls": _links,
        "images": _images,
        "tattoos": lambda view: view.related.joins.tattoos or None,
        "piercings": lambda view: view.related.joins.piercings or None,
        "merged_ids": lambda view: list(view.related.merged_ids),
        "merged_into_id": attrgetter("related.merged_into_id"),
        "created": lambda view: rfc3339(view.row.created),
        "updated": lambda view: rfc3339(view.row.updated),
        "birthdate": _fuzzy_date,
        "age": lambda view: age_of(view.row, today_of(view.context.box)),
        "measurements": _measurements,
        "is_favorite": lambda _: False,
    },
    "QueryPerformersResultType": _attributes("count", "performers"),
    "FuzzyDate": _items("date", "accuracy"),
    "Measurements": _items("cup_size", "band_size", "waist", "hip"),
    "BodyModification": _attributes("location", "description"),
    "Image": {
        **_attributes("id", "width", "height", prefix="row."),
        "url": lambda view: view.directory + view.row.id,
    },
    "URL": {**_attributes("url", "site"), "type": lambda link: link.site.name.upper()},
    "Site": {
        **_attributes("id", "name", "url"),
        "description": lambda _: None,
        "regex": lambda _: None,
        "valid_types": lambda _: ["PERFORMER"],
        "icon": lambda _: "",
        "category": lambda _: None,
        "highlighted": lambda _: False,
        "created": lambda site: rfc3339(site.created),
        "updated": lambda site: rfc3339(site.created),
    },
    "SiteCategory": _items("id", "name", "description"),
    "QuerySitesResultType": _items("count", "sites"),
    "Version": _items("hash", "build_time", "build_type", "version"),
    "User": _items("id", "name", "roles"),
    "QueryEditsResultType": _attributes("count", "edits"),
    "Edit": {
        **_attributes("id", "operation", "status", "bot", "details", prefix="edit."),
        "target": _edit_target,
        "target_type": lambda _: "PERFORMER",
        "merge_sources": _merge_sources,
        "old_details": lambda _: None,
        "vote_count": lambda _: 0,
        "applied": lambda _: True,
        "created": lambda view: rfc3339(view.edit.created),
        "updated": lambda view: rfc3339(view.edit.updated),
        "closed": lambda view: rfc3339(view.edit.closed),
    },
    "PerformerEdit": _items("name", "disambiguation", "gender", "country"),
    "EntityChange": _items("id", "updated_at", "deleted", "redirect_to"),
}


def views_of(context: Context, rows: Sequence[PerformerRow]) -> list[PerformerView]:
    """The rows with what further statements find for them."""
    context.box.observe(Moment.SELECTED)
    related = context.box.related([row.id for row in rows])
    return [PerformerView(row, found, context) for row, found in zip(rows, related, strict=True)]
