"""The command bootstrap: takes over a published release, proves it by a sample, or takes it back."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import echo, environment_of, existing_catalog, print_table
from stash_sense_pipeline.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.catalog.queries.claims.releases import ClaimedRelease
    from stash_sense_pipeline.faces.models.model_packs import ModelPack
    from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
    from stash_sense_pipeline.release.bootstrap.import_release import ImportReport
    from stash_sense_pipeline.release.bootstrap.proof import ProofReport
    from stash_sense_pipeline.settings.environment import Environment
    from stash_sense_pipeline.settings.schema import Settings

# The name of the lock that only one of these commands holds.
_LOCK = "bootstrap"


@click.command()
@click.argument("release", metavar="RELEASE", type=click.Path(path_type=Path))
@click.option(
    "--undo", is_flag=True, help="Remove what came from the release only; RELEASE is its path or version."
)
@click.option(
    "--sample", type=click.IntRange(10, 100_000), help="Pictures to fetch for the proof.  [default: 200]"
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    help="Fetch as many pictures as show with this confidence that 98.5 % of the faces are right.",
)
def bootstrap(release: Path, undo: bool, sample: int | None, confidence: float | None) -> None:
    """Take over a published RELEASE, a directory or zip: its records, and its faces once a sample has proven them.

    A sample of its pictures is fetched within the limits of each source and compared with the installed model pack. The
    next build then fetches only pictures without a proven face. Run it again after an interruption; a second run changes
    nothing. Exit code 0 when the faces are proven, or when the release has records only.
    """
    if undo and (sample is not None or confidence is not None):
        raise click.UsageError("--undo takes no --sample and no --confidence")
    if sample is not None and confidence is not None:
        raise click.UsageError("give --sample or --confidence, not both")
    environment = environment_of(os.environ)
    if undo:
        _undo(environment, release)
        return
    sys.exit(0 if _take_over(environment, release, sample, confidence) else 1)


def _take_over(environment: Environment, path: Path, sample: int | None, confidence: float | None) -> bool:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState
    from stash_sense_pipeline.catalog.source_lock import source_lock
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.bootstrap.claim import opened_release_files
    from stash_sense_pipeline.release.bootstrap.import_release import ImportRules, import_release
    from stash_sense_pipeline.settings.sources_file import load_settings

    settings = load_settings(environment.sources_file)
    pack = load_pack(environment.model_pack, environment.models_dir)
    with opened_release_files(path, lambda line: echo(f"warning: {line}")) as directory:
        engine = open_catalog(environment.catalog_url)
        try:
            with source_lock(engine, _LOCK, echo):
                suppressions = current_suppressions(engine, environment, settings.names)
                rules = ImportRules(settings, pack, suppressions, datetime.now(UTC))
                with progress_of(_LOCK) as progress:
                    report = import_release(engine, directory, rules, progress)
                _show_import(report, environment)
                release = report.release
                if release.state is ClaimState.CLAIMED:
                    size = _size(sample, confidence)
                    return _prove(engine, release, _Proving(environment, settings, pack, suppressions, size))
                return _tell(release)
        finally:
            engine.dispose()


def _size(sample: int | None, confidence: float | None) -> int:
    from stash_sense_pipeline.release.bootstrap.sample import SAMPLE, sample_size

    return sample_size(confidence) if confidence is not None else sample or SAMPLE


@dataclass(frozen=True)
class _Proving:
    """What a proof needs besides the catalog and the release."""

    environment: Environment
    settings: Settings
    pack: ModelPack
    suppressions: Suppressions
    size: int


def _prove(engine: sa.Engine, release: ClaimedRelease, proving: _Proving) -> bool:
    from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.release.bootstrap.proof import ProofRules, polite_sources, prove

    rules = ProofRules(
        pack=proving.pack,
        open_source=polite_sources(proving.settings, proving.environment, engine, datetime.now(UTC)),
        forbids=proving.suppressions.forbids_picture,
        now=lambda: datetime.now(UTC),
        size=proving.size,
    )
    with progress_of(_LOCK) as progress:
        report = asyncio.run(prove(engine, release, rules, progress))
    _show_proof(report)
    return report.state is ClaimState.PROVEN


def _show_import(report: ImportReport, environment: Environment) -> None:
    if report.records is None:
        echo(f"release {report.release.version} was taken over before")
        return
    rows = [
        {"source": source.source, "records": source.records, "tombstones": source.tombstones}
        for source in report.records.sources
    ]
    print_table(rows, f"none of its sources is in {environment.sources_file.name}")
    echo(f"performer ids kept: {report.records.performer_ids}")
    echo(f"faces claimed: {report.faces}")
    left_out = {
        "people left out, suppressed": report.records.suppressed,
        "people left out, not adult": report.records.not_adult,
        "people left out, without a name or a usable id": report.unusable,
        **{f"faces left out, {reason}": count for reason, count in report.skipped.items()},
    }
    for reason, count in left_out.items():
        if count:
            echo(f"{reason}: {count}")


def _show_proof(report: ProofReport) -> None:
    from stash_sense_pipeline.release.bootstrap.sample import BUCKET_NAMES

    rows = [
        {
            "cosine": name,
            **{finding.model: finding.histogram[name] for finding in report.findings},
        }
        for name in BUCKET_NAMES
    ]
    if report.findings:
        print_table(rows, "no picture was compared")
    for finding in report.findings:
        echo(
            f"{finding.model}: {finding.agreed} of {finding.compared} compared faces agree; with a confidence of 95 % at "
            f"most {finding.wrong_at_most:.1%} of all differ"
        )
    for problem in report.unasked.values():
        echo(f"not compared: {problem}")
    echo(f"{report.state}: {report.message}")


def _tell(release: ClaimedRelease) -> bool:
    from stash_sense_pipeline.catalog.queries.claims.releases import ClaimState

    if release.state is ClaimState.PROVEN:
        echo("proven: the next build uses its faces")
        return True
    if release.state is ClaimState.RECORDS:
        echo(f"records only: {release.reason}. The next build fetches all pictures")
        return True
    echo(f"refused: {release.reason}. Its records stay; bootstrap --undo removes them")
    return False


def _undo(environment: Environment, path: Path) -> None:
    from stash_sense_pipeline.catalog.source_lock import source_lock
    from stash_sense_pipeline.release.bootstrap.undo import undo_release

    with existing_catalog(environment) as engine, source_lock(engine, _LOCK, echo):
        report = undo_release(engine, _taken_over(engine, path), datetime.now(UTC))
    echo(
        f"release {report.version}: removed {report.claims} claimed faces, {report.faces} faces in use and "
        f"{report.records} records that no source has confirmed"
    )
    if report.bytes_left is not None:
        echo(
            f"deleted bytes are still in the catalog's file: {report.bytes_left}; run stash-sense suppress apply later"
        )


def _taken_over(engine: sa.Engine, path: Path) -> ClaimedRelease:
    """The release at this path, or of this version. ConfigurationError when the catalog has none or several."""
    from stash_sense_pipeline.catalog.queries.claims.releases import all_releases
    from stash_sense_pipeline.catalog.transactions import reading
    from stash_sense_pipeline.release.bootstrap.claim import manifest_digest_of

    digest = manifest_digest_of(path) if path.exists() else None
    with reading(engine) as connection:
        known = all_releases(connection)
    found = [
        each
        for each in known
        if digest in (each.manifest_digest, None) and (digest or each.version == str(path))
    ]
    if len(found) != 1:
        versions = ", ".join(f"{each.version} ({each.state})" for each in known) or "none"
        problem = "was not taken over" if not found else "is the version of several releases; give its path"
        raise ConfigurationError(f"{path} {problem}; taken over: {versions}")
    return found[0]
