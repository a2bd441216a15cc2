"""The stash-box sync: after any changes at the server, between and inside requests, a sweep makes the catalog equal.

Before the sweep no record that is live at the server is deleted in the catalog.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BoxOptions, Moment, Ties
from stash_sense_pipeline_tests.sources.conftest import refresh_from
from stash_sense_pipeline_tests.sources.truth import buried, differences

HOUR = 3_600_000_000
CHANGES = (
    *("create", "create", "edit", "edit", "rename", "strip", "picture", "bump", "touch", "late", "merge"),
    *("merge", "destroy", "hard_delete", "destroy_image", "restore"),
)
FAULTS = (
    FaultKind.STATUS,
    FaultKind.CUT,
    FaultKind.HALF_PAGE,
    FaultKind.WRONG_TYPES,
    FaultKind.BODY,
    FaultKind.SHORT,
)


class Editors:
    """All editors of a stash-box. `dead` are the ids that were ever deleted: only these may become tombstones."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.dead: set[str] = set()

    def act(self, kind: str, chance: random.Random) -> None:
        """One change, of a kind out of CHANGES, to performers that `chance` chooses."""
        box = self.box
        alive = [key for key, row in box.performers.items() if not row.deleted]
        gone = [key for key, row in box.performers.items() if row.deleted]
        if kind == "create" or len(alive) < 4:
            images = [box.upload(Picture(chance.randrange(40))) for _ in range(chance.randrange(3))]
            box.create(name=self._name(chance), aliases=[f"A{chance.randrange(9)}"], images=images)
        elif kind == "edit":
            box.edit(chance.choice(alive), height=chance.randrange(150, 190))
        elif kind == "rename":
            box.edit(chance.choice(alive), name=self._name(chance))
        elif kind == "strip":
            box.edit(chance.choice(alive), aliases=[], urls=[], images=[])
        elif kind == "picture":
            box.add_image(chance.choice(alive), Picture(chance.randrange(400)))
        elif kind == "bump":
            box.bump(chance.choice(alive))
        elif kind == "touch":
            box.touch(chance.sample(alive, chance.randrange(1, len(alive) + 1)))
        elif kind == "late":
            key, height = chance.choice(alive), chance.randrange(150, 190)
            box.edit(key, height=height, at=box.clock.now() - chance.randrange(HOUR))
        elif kind == "merge":
            target, *sources = chance.sample(alive, chance.randrange(2, 4))
            self.dead.update(sources)
            box.merge(sources, target, keep_images=chance.random() < 0.7)
        elif kind == "destroy":
            self.dead.add(key := chance.choice(alive))
            box.destroy(key)
        elif kind == "hard_delete":
            self.dead.add(key := chance.choice([*alive, *gone]))
            box.hard_delete(key)
        elif kind == "destroy_image" and box.images:
            box.destroy_image(chance.choice(list(box.images)))
        elif kind == "restore" and gone:
            box.restore(chance.choice(gone), images=[box.upload(Picture(chance.randrange(40)))])

    def _name(self, chance: random.Random) -> str:
        return f"{chance.choice('ABCDEFG')} {chance.randrange(40)}"


