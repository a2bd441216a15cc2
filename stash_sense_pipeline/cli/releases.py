"""Commands on releases: verify, list, diff, prune, install, upload, fetch."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stash_sense_pipeline.cli.common import (
    echo,
    environment_of,
    json_option,
    print_json,
    print_rows,
    release_directory,
)
from stash_sense_pipeline.foundation.visible_text import visible_line

if TYPE_CHECKING:
    from stash_sense_pipeline.release.distribution.github import Destination
    from stash_sense_pipeline.release.distribution.install import InstallReport
    from stash_sense_pipeline.settings.environment import Environment


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check a release directory or zip against the sidecar's contract. One line for each check; exit 1 on a failure."""
    from stash_sense_pipeline.release.checks.verify import verify_release

    checks = verify_release(path)
    if as_json:
        shown = ("name", "passed", "severity", "detail")
        print_json([{name: getattr(check, name) for name in shown} for check in checks])
    else:
        for check in checks:
            echo(visible_line(f"{_mark(check.passed, check.severity)}  {check.name}: {check.detail}"))
    sys.exit(0 if all(check.passed or check.severity == "warning" for check in checks) else 1)


@click.group()
def releases() -> None:
    """Published releases: list, compare, prune, install into a sidecar, upload, fetch from a repository.

    VERSION is a version or `latest`, and with .small behind it the flavour small of it.
    """


@releases.command("list")
@json_option
def releases_list(as_json: bool) -> None:
    """List the releases with their counts, oldest first; each flavour is a row."""
    from stash_sense_pipeline.release.distribution.history import list_releases

    found = list_releases(environment_of(os.environ).releases_dir)
    print_rows([vars(release) for release in found], "no release has been published yet", as_json=as_json)


@releases.command("diff")
@click.argument("old")
@click.argument("new")
@json_option
def releases_diff(old: str, new: str, as_json: bool) -> None:
    """Show which performers and faces were added, removed, changed, merged and split between two versions."""
    from stash_sense_pipeline.release.reports.release_diff import diff_releases
    from stash_sense_pipeline.release.reports.release_diff_tables import describe_diff

    diff = diff_releases(release_directory(old), release_directory(new))
    if as_json:
        print_json(asdict(diff))
    else:
        echo(describe_diff(diff))


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
def releases_upload(version: str) -> None:
    """Publish a release on GitHub, where the sidecar's updater finds it. It is a draft until its zip is uploaded.

    Each flavour that has a repository (export.github.repository, small_repository) goes there; VERSION.small sends that
    flavour alone. The token is GITHUB_TOKEN. After a failure, run it again: it continues and uploads nothing twice. It
    does not wait for export.cadence. A release that holds people on the suppression list is refused.
    """
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.release.distribution.upload import upload_release

    environment = environment_of(os.environ)
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
    from stash_sense_pipeline.catalog.engine import is_there, open_catalog
    from stash_sense_pipeline.privacy.enforcement import current_suppressions
    from stash_sense_pipeline.release.checks.suppression_check import refuse_suppressed
    from stash_sense_pipeline.settings.sources_file import load_settings

    if not (environment.suppressions_file.exists() or is_there(environment.catalog_url)):
        return
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    try:
        suppressions = current_suppressions(engine, environment, settings.names)
    finally:
        engine.dispose()
    refuse_suppressed(release, suppressions, {name: box.host for name, box in settings.stash_boxes.items()})


def _mark(passed: bool, severity: str) -> str:
    return "ok     " if passed else "warning" if severity == "warning" else "FAILED "
