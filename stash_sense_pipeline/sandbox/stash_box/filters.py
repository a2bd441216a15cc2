"""The filters of queries, as predicates of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any

from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.field_getters import (
    age_of,
    today_of,
)
from stash_sense_pipeline.sandbox.stash_box.rows import Edit, Link, PerformerRow


def performer_filter(box: Box, wanted: Mapping[str, Any]) -> Callable[[PerformerRow], bool] | None:
    """The filters that the servers apply. Filters that they accept and ignore are ignored here too."""
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
        tests.append(_criterion(lambda row: age_of(row, today_of(box)), wanted["age"]))
    for key, column in (
        ("birthdate", "birth_date"),
        ("deathdate", "death_date"),
        ("disambiguation", "disambiguation"),
        ("country", "country"),
    ):
        if wanted.get(key):
            tests.append(_criterion(attrgetter(column), wanted[key]))
    # The sandbox has no favourites and no scenes, so no performer matches.
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


def edit_filter(wanted: Mapping[str, Any]) -> Callable[[Edit], bool]:
    """The filters that the servers apply to edits."""

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
