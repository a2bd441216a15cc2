"""Commands on releases: verify, list, diff, build, prune, install, upload, fetch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import (
    echo,
    environment_of,
    existing_catalog,
    json_option,
    print_json,
    print_rows,
    release_directory,
)
from stash_sense_pipeline.foundation.visible_text import visible_line

if TYPE_CHECKING:
    from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
    from stash_sense_pipeline.release.checks.check_result import CheckResult
    from stash_sense_pipeline.release.distribution.github import Destination
    from stash_sense_pipeline.release.distribution.install import InstallReport
    from stash_sense_pipeline.settings.environment import Environment


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check a release directory or zip against the sidecar's contract. One line for each check; exit 1 on a failure."""
    from stash_sense_pipeline.release.checks.verify import verify_release

    _print_checks(verify_release(path), as_json)


def _print_checks(checks: Sequence[CheckResult], as_json: bool) -> None:
    """Prints the result of each check, and exits with 1 when one failed as an error."""
    if as_json:
        shown = ("name", "passed", "severity", "detail")
        print_json([{name: getattr(check, name) for name in shown} for check in checks])
    else:
        for check in checks:
            echo(visible_line(f"{_mark(check.passed, check.severity)}  {check.name}: {check.detail}"))
    sys.exit(0 if all(check.passed or check.severity == "warning" for check in checks) else 1)


@click.group()
def releases() -> None:
    """Published releases: list, compare, build, prune, install into a sidecar, upload, fetch from a repository.

    VERSION is a version or `latest`, and with .small behind it the flavour small of it. With --format sense2 the releases
    are those for stash-sense2.
    """


_FORMATS = click.Choice(["sidecar", "sense2"])
_format_option = click.option(
    "--format",
    "form",
    type=_FORMATS,
    default="sidecar",
    show_default=True,
    help="Of the Stash Sense sidecar, or of stash-sense2.",
)


@releases.command("list")
@_format_option
@json_option
def releases_list(form: str, as_json: bool) -> None:
    """List the releases with their counts, oldest first; each flavour is a row."""
    from stash_sense_pipeline.release.distribution.history import list_releases
    from stash_sense_pipeline.release.sense2.history import list_sense2

    environment = environment_of(os.environ)
    if form == "sense2":
        rows = list_sense2(environment.data_dir)
    else:
        rows = [vars(release) for release in list_releases(environment.releases_dir)]
    print_rows(rows, "no release has been published yet", as_json=as_json)


@releases.command("build")
@click.option("--format", "form", type=click.Choice(["sense2"]), required=True, help="Of stash-sense2.")
@click.option(
    "--accept-shrink",
    is_flag=True,
    help="Publish although performers or faces are missing without an explanation.",
)
def releases_build(form: str, accept_shrink: bool) -> None:
    """Publish a release from the catalog. No source is read, and no identity changes.

    A release for the sidecar is made by `stash-sense build`. One for stash-sense2 needs global.second_pack and faces of
    it. It does not wait for export.cadence.
    """
    from stash_sense_pipeline.faces.models.model_packs import load_pack
    from stash_sense_pipeline.faces.requeue import load_second_pack
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.checks.check_result import failures
    from stash_sense_pipeline.release.sense2.publish import publish_sense2
    from stash_sense_pipeline.release.spec import sense2_spec
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    settings = load_settings(environment.sources_file)
    first = load_pack(environment.model_pack, environment.models_dir)
    second = load_second_pack(settings.global_.second_pack, environment.models_dir, first)
    with existing_catalog(environment) as engine:
        listed = current_suppressions(engine, environment, settings.names)
        spec = sense2_spec(settings, second, listed, accept_shrink=accept_shrink)
        report = publish_sense2(engine, environment.data_dir, spec, datetime.now(UTC).date())
    state = "" if report.changed else ": nothing changed since it was made"
    echo(f"{form} release {report.version}: {report.performers} performers, {report.faces} faces{state}")
    if report.why_full is not None:
        echo(f"without a delta: {report.why_full}")
    for name, size in report.sizes.items():
        echo(f"{report.path / name}  {size} bytes")
    for check in report.checks:
        if not check.passed:
            echo(
                visible_line(f"{_mark(check.passed, check.severity)}  {check.name}: {check.detail}"), err=True
            )
    if failures(report.checks):
        sys.exit(1)


@releases.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@_format_option
@json_option
def releases_verify(path: Path, form: str, as_json: bool) -> None:
    """Check a release directory or zip, as `stash-sense verify`. One line for each check; exit 1 on a failure."""
    from stash_sense_pipeline.release.checks.verify import verify_release
    from stash_sense_pipeline.release.sense2.verify import verify_sense2

    _print_checks(verify_sense2(path) if form == "sense2" else verify_release(path), as_json)


