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
from stash_sense_pipeline.settings.variables import VARIABLES

DOCS = Path(__file__).parents[2] / "docs"
_MADE = "<!-- Made from the code by `make docs`; a test compares. -->\n"


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
        "faces": schema.FacesSettings,
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
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else getattr(default, 'value', default)}`"


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
