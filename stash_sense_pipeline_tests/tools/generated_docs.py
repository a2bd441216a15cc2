"""The pages of the documentation that are made from the code: every command, every setting. `make docs` writes them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticUndefined

from stash_sense_pipeline.cli import main
from stash_sense_pipeline.settings import schema
from stash_sense_pipeline.settings.run_options import RUN_OPTIONS

DOCS = Path(__file__).parents[2] / "docs"
_MADE = "<!-- Made from the code by `make docs`; a test compares. -->\n"

VARIABLES = {
    "DATA_DIR": ("`./data`", "everything the program writes"),
    "STASH_SENSE_SOURCES": ("`./sources.yaml`", "the sources file"),
    "STASH_SENSE_CATALOG_URL": (
        "SQLite in `DATA_DIR`",
        "SQLAlchemy URL of the catalog; PostgreSQL: `postgresql+psycopg2://user:password@host/database`",
    ),
    "STASH_SENSE_MODEL_PACK": (
        "`stash-sense-v1`",
        "name of an installed pack, or a path to a pack directory",
    ),
    "STASH_SENSE_DEVICE": ("`cpu`", "where faces are embedded: `cpu` or `cuda`"),
    "STASH_SENSE_GPUS": (
        "`1`",
        "how many embedding steps run at once; `prepare` and `serve` set the pool `gpu` to it",
    ),
    "STASH_SENSE_EXECUTOR": (
        "`in_process`",
        "`in_process`: the steps of a run one after the other; `docker`, `k8s`: a container or a pod for each step",
    ),
    "STASH_SENSE_AUTOMATION": (
        "`off` (`on` in compose)",
        "whether schedules and sensors begin switched on; what is switched in the UI holds from then on",
    ),
    "STASH_SENSE_ALERT_URL": (
        "-",
        "where alerts go: an ntfy topic, a Discord webhook, or an address that takes JSON",
    ),
    "STASH_SENSE_ALERT_AFTER": ("`2`", "how many runs of a source fail in a row before that is told"),
    "STASH_SENSE_OVERRIDES": (
        "`$DATA_DIR/identity_overrides.yaml`",
        "records that are, or are not, one person; verdicts on faces",
    ),
    "STASH_SENSE_SUPPRESSIONS": ("`$DATA_DIR/suppressions.yaml`", "people who are left out, for good"),
    "STASH_SENSE_UI_HOSTS": (
        "-",
        "names under which the UI is opened, beside loopback and its own address: `pipeline.example,tower.local`",
    ),
    "STASH_SENSE_UI_PATH_PREFIX": ("-", "path under which a proxy offers the UI: `/pipeline`"),
    "STASH_SENSE_UI_PASSWORD_FILE": (
        "-",
        "file of mode 600 with the password of the UI in its one line; any user name goes with it",
    ),
    "<NAME>_API_KEY": ("-", "key of a stash-box, its name in upper case: `STASHDB_API_KEY`"),
    "<NAME>_API_KEY_FILE": ("-", "path of a file that holds the key instead"),
    "GITHUB_TOKEN": ("-", "for `releases upload`; or `GITHUB_TOKEN_FILE`, path of a file that holds it"),
    "FLARESOLVERR_URL": ("-", "fetcher for sites behind a challenge page; unset: those sites are skipped"),
    "CHROME_CDP_URL": ("-", "a Chrome for the sites that need one; unset: those sites are skipped"),
    "DAGSTER_HOME": (
        "`$DATA_DIR/dagster`",
        "run history and `dagster.yaml`; Dagster's own commands want it set",
    ),
}


def pages() -> dict[Path, str]:
    """The generated pages: path → content."""
    return {DOCS / "commands.md": "".join(_commands()), DOCS / "settings.md": "".join(_settings())}


def _commands() -> Iterator[str]:
    yield f"# Commands\n\n{_MADE}\n"
    yield "Exit codes: 0 done, 1 failed, 2 usage or configuration. An error is one line that says what to do; "
    yield "`stash-sense --debug COMMAND` shows the traceback. "
    yield "Below the help of a command is its output on the data of the demo.\n"
    examples = DOCS / "examples"
    for path, command in _walk(main, "stash-sense"):
        if isinstance(command, click.Group) and not command.invoke_without_command:
            continue
        context = click.Context(command, info_name=path, max_content_width=100, **main.context_settings)
        yield f"\n## {path}\n\n```text\n{command.get_help(context)}\n```\n"
        example = examples / f"{path.replace('stash-sense ', '').replace(' ', '-')}.txt"
        if example.exists():
            yield f"\n```console\n{example.read_text().rstrip()}\n```\n"


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _walk(command.commands[name], f"{path} {name}")


def _settings() -> Iterator[str]:
    yield f"# Settings\n\n{_MADE}\n"
    yield "## Environment\n\n| variable | default | meaning |\n|---|---|---|\n"
    for name, (default, meaning) in VARIABLES.items():
        yield f"| `{name}` | {default} | {meaning} |\n"
    yield "\n`docker-compose.yml` reads a few more from `.env`; `.env.example` explains them.\n"
    yield "\n## sources.yaml\n\nThe shipped file explains each setting where it stands. "
    yield "A mistake is refused with its file, line, key and what is allowed. Like every YAML file that the program reads "
    yield "it may have 16 MiB, 400,000 values with aliases expanded, 32 levels, and no tags. "
    yield "`*`: of a known source it is known, "
    yield "else `url` is needed, `rate_limit` is `default_rate_limit`, and `host` comes from `url`.\n"
    sections = {
        "global": schema.GlobalSettings,
        "stash_boxes.<name>": schema.StashBoxSettings,
        "reference_sites.<name>": schema.ReferenceSiteSettings,
        "export": schema.ExportSettings,
    }
    for title, model in sections.items():
        yield f"\n### {title}\n\n| key | default | allowed |\n|---|---|---|\n"
        yield from _rows(model, "")
    yield from _run_options()


def _run_options() -> Iterator[str]:
    yield "\n## Options of one run\n\nOptions of `stash-sense build`, and fields of the run configuration "
    yield "(step.field) in the Launchpad.\n\n"
    yield "| option | build | Launchpad | default | allowed | meaning |\n|---|---|---|---|---|---|\n"
    for option in RUN_OPTIONS.values():
        spellings = [option.spelling] if option.spelling else [flag.spelling for flag in option.flags]
        places = (
            ", ".join(f"`{place}`" for place in listed) or "-" for listed in (spellings, option.launchpad)
        )
        default = _value(option.default or (False if option.default is False else None))
        yield f"| `{option.name}` | {' | '.join(places)} | {default} | {option.rule} | {option.help} |\n"


def _rows(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == "name":
            continue
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        inner = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if inner is not None:
            yield from _rows(inner, f"{prefix}{name}.")
            continue
        yield f"| `{prefix}{name}` | {_value(field.default)} | {field.description} |\n"


def _value(default: Any) -> str:
    """The default in YAML; `*` for a required setting, `-` for no value."""
    if default is PydanticUndefined:
        return "*"
    if default in (None, ""):
        return "-"
    return f"`{str(default).lower() if isinstance(default, bool) else getattr(default, 'value', default)}`"


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
