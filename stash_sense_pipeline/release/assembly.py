"""Assembles a staged release: JSON files, manifest, verification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.release.build.json_files import universal_ids, write_json_files
from stash_sense_pipeline.release.build.manifest import ManifestFacts, write_manifest
from stash_sense_pipeline.release.build.performers_db import DatabaseReport
from stash_sense_pipeline.release.build.staging import Staging
from stash_sense_pipeline.release.build.tattoos.tattoo_index import TattooVectors, write_tattoo_json
from stash_sense_pipeline.release.build.voyager_index import (
    IndexReport,
)
from stash_sense_pipeline.release.checks.check_result import CheckResult, failures
from stash_sense_pipeline.release.checks.suppression_check import (
    check_suppressed,
)
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import (
    PERFORMERS_DB,
    TATTOO,
)
from stash_sense_pipeline.release.index_choice import INDEX_CHOICE
from stash_sense_pipeline.release.release_input import (
    ReleaseInput,
    check_pack,
)
from stash_sense_pipeline.release.spec import ReleaseSpec


@dataclass(frozen=True)
class Assembled:
    """A complete release in the staging directory, its manifest, the tattoos in it, and the results of its checks."""

    staging: Staging
    version: str
    manifest: Mapping[str, Any]
    tattoos: TattooVectors
    checks: tuple[CheckResult, ...]
    # The other flavours of this release. `checks` has the results of theirs too.
    others: tuple[Assembled, ...] = ()

    @property
    def errors(self) -> tuple[CheckResult, ...]:
        """The failed checks of severity error. A release that has any is not published."""
        return failures(self.checks)


def assemble_release(
    staging: Staging, version: str, spec: ReleaseSpec, now: ReleaseInput, tattoos: TattooVectors
) -> Assembled:
    """Completes a staged release (JSON files, then the manifest) and verifies it. Publishes nothing.

    The indices, that of `tattoos` too, and performers.db must be staged before. Raises ReleaseError when one is missing or
    was built from another state of the catalog than `now` describes. A failed check does not raise: it is in the result,
    and promote_release refuses a release with errors.
    """
    database = _database_report(staging)
    indices = (*index_reports(staging, spec), *_tattoo_report(staging, tattoos))
    stale = [index.file for index in indices if index.input_digest != now.indices[index.model]]
    orders = {TATTOO: now.tattoos}
    stale += [index.file for index in indices if index.order_digest != orders.get(index.model, now.order)]
    made_of = (database.order_digest, database.content_digest, database.tattoos_digest)
    if made_of != (now.order, now.content, now.tattoos):
        stale.append(PERFORMERS_DB)
    if stale:
        raise ReleaseError(f"{stale[0]} was staged from another state of the catalog; run publish again")
    _keep_only(staging, {PERFORMERS_DB, *(index.file for index in indices)})
    counts = write_json_files(staging.release, spec.hosts, spec.priority, spec.namesakes)
    if tattoos.tattoos.left_out is None:
        named = universal_ids(staging.release / PERFORMERS_DB, spec.hosts, spec.priority)
        write_tattoo_json(staging.release, tattoos, named)
    facts = ManifestFacts(
        version=version,
        performer_count=counts.performers,
        face_count=counts.faces,
        sources=database.sources,
        input_digest=now.digest,
        pack=spec.pack,
        indices={index.model: _provenance(index) for index in indices},
        index_choice=staging.read_part(INDEX_CHOICE) if staging.has_part(INDEX_CHOICE) else None,
        flavour=staging.flavour,
        priority=spec.priority,
        tattoo_models=spec.tattoos.models if spec.tattoos and now.tattoos is not None else None,
    )
    known = {index.file: index.sha256 for index in indices} | {PERFORMERS_DB: database.sha256}
    manifest = write_manifest(staging.release, facts, known)
    checks = (
        *verify_release(staging.release),
        check_suppressed(staging.release, spec.suppressions, spec.hosts),
    )
    return Assembled(staging, version, manifest, tattoos, checks)


def _database_report(staging: Staging) -> DatabaseReport:
    note = staging.read_part("performers_db")
    return DatabaseReport(**{**note, "sources": tuple(note["sources"])})


def index_reports(staging: Staging, spec: ReleaseSpec) -> tuple[IndexReport, ...]:
    """The reports of the staged indices. ReleaseError when one is missing or was made by another model pack."""
    reports = tuple(IndexReport(**staging.read_part(f"index-{model}")) for model in spec.models)
    for report in reports:
        check_pack(spec.pack, report.model, report.pack, report.model_digest)
    return reports


def _tattoo_report(staging: Staging, tattoos: TattooVectors) -> tuple[IndexReport, ...]:
    return (IndexReport(**staging.read_part(TATTOO)),) if tattoos.tattoos.left_out is None else ()


def _provenance(index: IndexReport) -> dict[str, Any]:
    """The manifest's entry for an index. It holds only values that two builds of the same input share."""
    along: dict[str, Any] = {}
    if index.graph_dimensions is not None:
        along["graph_dimensions"] = index.graph_dimensions
    if index.exact_links:
        along["exact_links"] = True
    return {
        "file": index.file,
        "vectors": index.faces,
        "dimensions": index.dimensions,
        "m": index.m,
        "ef_construction": index.ef_construction,
        "seed": index.seed,
        "storage": index.storage,
        "threads": index.threads,
        "reproducible": index.threads == 1,
        "input_digest": index.input_digest,
        **along,
    }


def _keep_only(staging: Staging, names: set[str]) -> None:
    """Removes all other files: an earlier attempt of the same run may have left files that are now made again."""
    for member in staging.release.iterdir():
        if member.name not in names:
            member.unlink()
