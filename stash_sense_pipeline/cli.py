"""The command `stash-sense`: thin commands over the rooms below; what they say is for a person at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stash_sense_pipeline.errors import ConfigurationError, StashSenseError

if TYPE_CHECKING:
    from stash_sense_pipeline.orchestration.build import BuildResult, PartResult
    from stash_sense_pipeline.settings import Environment, RunOverrides


class _Commands(click.Group):
    """Turns the errors that a user can meet into one line and an exit code; --debug lets them through."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StashSenseError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"stash-sense: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="stash-sense-pipeline")
def main(debug: bool) -> None:
    """Build and keep fresh a face-recognition database of performers, and publish releases of it.

    Exit codes: 0 done, 1 failed, 2 usage or configuration.
    """


@main.command()
@click.option("--sources", help="Names of sources, a,b: exactly these are refreshed.")
@click.option("--disable-source", "disabled_sources", multiple=True, help="Name of a source to leave out.")
@click.option(
    "--source-max-faces", multiple=True, help="Most faces of a performer from a source: stashdb=10."
)
@click.option("--max-faces-total", type=int, help="Most faces of a performer from all sources.")
@click.option(
    "--reference-mode", type=click.Choice(["url", "name"]), help="How reference sites look a performer up."
)
@click.option("--sync-updates-only", is_flag=True, help="Read only what changed since the last time.")
@click.option("--full-sweep", is_flag=True, help="Compare every record with its source.")
@click.option("--completeness-threshold", type=int, help="A performer with this many faces is complete.")
@click.option("--no-faces", is_flag=True, help="Records and identities only: no images, no release.")
def build(sync_updates_only: bool, full_sweep: bool, no_faces: bool, **options: Any) -> None:
    """Refresh each enabled source, then publish a release: the same jobs as in the UI, here and now.

    Exit code 0 only if everything asked for was done, or nothing had changed.
    """
    from stash_sense_pipeline.settings import make_overrides

    if sync_updates_only and full_sweep:
        raise ConfigurationError("--sync-updates-only and --full-sweep contradict each other; give one")
    sync = "updates_only" if sync_updates_only else "full_sweep" if full_sweep else "auto"
    given = {name: value for name, value in options.items() if value not in (None, ())}
    environment = _environment(os.environ)
    home = Path(os.environ.get("DAGSTER_HOME") or environment.data_dir / "dagster")
    result = _build(environment, make_overrides({**given, "sync": sync, "faces": not no_faces}), home)
    sys.exit(0 if result.complete else 1)


@main.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo"),
    show_default=True,
)
def demo(data_dir: Path) -> None:
    """Run the whole pipeline on a world of invented people, served on this machine. Needs no key, no GPU, no download."""
    from stash_sense_pipeline.sandbox.demo import demo_world
    from stash_sense_pipeline.settings import RunOverrides

    with demo_world(data_dir.resolve()) as variables:
        # Not what the shell says: the demo must never touch an operator's own catalog or run history.
        environment = _environment(variables)
        result = _build(environment, RunOverrides(), environment.data_dir / "dagster")
    if not result.complete:
        sys.exit(1)
    click.echo("\nOpen the Dagster UI on this data:  make ui   (then http://127.0.0.1:3000)")


@main.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo"),
    show_default=True,
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def ui(data_dir: Path, port: int) -> None:
    """Open the Dagster UI on the demo's data, with the sandbox world running beside it. Ctrl-C ends both."""
    from stash_sense_pipeline.orchestration.instance import prepare_home
    from stash_sense_pipeline.orchestration.ui import serve_ui
    from stash_sense_pipeline.sandbox.demo import demo_world
    from stash_sense_pipeline.shipped_files import shipped_file

    if not (data_dir / "catalog.db").exists():
        raise ConfigurationError(f"there is no demo data in {data_dir}; run `make demo` first")
    with demo_world(data_dir.resolve()) as variables:
        home = prepare_home(data_dir.resolve() / "dagster")
        click.echo(f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C ends it)")
        own = {name: value for name, value in os.environ.items() if not name.startswith("STASH_SENSE_")}
        environment = {**own, **variables, "DAGSTER_HOME": str(home)}
        sys.exit(serve_ui(shipped_file("workspace.yaml"), port, environment))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check a release directory or zip against the sidecar's contract: one line a check, exit 1 on any failure."""
    from stash_sense_pipeline.release.verify import verify_release

    checks = verify_release(path)
    for check in checks:
        click.echo(f"{_mark(check.passed, check.severity)}  {check.name}: {check.detail}")
    sys.exit(0 if all(check.passed or check.severity == "warning" for check in checks) else 1)


