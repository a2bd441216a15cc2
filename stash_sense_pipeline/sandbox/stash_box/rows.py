"""The rows and options of a stash-box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import Enum, StrEnum
from typing import Any, NamedTuple

from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.sandbox.invented.pictures import Picture


class ControlError(StashSenseError):
    """A change that a stash-box would refuse, or to something that does not exist."""


class Ties(StrEnum):
    """The order of rows with equal sort values in an order without a tie-breaker.

    `page`: random, but the same for the same page of an unchanged table, like a top-N heap sort: reading all pages misses
    rows, and reading them again misses the same rows. `request`: random for each request. `stable`: by id.
    """

    PAGE = "page"
    REQUEST = "request"
    STABLE = "stable"


class Moment(Enum):
    """The moments of a request at which observers run. The lock is free then, so they may change the box."""

    RECEIVED = "received"  # nothing has been read yet
    COUNTED = "counted"  # between the statement that counts and the one that selects rows
    SELECTED = "selected"  # between the rows and the aliases, links and images that belong to them
    ANSWERED = "answered"  # everything has been read, and the answer has not been sent


@dataclass(frozen=True)
class BoxOptions:
    """The differences between stash-box versions and operators.

    `per_page_cap`: None for v0.7.0 and later; older servers silently cap at 100. `image_max_size`: the size in pixels of
    an image that is requested without `size`; it needs `resizing`.
    """

    version: str = "v0.10.2"
    ties: Ties = Ties.PAGE
    per_page_cap: int | None = None
    changelog: bool = False
    legacy_schema: bool = False
    gzip: bool = True
    resizing: bool = False
    image_max_size: int | None = None


@dataclass(frozen=True, slots=True)
class PerformerRow:
    """The columns of a performer. Times are microseconds since 1970, dates partial ISO text."""

    id: str
    name: str
    created: int
    updated: int
    disambiguation: str | None = None
    gender: str | None = None
    birth_date: str | None = None
    death_date: str | None = None
    ethnicity: str | None = None
    country: str | None = None
    eye_color: str | None = None
    hair_color: str | None = None
    height: int | None = None
    cup_size: str | None = None
    band_size: int | None = None
    waist_size: int | None = None
    hip_size: int | None = None
    breast_type: str | None = None
    career_start_year: int | None = None
    career_end_year: int | None = None
    scene_count: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a performer; `site` is the id of a `Site`."""

    url: str
    site: str


@dataclass(frozen=True, slots=True)
class BodyModification:
    """A tattoo or piercing."""

    location: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Joins:
    """The values of a performer from other tables. The same image may be listed twice."""

    aliases: tuple[str, ...] = ()
    urls: tuple[Link, ...] = ()
    images: tuple[str, ...] = ()
    tattoos: tuple[BodyModification, ...] = ()
    piercings: tuple[BodyModification, ...] = ()


NO_JOINS = Joins()


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An uploaded image. Its bytes never change."""

    id: str
    width: int
    height: int
    picture: Picture
    # The distance of the ratio from 2:3, and the height: the sort key of a performer's images.
    shape: tuple[float, int] = dataclass_field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (abs(self.width / max(self.height, 1) - 2 / 3), self.height))


@dataclass(frozen=True, slots=True)
class BoxSite:
    """A web site that links belong to."""

    id: str
    name: str
    url: str
    created: int


@dataclass(frozen=True, slots=True)
class Edit:
    """An applied edit. `target` may be the id of a performer that was deleted for good."""

    id: str
    operation: str
    status: str
    target: str
    merge_sources: tuple[str, ...]
    details: Mapping[str, Any]
    created: int
    updated: int
    closed: int
    bot: bool = False

    @property
    def order(self) -> tuple[int, str]:
        """The sort key of edits; with the id there are no ties."""
        return (self.closed, self.id)


class Related(NamedTuple):
    """The values of a performer that a second statement reads."""

    joins: Joins
    merged_ids: tuple[str, ...]
    merged_into_id: str | None


_JOIN_FIELDS = frozenset(("aliases", "urls", "images", "tattoos", "piercings"))
_COLUMNS = frozenset(PerformerRow.__dataclass_fields__) - {"id", "created", "updated", "deleted"}


def split_fields(box: str, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits fields into columns of `PerformerRow` and lists of `Joins`. Raises ControlError for an unknown field."""
    columns = {key: value for key, value in fields.items() if key in _COLUMNS}
    joins = {key: tuple(value) for key, value in fields.items() if key in _JOIN_FIELDS}
    unknown = fields.keys() - columns.keys() - joins.keys()
    if unknown:
        raise ControlError(f"{box}: a performer has no {', '.join(sorted(unknown))}")
    if "aliases" in joins:
        joins["aliases"] = tuple(sorted(joins["aliases"], key=str.encode))
    return columns, joins
