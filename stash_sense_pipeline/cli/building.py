"""Commands that run the pipeline: build, demo, ui."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stash_sense_pipeline.cli.common import check_port, echo, environment_of, ui_variables
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.run_options import command_options

if TYPE_CHECKING:
    from stash_sense_pipeline.orchestration.builds.build import BuildResult, PartResult
    from stash_sense_pipeline.settings.environment import Environment
    from stash_sense_pipeline.settings.run_overrides import RunOverrides
    from stash_sense_pipeline.settings.schema import Settings


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a run that the command line has. A switch is named by its spelling."""
    for option in reversed(command_options()):
        for flag in reversed(option.flags):
            command = click.option(flag.spelling, is_flag=True, help=flag.help)(command)
        if option.spelling:
            kind = click.Choice(option.choices) if option.choices else int if option.least else str
            command = click.option(
                option.spelling, option.name, type=kind, multiple=option.repeats, help=option.help
            )(command)
    return command


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the command line gave. Raises ConfigurationError for two switches of one option."""
    given: dict[str, Any] = {}
    for option in command_options():
        if values.get(option.name) not in (None, ()):
            given[option.name] = values[option.name]
        chosen = [
            flag for flag in option.flags if values.get(flag.spelling.lstrip("-").replace("-", "_")) is True
        ]
        if len(chosen) > 1:
            spellings = " and ".join(flag.spelling for flag in chosen)
            raise ConfigurationError(f"{spellings} contradict each other; give one")
        if chosen:
            given[option.name] = chosen[0].value
    return given


@click.command()
@_with_run_options
def build(**options: Any) -> None:
    """Refresh each enabled source, then publish a release. Runs the same jobs as the UI, without the daemon.

    Sources are refreshed side by side; no host is asked faster than its rate limit. Ctrl-C stores what is in flight and
    publishes nothing; a second one ends at once. Exit code 0 only if every part was done, also when nothing had changed.
    """
    from stash_sense_pipeline.settings.run_overrides import make_overrides

    overrides = make_overrides(_given(options))
    environment = environment_of(os.environ)
    home = Path(os.environ.get("DAGSTER_HOME") or environment.data_dir / "dagster")
    result = _build(environment, overrides, home)
    sys.exit(0 if result.complete else 1)


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo"),
    show_default=True,
)
@click.option(
    "--with-tattoos", is_flag=True, help="Half of the people have a tattoo, and the pipeline collects them."
)
def demo(data_dir: Path, with_tattoos: bool) -> None:
    """Run the whole pipeline on invented people that this machine serves. Needs no key, no GPU, no download."""
    from stash_sense_pipeline.sandbox.demo import demo_world
    from stash_sense_pipeline.settings.run_overrides import RunOverrides

    with demo_world(data_dir.resolve(), tattoos=with_tattoos) as variables:
        # Without the variables of the shell: the demo must never touch an operator's own catalog or run history.
        environment = environment_of(variables)
        result = _build(environment, RunOverrides(), environment.data_dir / "dagster", estimated=False)
    if not result.complete:
        sys.exit(1)
    echo("\nOpen the Dagster UI on this data:  make ui   (then http://127.0.0.1:3000)")


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo"),
    show_default=True,
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def ui(data_dir: Path, port: int) -> None:
    """Open the Dagster UI on the data of the demo, and serve the sandbox world meanwhile. Ctrl-C ends both."""
    from stash_sense_pipeline.deployment.dagster_home import only_daemon, prepare_home, restrict_data
    from stash_sense_pipeline.deployment.supervisor import UiServer, serve_ui
    from stash_sense_pipeline.sandbox.demo import demo_world

    if not (data_dir / "catalog.db").is_file():
        raise ConfigurationError(f"there is no demo data in {data_dir}; run `make demo` first")
    check_port("127.0.0.1", port)
    of_the_ui = ui_variables(os.environ, "127.0.0.1")
    with demo_world(data_dir.resolve(), tattoos=None) as variables:
        home = prepare_home(data_dir.resolve() / "dagster")
        own = {name: value for name, value in os.environ.items() if not name.startswith("STASH_SENSE_")}
        environment = {**own, **of_the_ui, **variables, "DAGSTER_HOME": str(home)}
        restrict_data(data_dir.resolve(), home)
        with only_daemon(home) as held:
            sys.exit(serve_ui(UiServer(home, "127.0.0.1", port, environment, [held]), echo))


def _build(
    environment: Environment, overrides: RunOverrides, home: Path, *, estimated: bool = True
) -> BuildResult:
    from stash_sense_pipeline.cli.progress_display import progress_display
    from stash_sense_pipeline.definitions import build_defs
    from stash_sense_pipeline.deployment.dagster_home import check_writable, restrict_data
    from stash_sense_pipeline.deployment.dagster_instance import open_instance
    from stash_sense_pipeline.orchestration.builds.build import Listener
    from stash_sense_pipeline.orchestration.builds.build import build as run_build
    from stash_sense_pipeline.orchestration.builds.build_summary import closing_lines
    from stash_sense_pipeline.orchestration.builds.run_process import CodeLocation, ProgressMessage
    from stash_sense_pipeline.settings.run_overrides import apply_overrides
    from stash_sense_pipeline.settings.sources_file import load_settings

    # Until the build notes signals itself, SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = apply_overrides(load_settings(environment.sources_file), overrides)
    if settings.missing_contact:
        raise ConfigurationError(
            f"no source is asked without a contact address: set global.user_agent_contact in {environment.sources_file} "
            "to a web or mail address of yours"
        )
    check_writable(environment.data_dir)
    restrict_data(environment.data_dir, home)
    open_instance(home).dispose()
    location = CodeLocation(build_defs, open_instance, home, settings, environment)
    with progress_display() as display:

        def show(message: ProgressMessage) -> None:
            display(message.subject, message.stage, message.done, message.total, message.counts)

        def begin(sources: Sequence[str]) -> None:
            if estimated:
                _announce_estimate(environment, settings, sources, faces=overrides.faces)

        result = run_build(location, overrides, Listener(_announce, show, begin))
    for line in closing_lines(result, _completeness(environment, settings) if overrides.faces else None):
        echo(line)
    return result


def _announce_estimate(
    environment: Environment, settings: Settings, sources: Sequence[str], *, faces: bool
) -> None:
    from stash_sense_pipeline.deployment.readiness.doctor import first_build, wrapped_estimate

    estimate = first_build(settings, environment, sources, faces=faces)
    for line in wrapped_estimate(estimate) if estimate is not None else ():
        echo(line)


def _completeness(environment: Environment, settings: Settings) -> tuple[int, int]:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.catalog.queries.status import completeness

    engine = open_catalog(environment.catalog_url)
    try:
        return completeness(engine, settings.global_.completeness_threshold)
    finally:
        engine.dispose()


def _announce(part: PartResult) -> None:
    from stash_sense_pipeline.orchestration.builds.build_summary import summary_lines

    for line in summary_lines(part):
        echo(line, err=part.status != "done")