@releases.command("diff")
@click.argument("old")
@click.argument("new")
@_format_option
@json_option
def releases_diff(old: str, new: str, form: str, as_json: bool) -> None:
    """Show which performers and faces were added, removed, changed, merged and split between two versions.

    With --format sense2 OLD and NEW may also be full zips.
    """
    from stash_sense_pipeline.release.reports.release_diff import diff_releases
    from stash_sense_pipeline.release.reports.release_diff_tables import describe_diff

    if form == "sense2":
        _diff_sense2(old, new, as_json)
        return
    diff = diff_releases(release_directory(old), release_directory(new))
    if as_json:
        print_json(asdict(diff))
    else:
        echo(describe_diff(diff))


def _diff_sense2(old: str, new: str, as_json: bool) -> None:
    from stash_sense_pipeline.release.sense2.history import diff_sense2, full_zip_of

    data_dir = environment_of(os.environ).data_dir
    before, after = (
        Path(named) if Path(named).exists() else full_zip_of(data_dir, named) for named in (old, new)
    )
    diff = asdict(diff_sense2(before, after))
    if as_json:
        print_json(diff)
        return
    for name, found in diff.items():
        echo(f"{name}: {found if isinstance(found, int) else len(found)}")


@releases.command("prune")
@click.option("--keep", type=click.IntRange(1), required=True, help="Number of newest releases to keep.")
def releases_prune(keep: int) -> None:
    """Remove old releases with all flavours, but never the one that `latest` points to or that was uploaded last."""
    from stash_sense_pipeline.release.distribution.history import prune_releases

    removed = prune_releases(environment_of(os.environ).releases_dir, keep)
    echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")


@releases.command("install")
@click.argument("version")
@click.option("--to", "directory", type=click.Path(path_type=Path, file_okay=False), required=True)
def releases_install(version: str, directory: Path) -> None:
    """Install a release into the data directory of a stopped sidecar.

    The release is verified first, the old files are kept, and a failure restores them. A release that holds people on the
    suppression list is refused.
    """
    from stash_sense_pipeline.release.distribution.install import install_release

    release = release_directory(version)
    _refuse_suppressed(environment_of(os.environ), release)
    _tell_installed(install_release(release, directory))


@releases.command("upload")
@click.argument("version")
@_format_option
def releases_upload(version: str, form: str) -> None:
    """Publish a release on GitHub, where the sidecar's updater finds it. It is a draft until its zip is uploaded.

    Each flavour that has a repository (export.github.repository, small_repository) goes there; VERSION.small sends that
    flavour alone. The token is GITHUB_TOKEN. After a failure, run it again: it continues and uploads nothing twice. It
    does not wait for export.cadence. A release that holds people on the suppression list is refused. With --format sense2,
    full zip, delta and links go to export.github.sense2_repository.
    """
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.release.distribution.upload import upload_release

    environment = environment_of(os.environ)
    if form == "sense2":
        _upload_sense2(environment, version)
        return
    directory = release_directory(version)
    for destination in _destinations(environment, directory):
        with progress_of("upload") as progress:
            report = upload_release(
                environment.releases_dir,
                directory.name.removesuffix(f".{destination.flavour}"),
                destination,
                check=partial(_refuse_suppressed, environment),
                progress=progress,
            )
        echo(f"{'uploaded' if report.uploaded else 'already uploaded:'} {report.asset}, {report.bytes} bytes")
        echo(report.url)
        if not report.latest:
            echo("a newer version is published there; sidecars keep that one", err=True)


def _upload_sense2(environment: Environment, named: str) -> None:
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.release.distribution.sense2_upload import (
        refuse_named,
        sense2_destination,
        upload_sense2,
        versions_to_upload,
    )
    from stash_sense_pipeline.release.sense2.history import full_zip_of, names_suppressed
    from stash_sense_pipeline.settings.sources_file import load_settings

    settings = load_settings(environment.sources_file)
    destination = sense2_destination(settings, environment)
    version = full_zip_of(environment.data_dir, named).parent.name

    def check(directory: Path) -> None:
        suppressions, hosts = _current_list(environment)
        if suppressions is not None:
            refuse_named(directory, suppressions, hosts)

    suppressions, hosts = _current_list(environment)
    waiting = versions_to_upload(
        environment.data_dir,
        destination,
        lambda directory: suppressions is not None and names_suppressed(directory, suppressions, hosts),
    )
    # Each version is a step of the chain of deltas: those before the named one go first.
    for each in [*(earlier for earlier in waiting if earlier < version), version]:
        with progress_of("upload") as progress:
            report = upload_sense2(environment.data_dir, each, destination, check=check, progress=progress)
        said = "uploaded" if report.uploaded else "already uploaded:"
        echo(f"{said} {', '.join(report.assets)}, {report.bytes} bytes")
        echo(report.url)
    if not report.latest:
        echo("a newer version is published there; clients keep that one", err=True)