@main.command()
def status() -> None:
    """Show what the catalog holds of each source, and how its last sync ended."""
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.catalog.status import source_status
    from stash_sense_pipeline.settings import load_settings

    environment = _environment(os.environ)
    settings = load_settings(environment.sources_file)
    engine = open_catalog(environment.catalog_url)
    try:
        rows = source_status(engine, [source.name for source in settings.sources])
    finally:
        engine.dispose()
    _print_table([vars(row) for row in rows])


@main.command("import-legacy")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def import_legacy_command(directory: Path) -> None:
    """Take over a predecessor's progress.json (version 1 or 2), performers.json and performers.db.

    The next refresh reads every performer from its source all the same, and the images of all are fetched; the
    predecessor's faces only decide in which order. Doing it again changes nothing.
    """
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.privacy.current import current_suppressions
    from stash_sense_pipeline.settings import load_settings
    from stash_sense_pipeline.sources.legacy import read_legacy
    from stash_sense_pipeline.sources.legacy_import import import_legacy

    environment = _environment(os.environ)
    settings = load_settings(environment.sources_file)
    legacy = read_legacy(directory, settings.stash_boxes.values())
    engine = open_catalog(environment.catalog_url)
    try:
        suppressions = current_suppressions(engine, environment, settings.names)
        report = import_legacy(engine, legacy, suppressions, datetime.now(UTC))
    finally:
        engine.dispose()
    click.echo(f"read {', '.join(legacy.files)} in {directory}")
    _print_table([vars(source) for source in report.sources])
    click.echo(f"performer ids kept: {report.performer_ids}")
    left_out = {
        "suppressed": report.suppressed,
        "not of an adult": report.not_adult,
        "without a name or a usable id": legacy.unusable,
        **{f"of {place}, not in {environment.sources_file.name}": n for place, n in legacy.elsewhere.items()},
    }
    for reason, count in left_out.items():
        if count:
            click.echo(f"left out, {reason}: {count}")


@main.group()
def models() -> None:
    """Model packs: the detector and the embedders."""


@models.command("list")
def models_list() -> None:
    """List the packs that are known or installed."""
    from stash_sense_pipeline.faces.installing import list_packs

    packs = list_packs(_environment(os.environ).models_dir)
    shown = ("name", "known", "installed", "demo", "size", "problem")
    _print_table([{column: getattr(pack, column) for column in shown} for pack in packs])


@models.command("pull")
@click.argument("name")
@click.option(
    "--accept-licence", is_flag=True, help="You have read the licence of the weights and keep to it."
)
def models_pull(name: str, accept_licence: bool) -> None:
    """Download a known pack into the models directory: resumed, every file verified before it gets its name."""
    import logging

    from stash_sense_pipeline.faces.installing import known_packs, pull_pack
    from stash_sense_pipeline.orchestration.progress import progress_bars

    if name in known_packs():
        click.echo(f"licence of {name}: {known_packs()[name].licence}")
    bars = progress_bars(logging.getLogger(__name__), name)
    directory = _environment(os.environ).models_dir
    click.echo(f"installed in {pull_pack(name, directory, accept_licence=accept_licence, progress=bars)}")


@models.command("check")
@click.argument("name")
def models_check(name: str) -> None:
    """Verify an installed pack, or a pack directory: its description, its files, and that each network runs."""
    from stash_sense_pipeline.faces.installing import check_pack

    pack = check_pack(name, _environment(os.environ).models_dir)
    click.echo(
        f"{pack.name}: detector {pack.detector.path.name}, embedders {', '.join(pack.embedders)}; all run"
    )
    click.echo(f"licence: {pack.licence}")


