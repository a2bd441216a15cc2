"""Puts proven claims to use for the images that their sources list, and queues some of their pictures to be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.claims import faces as claimed
from stash_sense_pipeline.catalog.queries.claims import use
from stash_sense_pipeline.catalog.queries.claims.use import PackKey
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.models.model_packs import ModelPack

# A batch is one transaction: the vectors of two embedders are 20 MB.
_FACES_A_BATCH = 5_000


@dataclass(frozen=True)
class ClaimsUsed:
    """Of one source: proven claims that became faces, claims that the source has settled, and images queued to be seen."""

    used: int = 0
    settled: int = 0
    queued: int = 0


@dataclass(frozen=True)
class ClaimRules:
    """The pack, the number of pictures to look at again in a night, and the suppression list."""

    pack: ModelPack
    looks: int
    covers_url: Callable[[str], bool]


def use_proven_claims(engine: sa.Engine, source: str, rules: ClaimRules, now: datetime) -> ClaimsUsed:
    """Makes faces of the proven claims with pictures that the source lists. Running it again changes nothing.

    A picture with such a face is not fetched, except the few of each night: see `queue_looks`.
    """
    pack = rules.pack
    key = PackKey(pack.name, pack.detector.finding_digest, pack.digests)
    with reading(engine) as connection:
        releases = use.usable_releases(connection, source, key)
    used = 0
    while releases:
        with writing(engine) as connection:
            listed = use.listed_claims(connection, source, releases, _FACES_A_BATCH)
            suppressed = {claim.claim_id for claim in listed if rules.covers_url(claim.url)}
            claimed.drop_claims(connection, suppressed)
            claims = [claim for claim in listed if claim.claim_id not in suppressed]
            use.use_claims(connection, source, key, claims, now)
        used += len(claims)
        if not listed:
            break
    with writing(engine) as connection:
        settled = use.drop_settled(connection, source)
        queued = use.queue_looks(connection, source, rules.looks, now)
    return ClaimsUsed(used, settled, queued)
