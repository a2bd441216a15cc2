"""Proof by sample: fetches some of the claimed pictures politely, and compares their faces with the claim."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.claims import faces as claimed
from stash_sense_pipeline.catalog.queries.claims import releases
from stash_sense_pipeline.catalog.queries.claims.faces import SampleFace
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimedRelease, ClaimState
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.collection.image_fetcher import ImageClient, ImageRequest
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import (
    CircuitOpenError,
    ConfigurationError,
    Outcome,
    SourceError,
)
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.release.bootstrap.comparison import FaceComparison
from stash_sense_pipeline.release.bootstrap.sample import (
    AGREEING_SHARE,
    AGREEMENT,
    SAMPLE,
    Finding,
    findings,
    is_enough,
    is_refuted,
    proven_sources,
    spread,
)
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings
from stash_sense_pipeline.sources.connections import open_connector, open_site_connector, unusable
from stash_sense_pipeline.sources.cooldown import check_cooldown

_FETCHES = 4
# Pictures that are gone or unusable are replaced by others of the same source, up to this many requests for each place.
_REQUESTS_FOR_ONE = 3
_SPARE_REQUESTS = 10
# A source that gives these answers is not asked again in this proof.
_LEAVE_ALONE = frozenset({Outcome.BLOCKED, Outcome.RATE_LIMITED})

# Opens the client of a source, and how its pictures are requested.
OpenSource = Callable[[str], AbstractAsyncContextManager[tuple[ImageClient, ImageRequest]]]


@dataclass(frozen=True)
class ProofRules:
    """The pack, the size of the sample, how sources are opened, the suppression list, and the time.

    `seed` makes the choice of pictures repeatable; None for one that cannot be foreseen.
    """

    pack: ModelPack
    open_source: OpenSource
    forbids: Callable[[str], bool]
    now: Callable[[], datetime]
    size: int = SAMPLE
    seed: int | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)


@dataclass(frozen=True)
class ProofReport:
    """The result of a proof. `unasked`: why no picture of a source could be fetched, by source."""

    state: ClaimState
    wanted: int
    findings: tuple[Finding, ...]
    proven_sources: tuple[str, ...]
    unasked: Mapping[str, str]
    message: str


def polite_sources(
    settings: Settings, environment: Environment, engine: sa.Engine, now: datetime
) -> OpenSource:
    """Opens sources as a build does: the same client, limits, robots.txt and cooldowns, while no run reads the source.

    ConfigurationError as there, and while a run reads it; SourceError in its cooldown.
    """

    @asynccontextmanager
    async def opened(name: str) -> AsyncIterator[tuple[ImageClient, ImageRequest]]:
        problem = unusable(settings, environment, name)
        if problem is not None:
            raise ConfigurationError(problem)
        source = settings.source(name)
        with source_lock(engine, name, lambda _: _refuse_busy(name)):
            if isinstance(source, ReferenceSiteSettings):
                check_cooldown(engine, name, now)
                if not source.fetch:
                    raise ConfigurationError(f"{name}: fetch is off, so that no request goes to it")
                async with open_site_connector(settings, environment, source) as site:
                    yield site.client, site.image_request
            else:
                async with open_connector(settings, environment, name) as box:
                    yield box.client, box.image_request

    return opened


def _refuse_busy(name: str) -> None:
    raise ConfigurationError(f"{name}: a run reads it now; run the command again later")


async def prove(
    engine: sa.Engine, release: ClaimedRelease, rules: ProofRules, progress: Progress | None = None
) -> ProofReport:
    """Proves or refuses the claim of a release, and stores the result.

    Comparisons are stored one by one, so that an interrupted proof goes on with the others. A refused claim loses all
    its vectors. Nothing is decided when too few pictures could be fetched.
    """
    with reading(engine) as connection:
        waiting = claimed.unsampled(connection, release.release_id)
        done = claimed.compared(connection, release.release_id)
    available = {source: len(ids) for source, ids in waiting.items()}
    for source, _ in done:
        available[source] = available.get(source, 0) + 1
    wanted = spread(available, rules.size)
    total = sum(wanted.values())
    proof = _Proof(engine, rules, total, [cosines for _, cosines in done], progress)
    storage = {name: str(entry["storage"]) for name, entry in release.models.items()}
    with FaceComparison(rules.pack, storage, rules.limits) as comparison:
        for source, count in wanted.items():
            left = count - sum(of == source for of, _ in done)
            if left > 0 and not proof.is_refuted:
                await proof.compare(source, waiting.get(source, []), left, comparison)
    return _judge(engine, release, rules, total, proof.unasked)


@dataclass
class _Proof:
    """The comparisons of one proof: `wanted` in all, `known` so far. `unasked` is as in ProofReport."""

    engine: sa.Engine
    rules: ProofRules
    wanted: int
    known: list[Mapping[str, float]]
    progress: Progress | None
    unasked: dict[str, str] = field(default_factory=dict)

    @property
    def is_refuted(self) -> bool:
        """True when further comparisons cannot save the claim."""
        return is_refuted(findings(self.known), self.wanted)

    async def compare(
        self, source: str, claim_ids: Sequence[int], count: int, comparison: FaceComparison
    ) -> None:
        """Compares `count` pictures of one source, chosen at random; fewer when they cannot be fetched."""
        chance = random.SystemRandom() if self.rules.seed is None else random.Random(self.rules.seed)
        order = chance.sample(list(claim_ids), len(claim_ids))
        turn = _Turn(order[: _REQUESTS_FOR_ONE * count + _SPARE_REQUESTS], count)
        try:
            async with self.rules.open_source(source) as (client, image_request):
                workers = [self._work(turn, client, image_request, comparison) for _ in range(_FETCHES)]
                await asyncio.gather(*workers)
        except ConfigurationError as error:
            self.unasked[source] = str(error)
        except SourceError as error:
            # Of the source before any picture, such as its cooldown.
            turn.end(error.outcome)
        if turn.refusal is not None:
            # No message holds the address of a picture: on a reference site it names a person.
            self.unasked[source] = f"{source}: its pictures cannot be fetched now ({turn.refusal.value})"

    async def _work(
        self, turn: _Turn, client: ImageClient, image_request: ImageRequest, comparison: FaceComparison
    ) -> None:
        while not self.is_refuted and (claim_id := turn.next()) is not None:
            compared = False
            try:
                compared = await self._compare_one(claim_id, client, image_request, comparison)
            except SourceError as error:
                if isinstance(error, CircuitOpenError) or error.outcome in _LEAVE_ALONE:
                    turn.end(error.outcome)
            finally:
                turn.finished(compared)

    async def _compare_one(
        self, claim_id: int, client: ImageClient, image_request: ImageRequest, comparison: FaceComparison
    ) -> bool:
        with reading(self.engine) as connection:
            face = claimed.sample_face(connection, claim_id)
            vectors = claimed.read_vectors(connection, [claim_id]).get(claim_id, {})
        if face is None or not vectors or self.rules.forbids(face.url):
            return False
        data = await self._fetch(face, client, image_request)
        cosines = await asyncio.to_thread(comparison.cosines, data, vectors)
        if cosines is None:
            return False
        with writing(self.engine) as connection:
            claimed.note_cosines(connection, claim_id, {name: round(cosines[name], 6) for name in cosines})
        self.known.append(cosines)
        if self.progress is not None:
            self.progress("proof", len(self.known), self.wanted)
        return True

    async def _fetch(self, face: SampleFace, client: ImageClient, image_request: ImageRequest) -> bytes:
        address, headers = image_request(face.url)
        answer = await client.get(
            address, headers=headers, max_bytes=self.rules.limits.max_bytes, may_retry=lambda: True
        )
        return answer.content


class _Turn:
    """Hands out the pictures of one source until enough were compared."""

    def __init__(self, order: Sequence[int], count: int) -> None:
        self.refusal: Outcome | None = None
        self._order = list(reversed(order))
        self._left = count

    def next(self) -> int | None:
        """The next picture; None when no more are needed or left."""
        if self._left < 1 or not self._order:
            return None
        self._left -= 1
        return self._order.pop()

    def finished(self, compared: bool) -> None:
        """Ends a picture; one that was not compared is replaced by another."""
        self._left += not compared

    def end(self, refusal: Outcome) -> None:
        """Hands out no more pictures, because of an answer of the source."""
        self.refusal = refusal
        self._order.clear()


def _judge(
    engine: sa.Engine, release: ClaimedRelease, rules: ProofRules, wanted: int, unasked: Mapping[str, str]
) -> ProofReport:
    with writing(engine) as connection:
        comparisons = claimed.compared(connection, release.release_id)
        found = findings([cosines for _, cosines in comparisons])
        sources = proven_sources(comparisons)
        state, message = _verdict(found, len(comparisons), wanted)
        proof = {
            "wanted": wanted,
            "compared": len(comparisons),
            "findings": [asdict(finding) for finding in found],
            "proven_sources": sources if state is ClaimState.PROVEN else [],
        }
        values: dict[str, object] = {"proof": proof}
        if state is not ClaimState.CLAIMED:
            values["judged_at"] = rules.now()
        if state is ClaimState.REFUSED:
            values["reason"] = message
            claimed.drop_unused(connection, release.release_id)
        releases.set_state(connection, release.release_id, state, **values)
    return ProofReport(state, wanted, tuple(found), tuple(sources), dict(unasked), message)


def _verdict(found: Sequence[Finding], compared: int, wanted: int) -> tuple[ClaimState, str]:
    if is_refuted(found, wanted) or (is_enough(compared, wanted) and not all(each.agrees for each in found)):
        worst = min(found, key=lambda finding: finding.agreed / max(1, finding.compared))
        return ClaimState.REFUSED, (
            f"{worst.model}: {worst.agreed} of {worst.compared} compared faces have a cosine of {AGREEMENT} or more, and "
            f"{AGREEING_SHARE:.0%} must: another detector, alignment or network made the vectors, or they belong to "
            "other pictures"
        )
    if not is_enough(compared, wanted):
        return ClaimState.CLAIMED, (
            f"only {compared} of {wanted} pictures could be compared, too few to decide; run the command again later"
        )
    return ClaimState.PROVEN, f"{compared} of {wanted} pictures were compared and agree"
