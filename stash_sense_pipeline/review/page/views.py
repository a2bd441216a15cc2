"""What the templates show: a card with its answers, the filters, the progress, the list, the settled decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any
from urllib.parse import urlencode

import jinja2

from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.review.cards import PersonCard
from stash_sense_pipeline.review.decision import KEYS, QUESTIONS, Decision, Fact, Kind

_ROWS_OF_THE_LIST = 500
# The scale of the bars of the evidence: the largest weight of one piece without an override.
_LARGEST_WEIGHT = 5.0


@dataclass(frozen=True)
class Filters:
    """The kind and the source that the operator has chosen; empty for all."""

    kind: str = ""
    source: str = ""

    def chosen(self, decisions: Sequence[Decision]) -> tuple[Decision, ...]:
        """The decisions of this kind that are about a record of this source."""
        return tuple(
            row
            for row in decisions
            if self.kind in ("", row.kind.value) and (not self.source or self.source in row.sources)
        )

    def query(self, **more: str) -> str:
        """The query of an address with these filters, empty or with its question mark."""
        values = {"kind": self.kind, "source": self.source, **more}
        query = urlencode({name: value for name, value in values.items() if value})
        return f"?{query}" if query else ""


@dataclass(frozen=True)
class Place:
    """A decision among the chosen ones: its neighbours, and how many there are."""

    decision: Decision | None
    before: str
    after: str
    number: int
    count: int

    @classmethod
    def of(cls, chosen: Sequence[Decision], at: str) -> Place:
        """The place of the decision with the id `at`, else the first one."""
        ids = [row.decision_id for row in chosen]
        place = ids.index(at) if at in ids else 0
        if not ids:
            return cls(None, "", "", 0, 0)
        after = ids[place + 1] if place + 1 < len(ids) else ""
        return cls(chosen[place], ids[place - 1] if place else "", after, place + 1, len(ids))


@dataclass(frozen=True)
class Bar:
    """One piece of evidence, the width of its bar in steps of 0 to 10, and the sum of the weights up to it."""

    fact: Fact
    width: int
    total: float


def bars_of(decision: Decision) -> tuple[list[Bar], list[Bar]]:
    """The evidence on the two records of the answer, and that on their other records."""
    pair = set(decision.records)
    own = [fact for fact in decision.facts if {fact.a, fact.b} == pair]
    return _waterfall(own), _waterfall([fact for fact in decision.facts if fact not in own])


def _waterfall(facts: Sequence[Fact]) -> list[Bar]:
    totals = accumulate(fact.weight for fact in facts)
    return [
        Bar(fact, min(10, round(abs(fact.weight) / _LARGEST_WEIGHT * 10)), round(total, 2))
        for fact, total in zip(facts, totals, strict=True)
    ]


def choices(decisions: Sequence[Decision], filters: Filters) -> dict[str, list[tuple[str, str, int, bool]]]:
    """For each filter, its choices as (value, address, number of decisions, is chosen)."""
    kinds = [kind.value for kind in Kind]
    sources = sorted({source for row in decisions for source in row.sources})
    found: dict[str, list[tuple[str, str, int, bool]]] = {}
    for name, values in (("kind", kinds), ("source", sources)):
        rows = []
        for value in ("", *values):
            other = Filters(**{**vars(filters), name: value})
            count = len(other.chosen(decisions))
            is_chosen = getattr(filters, name) == value
            if count or is_chosen or not value:
                rows.append((value, other.query(), count, is_chosen))
        found[name] = rows
    return found


def listed(decisions: Sequence[Decision]) -> Sequence[Decision]:
    """The decisions that the list shows."""
    return decisions[:_ROWS_OF_THE_LIST]


def render(name: str, **values: Any) -> str:
    """A page. Texts of others are escaped, and their control characters shown."""
    return _templates().get_template(name).render(keys=KEYS, questions=QUESTIONS, **values)


def title_of(people: Sequence[PersonCard], decision: Decision) -> str:
    """The people of a decision by name, or its page."""
    return decision.page or " and ".join(person.name for person in people)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("stash_sense_pipeline.review.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return visible_line(value)
    return "" if value is None else value
