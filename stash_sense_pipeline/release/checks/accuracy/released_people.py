"""The people of a release: the names, dates and groups that performers.db gives them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import read_only_sqlite
from stash_sense_pipeline.records.name_folding import fold_name
from stash_sense_pipeline.release.contract import PERFORMERS_DB

GROUPED_BY = ("gender", "ethnicity", "country")


@dataclass(frozen=True)
class ReleasedPerson:
    """One performer of a release, as performers.db has it. `groups`: the value of each group field."""

    name: str
    aliases: Collection[str]
    birth_date: str | None
    groups: Mapping[str, str | None]

    @cached_property
    def folded_name(self) -> str:
        """The name in the form for comparison."""
        return fold_name(self.name)

    @cached_property
    def folded_names(self) -> frozenset[str]:
        """The name and the aliases in that form. They are made on demand, because few people are compared."""
        return frozenset({self.folded_name, *map(fold_name, self.aliases)})


def read_released_people(release: Path) -> dict[int, ReleasedPerson]:
    """The performers of a release directory, by performer id. ReleaseError when performers.db cannot be read."""
    path = release / PERFORMERS_DB
    try:
        with closing(sqlite3.connect(read_only_sqlite(path), uri=True)) as connection:
            aliases: dict[int, list[str]] = defaultdict(list)
            for performer_id, alias in connection.execute("SELECT performer_id, alias FROM aliases"):
                aliases[performer_id].append(alias)
            columns = ", ".join(("id", "canonical_name", "birth_date", *GROUPED_BY))
            rows = connection.execute(f"SELECT {columns} FROM performers").fetchall()
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot read {path}: {error}") from error
    return {
        performer_id: ReleasedPerson(
            name,
            aliases.get(performer_id, ()),
            birth_date,
            dict(zip(GROUPED_BY, groups, strict=True)),
        )
        for performer_id, name, birth_date, *groups in rows
    }


def names_agree(one: ReleasedPerson, other: ReleasedPerson) -> bool:
    """Whether two performers can be one person by their names: an equal main name, or another name of two words or more.

    Different birth dates contradict it. A year or a month agrees with every date in it.
    """
    if one.birth_date and other.birth_date:
        known = min(len(one.birth_date), len(other.birth_date))
        if one.birth_date[:known] != other.birth_date[:known]:
            return False
    if one.folded_name and one.folded_name == other.folded_name:
        return True
    return any(" " in name for name in one.folded_names & other.folded_names)
