"""The command `stash-sense`: thin commands over the rooms below, a module a subject; what they say is for a person."""

from __future__ import annotations

from typing import Any

import click

from stash_sense_pipeline.cli import (
    bootstrap,
    building,
    catalog,
    identity,
    models,
    operating,
    releases,
    settings,
    suppress,
)
from stash_sense_pipeline.cli.common import echo
from stash_sense_pipeline.cli.failures import explained
from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.foundation.files import keep_files_private


class _Commands(click.Group):
    """Prints an error that an operator can mend as one line. With --debug it is raised, with its traceback.

    Such are each StashSenseError, with its own exit code, and errors of the disk and of databases, with exit code 1.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StashSenseError as error:
            if ctx.params.get("debug"):
                raise
            echo(f"stash-sense: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            echo("stash-sense: stopped", err=True)
            ctx.exit(130)
        except Exception as error:
            # Click itself ends a command that writes to a closed pipe, and its own errors tell the usage.
            text = (
                explained(error)
                if not isinstance(error, click.ClickException | click.exceptions.Exit)
                else None
            )
            if text is None or ctx.params.get("debug"):
                raise
            echo(f"stash-sense: {text}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="stash-sense-pipeline")
def main(debug: bool) -> None:
    """Build a face-recognition database of performers, keep it up to date, and publish releases of it.

    Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 interrupted.
    """
    keep_files_private()


for _command in (
    bootstrap.bootstrap,
    building.build,
    building.demo,
    building.ui,
    catalog.sources,
    catalog.export,
    catalog.status,
    catalog.import_legacy_command,
    identity.identity,
    models.models,
    operating.backup,
    operating.doctor,
    operating.prepare,
    operating.restore,
    operating.serve,
    releases.releases,
    releases.verify,
    identity.review,
    settings.alerts,
    settings.settings,
    suppress.suppress,
):
    main.add_command(_command)
releases.releases.add_command(suppress.revoke)
