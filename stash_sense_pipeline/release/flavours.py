"""The other flavours of a staged release: the files of the flavour full with indices of their own, checked by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stash_sense_pipeline.foundation.files import PUBLIC_FILE, link_or_copy, sha256_file
from stash_sense_pipeline.release.assembly import Assembled, assemble_release
from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.build.staging import Staging, disk_errors
from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.quality_gate import prove_indices
from stash_sense_pipeline.release.checks.tattoos.tattoo_checks import prove_tattoo_index
from stash_sense_pipeline.release.contract import (
    FACES_JSON,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    TATTOO_JSON,
    Flavour,
)
from stash_sense_pipeline.release.release_input import ReleaseInput
from stash_sense_pipeline.release.spec import ReleaseSpec

_SHARED = (PERFORMERS_DB, FACES_JSON, PERFORMERS_JSON)


def add_flavours(
    full: Assembled,
    spec: ReleaseSpec,
    now: Mapping[Flavour, ReleaseInput],
    vectors: ReleaseVectors,
    accuracy: Accuracy,
) -> Assembled:
    """Assembles and checks the other flavours of the spec; the result has them, and the results of their checks.

    Each is verified against the contract, and its indices pass the limits of the flavour. `accuracy`: as it was measured
    for the flavour full, by exact search. Raises ReleaseError as assemble_release does.
    """
    others = []
    for flavour in spec.flavours:
        if flavour is Flavour.FULL:
            continue
        own = spec.of(flavour)
        staging = full.staging.of(flavour)
        _share_database(full.staging, staging)
        made = assemble_release(staging, full.version, own, now[flavour], full.tattoos)
        proof = prove_indices(staging.release, vectors, own, accuracy)
        of_tattoos = prove_tattoo_index(staging.release, full.tattoos, own)
        checks = (*made.checks, _same_people(full.staging, staging), *proof.checks, *of_tattoos)
        others.append(replace(made, checks=tuple(replace(check, flavour=flavour.value) for check in checks)))
    results = (*full.checks, *(check for other in others for check in other.checks))
    return replace(full, checks=results, others=tuple(others))


def _share_database(full: Staging, other: Staging) -> None:
    with disk_errors(f"stage the flavour {other.flavour} in {other.root}"):
        link_or_copy(full.release / PERFORMERS_DB, other.release / PERFORMERS_DB, PUBLIC_FILE)
    other.write_part("performers_db", full.read_part("performers_db"))


def _same_people(full: Staging, other: Staging) -> CheckResult:
    """The flavour has the people, records and faces of the flavour full, byte by byte, under the same ids."""
    shared = [*_SHARED, *([TATTOO_JSON] if (full.release / TATTOO_JSON).exists() else [])]
    different = [
        name for name in shared if sha256_file(full.release / name) != sha256_file(other.release / name)
    ]
    if different:
        return CheckResult(
            "same_people", False, f"{different[0]} is not that of the flavour full; publish again"
        )
    return CheckResult("same_people", True, f"{', '.join(shared)} are those of the flavour full")
