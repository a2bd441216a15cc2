"""The review of one process: finds the decisions, keeps them in order, settles them, takes answers back."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.identities import read_members
from stash_sense_pipeline.catalog.queries.identity.identity_runs import last_number
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.models.model_packs import embedder_digests
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.identity.source_suggestions.finding import find_suggestions
from stash_sense_pipeline.identity.source_suggestions.identity_state import SuggestionRules
from stash_sense_pipeline.privacy.enforcement import current_suppressions
from stash_sense_pipeline.privacy.intake.holding import settle as settle_held
from stash_sense_pipeline.privacy.redaction.overrides_text import Entry
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, load_list
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.reports.confusable_file import read_confusable
from stash_sense_pipeline.release.versions import report_directory
from stash_sense_pipeline.review.cards import CardRules, PersonCard, names_of, person_cards
from stash_sense_pipeline.review.decision import Answer, Decision, Kind
from stash_sense_pipeline.review.finding import Findings, find_decisions, open_decisions
from stash_sense_pipeline.review.overrides_file import remove_entry
from stash_sense_pipeline.review.settled import RunInputs, Settled, settled_decisions
from stash_sense_pipeline.review.settling import Signature, settle
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

# A card and its crops are several requests: they share one reading of the suppression list.
_SECONDS_OF_A_LIST = 1.0


@dataclass(frozen=True)
class _Found:
    """The decisions that the catalog gave after the identity run with number `run`, under this suppression list."""

    run: int
    listed: Suppressions
    decisions: tuple[Decision, ...]
    members: Mapping[RecordKey, int]


@dataclass(frozen=True)
class Done:
    """An answer of this session: the decision, and its entry in the overrides (None: it cannot be taken back)."""

    decision: Decision
    answer: Answer
    entry: tuple[str, Entry] | None


class ReviewDesk:
    """The decisions of one process. Its methods block, and may be called by several threads.

    The file of overrides is read anew for each answer, so that two processes see each other's answers. The decisions
    are found again after an identity run, and when the suppression list has changed.
    """

    def __init__(
        self, engine: sa.Engine, environment: Environment, settings: Settings, *, pictures: bool
    ) -> None:
        self.engine = engine
        self.environment = environment
        self.settings = settings
        hosts = {name: box.host for name, box in settings.stash_boxes.items()}
        models = embedder_digests(environment.model_pack, environment.models_dir)
        self._rules = CardRules(hosts, models, pictures)
        self._reads = ShortReads(engine)
        self._found: _Found | None = None
        self._finding, self._listing = threading.Lock(), threading.Lock()
        self._listed: tuple[float, Suppressions] | None = None
        self.done: list[Done] = []

    @property
    def pictures(self) -> bool:
        """True when cards show faces."""
        return self._rules.pictures

    def suppressions(self) -> Suppressions:
        """The suppression list of the moment, at most a second old."""
        with self._listing:
            now = time.monotonic()
            if self._listed is None or now - self._listed[0] > _SECONDS_OF_A_LIST:
                listed = current_suppressions(self.engine, self.environment, self.settings.names)
                self._listed = (now, listed)
            return self._listed[1]

    def overrides(self) -> Overrides:
        """The overrides of the moment. Raises ConfigurationError with file and line for a file that cannot be parsed."""
        return load_overrides(self.environment.overrides_file)

    def open(self) -> tuple[Decision, ...]:
        """The open decisions, the most valuable first."""
        overrides = self.overrides()
        found = self._decisions(overrides)
        return open_decisions(found.decisions, overrides, found.members)

    def decision(self, decision_id: str, among: Sequence[Decision] | None = None) -> Decision:
        """The open decision with this id, `among` those given. Raises ConfigurationError when there is none."""
        for row in self.open() if among is None else among:
            if row.decision_id == decision_id:
                return row
        raise ConfigurationError(
            f"no open decision has the id {decision_id[:60]!r}; see stash-sense review list and review settled"
        )

    def card(self, decision: Decision) -> tuple[PersonCard, ...]:
        """The people of a decision with their records and faces."""
        return person_cards(self._reads, decision, self._rules)

    def names(self, decisions: tuple[Decision, ...]) -> dict[RecordKey, str]:
        """The names of the records of decisions."""
        return names_of(self._reads, decisions)

    def settle(self, decision: Decision, answer: Answer, signature: Signature) -> Done:
        """Writes an answer. Raises AlreadySettledError and ConfigurationError as settling.settle does."""
        if decision.kind is Kind.HELD and answer in (Answer.SAME, Answer.DIFFERENT):
            self._settle_held(decision, same=answer is Answer.SAME)
            done = Done(decision, answer, None)
        else:
            path = self.environment.overrides_file
            done = Done(decision, answer, settle(self._reads, path, decision, answer, signature))
        self.done.append(done)
        return done

    def undo(self) -> Done | None:
        """Takes the last answer of this session back that can be; None when there is none."""
        for place in range(len(self.done) - 1, -1, -1):
            done = self.done[place]
            if done.entry is not None:
                del self.done[place]
                self.take_back(*done.entry)
                return done
        return None

    def take_back(self, section: str, entry: Entry) -> bool:
        """Removes an entry of the overrides, so that its decision is open again; False when it is not there."""
        return remove_entry(self.environment.overrides_file, section, entry)

    def settled(self) -> list[Settled]:
        """The entries of the overrides with what came of them."""
        inputs = RunInputs(self._rules.hosts, self._rules.models)
        return settled_decisions(self.engine, self.environment.overrides_file, inputs, self.suppressions())

    def refused(self) -> int:
        """The number of lines of the overrides without effect."""
        return len(refused_overrides(self._reads, self.overrides()))

    def _settle_held(self, decision: Decision, *, same: bool) -> None:
        listed = self.suppressions()
        with writing(self.engine) as connection:
            now = datetime.now(UTC)
            settle_held(connection, load_list(connection, listed.key), decision.records[0], now, same=same)
        self._found = self._listed = None

    def _decisions(self, overrides: Overrides) -> _Found:
        with self._finding:
            run, listed = self._reads(last_number), self.suppressions()
            if self._found is None or (self._found.run, self._found.listed) != (run, listed):
                # Duplicates that the file names already are found too: taking an answer back opens them again.
                rules = SuggestionRules(self._rules.hosts, self._rules.models, Overrides(overrides.path))
                findings = Findings(
                    frozenset(self._rules.hosts),
                    find_suggestions(self.engine, rules, listed),
                    self._confusable(),
                )
                self._found = _Found(
                    run, listed, find_decisions(self.engine, findings, listed), self._reads(read_members)
                )
            return self._found

    def _confusable(self) -> Mapping[tuple[int, int], float]:
        latest = (self.environment.releases_dir / "latest").resolve()
        return read_confusable(report_directory(latest.parent, latest.name))
