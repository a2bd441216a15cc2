"""The resolvers of that schema."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from graphql import GraphQLError, GraphQLObjectType, GraphQLResolveInfo, GraphQLSchema, GraphQLUnionType

from stash_sense_pipeline.sandbox.invented.clock import from_micros, parse_rfc3339, rfc3339
from stash_sense_pipeline.sandbox.stash_box.database import (
    Box,
    BoxSite,
    Edit,
    ImageRow,
    Link,
    Moment,
    PerformerRow,
    Related,
)
from stash_sense_pipeline.sandbox.stash_box.fast_execution import Getter, RootResolver
from stash_sense_pipeline.sandbox.stash_box.graphql_schema import stash_box_schema

_DEFAULT_PER_PAGE = 25
_SHAPE = attrgetter("shape")


@dataclass(frozen=True)
class Context:
    """One request: the box, whether its key was good, and how the client reached the server."""

    box: Box
    authorized: bool
    base_url: str
    number: int = 0


class PerformerView(NamedTuple):
    """A performer's row and what later statements found to it."""

    row: PerformerRow
    related: Related
    context: Context


@dataclass(frozen=True, slots=True)
class _Page:
    count: int
    performers: list[PerformerView]


@dataclass(frozen=True, slots=True)
class _EditPage:
    count: int
    edits: list[_EditView]


@dataclass(frozen=True, slots=True)
class _EditView:
    edit: Edit
    context: Context


@dataclass(frozen=True, slots=True)
class _LinkView:
    url: str
    site: BoxSite


class _ImageView(NamedTuple):
    row: ImageRow
    directory: str


# Fields of a performer


def _images(view: PerformerView) -> list[_ImageView]:
    """Best shape first: nearest to 2:3, then the lowest. Equal ones come as they please."""
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


def _age(row: PerformerRow, today: date) -> int | None:
    if row.birth_date is None:
        return None
    born = (row.birth_date + "-01-01")[:10]
    until = (row.death_date + "-01-01")[:10] if row.death_date else today.isoformat()
    return int(until[:4]) - int(born[:4]) - (until[5:] < born[5:])


def _today(box: Box) -> date:
    return from_micros(box.clock.now()).date()


def _measurements(view: PerformerView) -> dict[str, Any]:
    row = view.row
    return {
        "cup_size": row.cup_size,
        "band_size": row.band_size,
        "waist": row.waist_size,
        "hip": row.hip_size,
    }


def _edit_target(view: _EditView) -> PerformerView:
    row = view.context.box.find(view.edit.target)
    if row is None:
        raise GraphQLError("the target of the edit is gone")
    return _views(view.context, [row])[0]