def _destinations(environment: Environment, release: Path) -> list[Destination]:
    """Where the release goes: a named flavour to its own repository, else each flavour that the version has."""
    from stash_sense_pipeline.release.contract import Flavour
    from stash_sense_pipeline.release.distribution.github import Destination
    from stash_sense_pipeline.release.distribution.upload import upload_destinations
    from stash_sense_pipeline.release.versions import flavours_of, named_release
    from stash_sense_pipeline.settings.sources_file import load_settings

    found = upload_destinations(load_settings(environment.sources_file), environment)
    version, flavour = named_release(release.name) or (release.name, Flavour.FULL)
    if flavour is not Flavour.FULL:
        return [found.get(flavour) or Destination("", "", "", flavour=flavour)]
    made = flavours_of(environment.releases_dir, version)
    sent = [destination for each, destination in found.items() if each in made]
    # Without any the error is that of a missing flavour.
    return sent or list(found.values())


@releases.command("fetch")
@click.option("--to", "directory", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--small", is_flag=True, help="From export.github.small_repository: the flavour small.")
@click.option(
    "--repository", metavar="OWNER/NAME", help="From this repository, not from that of sources.yaml."
)
def releases_fetch(directory: Path, small: bool, repository: str | None) -> None:
    """Install the newest release of a repository into the data directory of a stopped sidecar.

    The repository is export.github.repository of sources.yaml. The release is verified first, the old files are kept, and
    a failure restores them. Nothing is downloaded when DIRECTORY is as new. A private repository needs GITHUB_TOKEN. A
    release that holds people on the suppression list is refused.
    """
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.release.distribution.fetch import fetch_release

    environment = environment_of(os.environ)
    source = _fetch_source(environment, small, repository)
    with progress_of("download") as progress:
        report = fetch_release(
            source,
            directory,
            environment.data_dir,
            check=partial(_refuse_suppressed, environment),
            progress=progress,
        )
    if report.installed is None:
        echo(f"{directory} has {report.previous}; the newest of {source.repository} is {report.version}")
        return
    _tell_installed(report.installed)


def _fetch_source(environment: Environment, small: bool, repository: str | None) -> Destination:
    from stash_sense_pipeline.release.contract import Flavour
    from stash_sense_pipeline.release.distribution.github import Destination
    from stash_sense_pipeline.release.distribution.upload import repositories
    from stash_sense_pipeline.settings.schema import REPOSITORY_FORM
    from stash_sense_pipeline.settings.sources_file import load_settings

    settings = load_settings(environment.sources_file)
    if repository is not None and not REPOSITORY_FORM.fullmatch(repository):
        raise click.UsageError(f"--repository: {repository!r} is not owner/name")
    flavour = Flavour.SMALL if small else Flavour.FULL
    named = repository or repositories(settings).get(flavour, "")
    return Destination(named, settings.export.github.api, environment.github_token or "", flavour=flavour)


def _tell_installed(report: InstallReport) -> None:
    echo(f"installed {report.version} in {report.directory}, before it was {report.previous or 'empty'}")
    if report.backup:
        echo(f"the old files are in {report.backup}")


def _refuse_suppressed(environment: Environment, release: Path) -> None:
    """Raises ReleaseError when the release holds people on the current suppression list."""
    from stash_sense_pipeline.release.checks.suppression_check import refuse_suppressed

    suppressions, hosts = _current_list(environment)
    if suppressions is not None:
        refuse_suppressed(release, suppressions, hosts)


def _current_list(environment: Environment) -> tuple[Suppressions | None, Mapping[str, str]]:
    """The current suppression list, None where there is neither a list nor a catalog; and the hosts of the stash-boxes."""
    from stash_sense_pipeline.catalog.engine import is_there, open_catalog
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.settings.sources_file import load_settings

    if not (environment.suppressions_file.exists() or is_there(environment.catalog_url)):
        return None, {}
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    try:
        suppressions = current_suppressions(engine, environment, settings.names)
    finally:
        engine.dispose()
    return suppressions, {name: box.host for name, box in settings.stash_boxes.items()}


def _mark(passed: bool, severity: str) -> str:
    return "ok     " if passed else "warning" if severity == "warning" else "FAILED "