class Server(RuleBasedStateMachine):
    """A server that is changed, disturbed and synced. Each example ends with a check that the catalog equals it."""

    servers: SandboxServers
    template: Path

    @initialize(
        seed=st.integers(0, 2**32),
        people=st.sampled_from([0, 3, 40, 120]),
        imported=st.booleans(),
        ties=st.sampled_from(Ties),
        cap=st.sampled_from([None, None, 8]),
        changelog=st.sampled_from([False, False, False, True]),
        legacy=st.sampled_from([False, False, False, True]),
    )
    def begin(
        self,
        seed: int,
        people: int,
        imported: bool,
        ties: Ties,
        cap: int | None,
        changelog: bool,
        legacy: bool,
    ) -> None:
        """A new stash-box, and an empty catalog."""
        self.servers.traffic.clear_faults()
        self.servers.traffic.clear_requests()
        self.box = self.servers.world.boxes["stashdb"]
        self.box.observers.clear()
        self.box.clear(
            seed,
            BoxOptions(ties=ties, per_page_cap=cap, changelog=changelog, legacy_schema=legacy, gzip=False),
        )
        self.editors = Editors(self.box)
        self.legacy = legacy
        chance = random.Random(seed)
        for _ in range(people):
            self.editors.act("create", chance)
        if imported and people:
            self.box.touch(list(self.box.performers)[::2])
        self.directory = tempfile.TemporaryDirectory()
        shutil.copy(self.template, f"{self.directory.name}/catalog.db")
        self.engine = open_catalog(f"sqlite:///{self.directory.name}/catalog.db")

    @rule(kinds=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=8), chance=st.integers(0, 2**32))
    def change(self, kinds: list[str], chance: int) -> None:
        """Editors change performers."""
        drawn = random.Random(chance)
        for kind in kinds:
            self.editors.act(kind, drawn)

    @rule(seconds=st.sampled_from([60, 7200, 3 * 86_400, -3600]))
    def pass_time(self, seconds: int) -> None:
        """The server's clock advances, or goes back an hour as at the end of daylight saving time."""
        self.box.clock.advance(seconds)

    @rule(hold=st.booleans())
    def edits(self, hold: bool) -> None:
        """Edits that are closed later than their change."""
        if hold:
            self.box.hold_edits()
        else:
            self.box.close_edits()

    @rule(
        kind=st.sampled_from(FAULTS),
        skip=st.integers(0, 8),
        status=st.sampled_from([429, 502, 503]),
        times=st.sampled_from([1, 1, 2, 20]),
    )
    def fault(self, kind: FaultKind, skip: int, status: int, times: int) -> None:
        """One of the next requests fails."""
        self.servers.traffic.inject(Fault(kind, box="stashdb", skip=skip, times=times, status=status))

    @rule(
        mode=st.sampled_from(["auto", "auto", "auto", "full_sweep"]),
        disturbances=st.lists(st.sampled_from(["", "", "", "", *CHANGES]), max_size=60),
        chance=st.integers(0, 2**32),
    )
    def refresh(self, mode: str, disturbances: list[str], chance: int) -> None:
        """A refresh, with changes at points inside its requests."""
        left, drawn = list(disturbances), random.Random(chance)

        def disturb(moment: Moment) -> None:
            if left and (kind := left.pop()):
                self.editors.act(kind, drawn)

        self.box.observers.append(disturb)
        self._refresh(mode)
        self.box.observers.clear()
        tombstones = buried(self.engine).keys()
        assert not [key for key in tombstones - self.editors.dead if key in self.box.performers]

    def teardown(self) -> None:
        """No more changes, and sweeps until none is refused: then the catalog equals the server."""
        if not hasattr(self, "engine"):
            return
        self.servers.traffic.clear_faults()
        self.box.observers.clear()
        outcomes = []
        for _ in range(3):
            outcomes.append(self._refresh("full_sweep"))
            if outcomes[-1] is not Outcome.AMBIGUOUS:
                break
        assert outcomes[-1] is Outcome.FOUND
        wrong = differences(self.engine, self.box, tells_targets=not self.legacy)
        self.engine.dispose()
        self.directory.cleanup()
        assert wrong == []

    def _refresh(self, mode: str) -> Outcome:
        def now() -> datetime:
            return from_micros(self.box.clock.now())

        return refresh_from(self.servers, self.engine, "stashdb", mode, adjust=_small_pages, now=now).outcome


def _small_pages(connector: Any) -> None:
    connector.records_a_page, connector.listed_a_page, connector.details_a_request = 10, 15, 5


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lives", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_a_sweep_makes_the_catalog_equal_to_the_server(
    fresh_sandbox: SandboxServers, catalog_file: Path, lives: int
) -> None:
    Server.servers = fresh_sandbox
    Server.template = catalog_file
    run_state_machine_as_test(
        Server,
        settings=settings(
            max_examples=lives,
            stateful_step_count=12,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
