"""GraphQL queries for stash-box servers, with the fields that each server supports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stash_sense_pipeline.sources import json_fields as json
from stash_sense_pipeline.sources.cleaning.text import label

Direction = Literal["ASC", "DESC"]
# A query and its variables.
Query = tuple[str, Mapping[str, Any]]

EDITS_A_PAGE = 100

# The fields of a performer that are requested. Fields that cost the server a statement for each performer (scene_count,
# scenes, studios, edits) are not. A server without the fields of REQUIRED_FIELDS is not a stash-box; the other fields
# are requested when introspection lists them.
RECORD_FIELDS: Mapping[str, str] = {
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
REQUIRED_FIELDS = frozenset({"id", "name", "aliases", "urls", "images", "deleted", "updated"})
# The fields of a listing, and of a brief one.
LISTED_FIELDS = {"id": "", "updated": "", "merged_ids": "", "images": "{id}"}
BRIEF_FIELDS = {"id": "", "updated": ""}

SAMPLE = """query Sample($input: PerformerQueryInput!) {
  queryPerformers(input: $input) { count performers { images { id } } }
}"""

DESCRIBE = """query Describe {
  performer: __type(name: "Performer") { fields { name } }
  query: __type(name: "Query") { fields { name } }
  edit: __type(name: "Edit") { fields { name } }
  edits: __type(name: "EditQueryInput") { inputFields { name } }
  version { version }
}"""
HEAD = """query Head($input: PerformerQueryInput!) {
  queryPerformers(input: $input) { count performers { id updated } }
}"""
CHANGES = """query Changes($since: Time!, $after: ID, $limit: Int) {
  performerChangelog(since: $since, after_id: $after, limit: $limit) { id updated_at deleted redirect_to }
}"""
_EDIT_FIELDS = frozenset({"closed", "created", "target", "merge_sources"})
_EDIT_FILTERS = frozenset({"operation", "applied", "target_type", "sort", "direction", "page", "per_page"})
REMOVING_OPERATIONS = ("DESTROY", "MERGE")
_EDIT_QUERIES = {
    "DESTROY": "{ count edits { closed created target { ... on Performer { id } } } }",
    "MERGE": "{ count edits { closed created merge_sources { ... on Performer { id } } } }",
}


@dataclass(frozen=True)
class ServerDescription:
    """The features of a server. `version` is None when the server does not report it."""

    version: str | None
    performer_fields: frozenset[str]
    has_edits: bool
    has_changelog: bool


# The features of servers since the end of 2024, assumed for a server that refuses introspection.
BASELINE = ServerDescription(None, frozenset(RECORD_FIELDS), has_edits=True, has_changelog=False)


def described(data: Mapping[str, Any]) -> ServerDescription:
    """The description in the answer to DESCRIBE; without fields when the interface is not that of a stash-box."""
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
    """The names that introspection lists under `key` of a type; empty for a missing type."""
    if described is None:
        return frozenset()
    entries = json.sequence(json.mapping(described, "a type"), key, "a type")
    return frozenset(json.text(entry, "name", key) for entry in entries)


def selection_of(fields: Mapping[str, str], available: Iterable[str]) -> str:
    """The GraphQL selection of those `fields` that are `available`."""
    return " ".join(f"{name}{inner}" for name, inner in fields.items() if name in available)


def page_query(selection: str, direction: Direction, size: int, number: int) -> Query:
    """The query for a page of all live performers in the order of their names."""
    query = (
        "query Performers($input: PerformerQueryInput!) "
        f"{{ queryPerformers(input: $input) {{ count performers {{ {selection} }} }} }}"
    )
    return query, {"input": {"page": number, "per_page": size, "sort": "NAME", "direction": direction}}


def details_query(selection: str, source_ids: Sequence[str]) -> Query:
    """The query for single performers, under the aliases `p0`, `p1`, ..."""
    variables = {f"i{number}": source_id for number, source_id in enumerate(source_ids)}
    declared = ", ".join(f"${name}: ID!" for name in variables)
    asked = " ".join(
        f"p{number}: findPerformer(id: $i{number}) {{ ...F }}" for number in range(len(source_ids))
    )
    return f"query Details({declared}) {{ {asked} }} fragment F on Performer {{ {selection} }}", variables


def edits_query(operations: Iterable[str], page: int) -> Query:
    """The query for a page of the applied edits of some operations (DESTROY, MERGE), newest first."""
    operations = list(operations)
    declared = ", ".join(f"${operation}: EditQueryInput!" for operation in operations)
    asked = " ".join(f"{name}: queryEdits(input: ${name}) {_EDIT_QUERIES[name]}" for name in operations)
    variables = {
        operation: {
            "operation": operation,
            "applied": True,
            "target_type": "PERFORMER",
            "sort": "CLOSED_AT",
            "direction": "DESC",
            "page": page,
            "per_page": EDITS_A_PAGE,
        }
        for operation in operations
    }
    return f"query Edits({declared}) {{ {asked} }}", variables
