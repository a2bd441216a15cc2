"""The resolvers of that schema."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from graphql import GraphQLError, GraphQLObjectType, GraphQLResolveInfo, GraphQLSchema, GraphQLUnionType

from stash_sense_pipeline.sandbox.invented.clock import parse_rfc3339, rfc3339
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.fast_execution import Getter, RootResolver
from stash_sense_pipeline.sandbox.stash_box.field_getters import (
    GETTERS,
    Context,
    EditPage,
    EditView,
    PerformerPage,
    PerformerView,
    views_of,
)
from stash_sense_pipeline.sandbox.stash_box.filters import edit_filter, performer_filter
from stash_sense_pipeline.sandbox.stash_box.graphql_schema import stash_box_schema
from stash_sense_pipeline.sandbox.stash_box.orders import PageQuery
from stash_sense_pipeline.sandbox.stash_box.rows import Moment, PerformerRow

_DEFAULT_PER_PAGE = 25


# Queries at the root


def _find_performer(context: Context, arguments: Mapping[str, Any]) -> PerformerView | None:
    row = context.box.find(_uuid(arguments["id"]))
    return None if row is None else views_of(context, [row])[0]


def _query_performers(context: Context, arguments: Mapping[str, Any]) -> PerformerPage:
    wanted = arguments["input"]
    box = context.box
    matches = performer_filter(box, wanted)
    limit, offset = _window(box, wanted["page"], wanted["per_page"])
    count = box.count(matches)
    box.observe(Moment.COUNTED)
    query = PageQuery(wanted["sort"], wanted["direction"] == "DESC", limit, offset, matches)
    rows = box.page(query, context.number)
    return PerformerPage(count, views_of(context, rows))


def _window(box: Box, page: int | None, per_page: int | None) -> tuple[int, int]:
    """LIMIT and OFFSET. A cap is silent, and applies to the offset too."""
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


def _search_performers(context: Context, arguments: Mapping[str, Any]) -> PerformerPage:
    found = _search(context, arguments["term"], (arguments.get("filter") or {}).get("gender"))
    limit, offset = _window(
        context.box, arguments.get("page"), arguments.get("per_page") or arguments.get("limit")
    )
    return PerformerPage(len(found), views_of(context, found[offset : offset + limit]))


def _search_performer(context: Context, arguments: Mapping[str, Any]) -> list[PerformerView]:
    return views_of(context, _search(context, arguments["term"])[: arguments.get("limit") or 10])


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


def _query_edits(context: Context, arguments: Mapping[str, Any]) -> EditPage:
    wanted = arguments["input"]
    limit, offset = _window(context.box, wanted["page"], wanted["per_page"])
    count, edits = context.box.edit_page(
        descending=wanted["direction"] == "DESC", limit=limit, offset=offset, matches=edit_filter(wanted)
    )
    return EditPage(count, [EditView(edit, context) for edit in edits])


def _find_edit(context: Context, arguments: Mapping[str, Any]) -> EditView | None:
    edit = context.box.edits.get(_uuid(arguments["id"]))
    return None if edit is None else EditView(edit, context)


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
    """The resolver for users with the READ role."""

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
# Single fields of edits can fail, which only graphql-core handles.
FAST_ROOTS: Mapping[str, RootResolver] = {
    name: resolver for name, resolver in ROOTS.items() if name not in ("findEdit", "queryEdits")
}


@lru_cache
def executable_schema(*, changelog: bool, legacy: bool) -> GraphQLSchema:
    """The schema with its resolvers."""
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