@main.group()
def releases() -> None:
    """Published releases: what there is, what changed, which to keep, and into a sidecar with one."""


@releases.command("list")
def releases_list() -> None:
    """List the releases with their counts, oldest first."""
    from stash_sense_pipeline.release.history import list_releases

    _print_table([vars(release) for release in list_releases(_environment(os.environ).releases_dir)])


@releases.command("diff")
@click.argument("old")
@click.argument("new")
def releases_diff(old: str, new: str) -> None:
    """Show which performers and faces came, went, changed, merged and split from one version to another."""
    from stash_sense_pipeline.release.history import describe_diff, diff_releases

    click.echo(describe_diff(diff_releases(_release(old), _release(new))))


@releases.command("prune")
@click.option("--keep", type=click.IntRange(1), required=True, help="How many of the newest releases stay.")
def releases_prune(keep: int) -> None:
    """Remove old releases with their zips, never the one that `latest` shows."""
    from stash_sense_pipeline.release.history import prune_releases

    removed = prune_releases(_environment(os.environ).releases_dir, keep)
    click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")


@releases.command("install")
@click.argument("version")
@click.option("--to", "directory", type=click.Path(path_type=Path, file_okay=False), required=True)
def releases_install(version: str, directory: Path) -> None:
    """Put a release into a stopped sidecar's data directory: verified first, the old files kept, undone on failure."""
    from stash_sense_pipeline.release.install import install_release

    report = install_release(_release(version), directory)
    click.echo(
        f"installed {report.version} in {report.directory}, before it was {report.previous or 'empty'}"
    )
    if report.backup:
        click.echo(f"the old files are in {report.backup}")


@main.group()
def identity() -> None:
    """Identities: who is the same person, and why."""


@identity.command("explain")
@click.argument("record", metavar="SOURCE:ID")
def identity_explain(record: str) -> None:
    """Show the members of a record's identity, what links them, and what was refused."""
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.identity.explain import explain

    source, colon, source_id = record.partition(":")
    if not (source and colon and source_id):
        raise ConfigurationError(f"{record!r} is not of the form SOURCE:ID, as in stashdb:<id>")
    engine = open_catalog(_environment(os.environ).catalog_url)
    try:
        for line in explain(engine, source, source_id):
            click.echo(line)
    finally:
        engine.dispose()


def _release(version: str) -> Path:
    """The directory of a version, or of `latest`."""
    path = _environment(os.environ).releases_dir / version
    if not path.is_dir():
        raise ConfigurationError(
            f"there is no release {version} in {path.parent}; see stash-sense releases list"
        )
    return path.resolve()


def _environment(variables: Mapping[str, str]) -> Environment:
    from stash_sense_pipeline.settings import read_environment

    return read_environment(variables, Path.cwd())


def _build(environment: Environment, overrides: RunOverrides, home: Path) -> BuildResult:
    from stash_sense_pipeline.definitions import build_defs
    from stash_sense_pipeline.orchestration.build import build as run_build
    from stash_sense_pipeline.orchestration.instance import open_instance
    from stash_sense_pipeline.orchestration.progress import progress_bars
    from stash_sense_pipeline.settings import load_settings

    settings = load_settings(environment.sources_file)
    if settings.missing_contact:
        click.echo(
            f"warning: global.user_agent_contact is empty in {environment.sources_file}; "
            "fill it in, so that a source can reach you",
            err=True,
        )
    definitions = build_defs(
        settings=settings, environment=environment, resources={"progress": progress_bars}
    )
    with open_instance(home) as instance:
        return run_build(definitions, instance, settings, environment, overrides, _announce)


def _announce(part: PartResult) -> None:
    from stash_sense_pipeline.orchestration.summary import summary_lines

    for line in summary_lines(part):
        click.echo(line, err=part.status != "done")


def _mark(passed: bool, severity: str) -> str:
    return "ok     " if passed else "warning" if severity == "warning" else "FAILED "


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    cells = [
        list(rows[0]),
        *([("-" if value is None else str(value)) for value in row.values()] for row in rows),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
