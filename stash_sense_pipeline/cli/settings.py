"""Commands on the settings: the effective settings, a test of the alerts."""

from __future__ import annotations

import os

import click

from stash_sense_pipeline.cli.common import echo, environment_of, json_option, print_json, print_table
from stash_sense_pipeline.foundation.errors import ConfigurationError


@click.group()
def settings() -> None:
    """The settings of this machine: environment variables and sources.yaml."""


@settings.command("show")
@click.argument("part", required=False)
@json_option
def settings_show(part: str | None, as_json: bool) -> None:
    """Show every setting with its value, where the value comes from, and what it means. Secrets are masked.

    PART shows only the settings with it in their name, as in `settings show stashdb`.
    """
    from stash_sense_pipeline.settings.effective import effective_settings
    from stash_sense_pipeline.settings.sources_file import load_settings

    environment = environment_of(os.environ)
    rows = [
        vars(row)
        for row in effective_settings(load_settings(environment.sources_file), environment, os.environ)
        if part is None or part.lower() in row.setting.lower()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, f"no setting has {part!r} in its name")


@click.group()
def alerts() -> None:
    """Alerts to STASH_SENSE_ALERT_URL."""


@alerts.command("test")
def alerts_test() -> None:
    """Send a test alert to STASH_SENSE_ALERT_URL. Exit code 1 when the service does not accept it."""
    from stash_sense_pipeline.orchestration.automation.alert_delivery import Alert, send_alert

    url = environment_of(os.environ).alert_url
    if url is None:
        raise ConfigurationError(
            "STASH_SENSE_ALERT_URL is not set; set it to an ntfy topic, a Discord webhook, or an address of Apprise"
        )
    send_alert(
        url.get_secret_value(), Alert("test", "stash-sense: test", "This is a test alert of stash-sense.")
    )
    echo("sent; look for it where alerts arrive")