def _merge_sources(view: _EditView) -> list[PerformerView]:
    box = view.context.box
    return _views(
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
        "age": lambda view: _age(view.row, _today(view.context.box)),
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


# Queries at the root


def _views(context: Context, rows: Sequence[PerformerRow]) -> list[PerformerView]:
    context.box.observe(Moment.SELECTED)
    related = context.box.related([row.id for row in rows])
    return [PerformerView(row, found, context) for row, found in zip(rows, related, strict=True)]


def _find_performer(context: Context, arguments: Mapping[str, Any]) -> PerformerView | None:
    row = context.box.find(_uuid(arguments["id"]))
    return None if row is None else _views(context, [row])[0]


def _query_performers(context: Context, arguments: Mapping[str, Any]) -> _Page:
    wanted = arguments["input"]
    box = context.box
    matches = _performer_filter(box, wanted)
    limit, offset = _window(box, wanted["page"], wanted["per_page"])
    count = box.count(matches)
    box.observe(Moment.COUNTED)
    rows = box.page(
        sort=wanted["sort"],
        descending=wanted["direction"] == "DESC",
        limit=limit,
        offset=offset,
        matches=matches,
        request=context.number,
    )
    return _Page(count, _views(context, rows))


def _window(box: Box, page: int | None, per_page: int | None) -> tuple[int, int]:
    """LIMIT and OFFSET; a cap is silent and moves the offset too."""
    limit = per_page if per_page is not None and per_page > 0 else _DEFAULT_PER_PAGE
    if box.options.per_page_cap is not None:
        limit = min(limit, box.options.per_page_cap)
    return limit, (max(page or 1, 1) - 1) * limit


def _search(context: Context, term: str, gender: str | None = None) -> list[PerformerRow]:
    box, folded = context.box, term.strip().casefold()
    try:
        row = box.find(str(uuid.UUID(term.strip())))
        return [] if row is None else [row]
    except ValueError:
        pass
    with box.lock:
        found = [
            row
            for row in box.performers.values()
            if not row.deleted
            and (gender is None or row.gender == gender)
            and any(folded in name.casefold() for name in (row.name, *box.joins[row.id].aliases))
        ]
    return sorted(found, key=lambda row: (row.name.casefold() != folded, row.name, row.id))


def _search_performers(context: Context, arguments: Mapping[str, Any]) -> _Page:
    found = _search(context, arguments["term"], (arguments.get("filter") or {}).get("gender"))
    limit, offset = _window(
        context.box, arguments.get("page"), arguments.get("per_page") or arguments.get("limit")
    )
    return _Page(len(found), _views(context, found[offset : offset + limit]))


def _search_performer(context: Context, arguments: Mapping[str, Any]) -> list[PerformerView]:
    return _views(context, _search(context, arguments["term"])[: arguments.get("limit") or 10])


def _performer_changelog(context: Context, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        since = parse_rfc3339(arguments["since"])
    except (ValueError, TypeError) as error:
        raise GraphQLError("since is not an RFC 3339 time") from error
    after = arguments.get("after_id")
    rows = context.box.changed_since(since, _uuid(after) if after else None, arguments["limit"])
    return [
        {
            "id": row.id,
            "updated_at": rfc3339(row.updated),
            "deleted": row.deleted,
            "redirect_to": context.box.redirect_of(row.id),
        }
        for row in rows
    ]


def _query_edits(context: Context, arguments: Mapping[str, Any]) -> _EditPage:
    wanted = arguments["input"]
    limit, offset = _window(context.box, wanted["page"], wanted["per_page"])
    count, edits = context.box.edit_page(
        descending=wanted["direction"] == "DESC", limit=limit, offset=offset, matches=_edit_filter(wanted)
    )
    return _EditPage(count, [_EditView(edit, context) for edit in edits])


def _find_edit(context: Context, arguments: Mapping[str, Any]) -> _EditView | None:
    edit = context.box.edits.get(_uuid(arguments["id"]))
    return None if edit is None else _EditView(edit, context)


def _query_sites(context: Context, _: Mapping[str, Any]) -> dict[str, Any]:
    sites = sorted(context.box.sites.values(), key=lambda site: (site.name, site.id))
    return {"count": len(sites), "sites": sites}


def _version(context: Context, _: Mapping[str, Any]) -> dict[str, str]:
    return {
        "version": context.box.options.version,
        "hash": "0000000",
        "build_time": "2026-01-01 00:00:00",
        "build_type": "OFFICIAL",
    }


def _me(context: Context, _: Mapping[str, Any]) -> dict[str, Any] | None:
    if not context.authorized:
        return None
    return {"id": "00000000-0000-4000-8000-000000000001", "name": "sandbox", "roles": ["READ"]}


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise GraphQLError(f"invalid UUID: {text!r}") from error


def _reading(resolver: RootResolver) -> RootResolver:
    """What the READ role guards."""

    def guarded(context: Context, arguments: Mapping[str, Any]) -> Any:
        if not context.authorized:
            raise GraphQLError("not authorized")
        return resolver(context, arguments)

    return guarded


ROOTS: Mapping[str, RootResolver] = {
    "findPerformer": _reading(_find_performer),
    "queryPerformers": _reading(_query_performers),
    "searchPerformer": _reading(_search_performer),
    "searchPerformers": _reading(_search_performers),
    "performerChangelog": _reading(_performer_changelog),
    "findEdit": _reading(_find_edit),
    "queryEdits": _reading(_query_edits),
    "querySites": _reading(_query_sites),
    "version": _reading(_version),
    "me": _me,
}
# Fields of edits can fail one by one, which only graphql-core puts together.
FAST_ROOTS: Mapping[str, RootResolver] = {
    name: resolver for name, resolver in ROOTS.items() if name not in ("findEdit", "queryEdits")
}


@lru_cache
def executable_schema(*, changelog: bool, legacy: bool) -> GraphQLSchema:
    """The schema with the resolvers of this module in it."""
    schema = stash_box_schema(changelog=changelog, legacy=legacy)
    for name, kind in schema.type_map.items():
        if isinstance(kind, GraphQLUnionType):
            kind.resolve_type = _type_of
        if not isinstance(kind, GraphQLObjectType):
            continue
        for field_name, field in kind.fields.items():
            if kind is schema.query_type:
                field.resolve = _root_resolver(ROOTS[field_name])
            elif field_name in GETTERS.get(name, {}):
                field.resolve = _field_resolver(GETTERS[name][field_name])
    return schema


def _type_of(value: Any, *_: Any) -> str:
    return "Performer" if isinstance(value, PerformerView) else "PerformerEdit"


def _root_resolver(resolver: RootResolver) -> Callable[..., Any]:
    def resolve(_: Any, info: GraphQLResolveInfo, **arguments: Any) -> Any:
        return resolver(info.context, arguments)

    return resolve


def _field_resolver(getter: Getter) -> Callable[..., Any]:
    def resolve(value: Any, _: GraphQLResolveInfo) -> Any:
        return getter(value)

    return resolve


# Filters


def _performer_filter(box: Box, wanted: Mapping[str, Any]) -> Callable[[PerformerRow], bool] | None:
    """The filters that the servers apply; those that they accept and ignore are ignored."""
    tests: list[Callable[[PerformerRow], bool]] = []
    if wanted.get("names"):
        part = wanted["names"].casefold()
        tests.append(lambda row: part in row.name.casefold() or part in (row.disambiguation or "").casefold())
    if wanted.get("name"):
        of_name = wanted["name"].casefold()
        tests.append(lambda row: of_name in row.name.casefold())
    if wanted.get("url"):
        tests.append(lambda row: _has_link(box.joins[row.id].urls, wanted["url"]))
    for key in ("gender", "ethnicity"):
        if wanted.get(key):
            tests.append(_enum_test(attrgetter(key), wanted[key]))
    if wanted.get("birth_year"):
        tests.append(
            _criterion(lambda row: int(row.birth_date[:4]) if row.birth_date else None, wanted["birth_year"])
        )
    if wanted.get("age"):
        tests.append(_criterion(lambda row: _age(row, _today(box)), wanted["age"]))
    for key, column in (
        ("birthdate", "birth_date"),
        ("deathdate", "death_date"),
        ("disambiguation", "disambiguation"),
        ("country", "country"),
    ):
        if wanted.get(key):
            tests.append(_criterion(attrgetter(column), wanted[key]))
    # The sandbox has neither favourites nor scenes, so nobody is one or appears in one.
    if wanted.get("is_favorite") or wanted.get("performed_with") or wanted.get("studio_id"):
        tests.append(lambda _: False)
    if not tests:
        return None
    return lambda row: all(test(row) for test in tests)


def _has_link(links: Iterable[Link], url: str) -> bool:
    return any(link.url == url for link in links)


def _enum_test(get: Callable[[PerformerRow], Any], value: str) -> Callable[[PerformerRow], bool]:
    expected = None if value == "UNKNOWN" else value
    return lambda row: bool(get(row) == expected)


def _criterion(
    get: Callable[[PerformerRow], Any], criterion: Mapping[str, Any]
) -> Callable[[PerformerRow], bool]:
    value = criterion["value"]
    compare: Callable[[Any], bool] = {
        "EQUALS": lambda have: have is not None and have == value,
        "NOT_EQUALS": lambda have: have is not None and have != value,
        "GREATER_THAN": lambda have: have is not None and have > value,
        "LESS_THAN": lambda have: have is not None and have < value,
        "IS_NULL": lambda have: have is None,
        "NOT_NULL": lambda have: have is not None,
        "INCLUDES_ALL": lambda have: have is not None and str(value).casefold() in str(have).casefold(),
        "INCLUDES": lambda have: have is not None and str(value).casefold() in str(have).casefold(),
        "EXCLUDES": lambda have: have is None or str(value).casefold() not in str(have).casefold(),
    }[criterion["modifier"]]
    return lambda row: compare(get(row))


def _edit_filter(wanted: Mapping[str, Any]) -> Callable[[Edit], bool]:
    def matches(edit: Edit) -> bool:
        return (
            wanted.get("applied") is not False
            and wanted.get("target_type") in (None, "PERFORMER")
            and wanted.get("operation") in (None, edit.operation)
            and wanted.get("status") in (None, edit.status)
            and wanted.get("target_id") in (None, edit.target)
            and wanted.get("is_bot") in (None, edit.bot)
        )

    return matches
