"""Commands on model packs."""

from __future__ import annotations

import os

import click

from stash_sense_pipeline.cli.common import echo, environment_of, json_option, print_rows


@click.group()
def models() -> None:
    """Model packs: the detector and the embedders."""


@models.command("list")
@json_option
def models_list(as_json: bool) -> None:
    """List the known and the installed packs."""
    from stash_sense_pipeline.faces.models.pack_install import list_packs

    packs = list_packs(environment_of(os.environ).models_dir)
    shown = ("name", "known", "installed", "demo", "size", "problem")
    rows = [{column: getattr(pack, column) for column in shown} for pack in packs]
    print_rows(rows, "no pack is known", as_json=as_json)


@models.command("pull")
@click.argument("name")
@click.option(
    "--accept-licence", is_flag=True, help="You have read the licence of the weights and comply with it."
)
@click.option(
    "--with-tattoos", is_flag=True, help="Also the two networks for tattoos, which faces.tattoos needs."
)
def models_pull(name: str, accept_licence: bool, with_tattoos: bool) -> None:
    """Download a known pack into the models directory. An aborted download is resumed, and every file is verified."""
    from stash_sense_pipeline.cli.progress_display import progress_of
    from stash_sense_pipeline.faces.models.pack_install import known_packs, pull_pack, pull_tattoo_networks

    if name in known_packs():
        echo(f"licence of {name}: {known_packs()[name].licence}")
    directory = environment_of(os.environ).models_dir
    with progress_of(name) as report:
        installed = pull_pack(name, directory, accept_licence=accept_licence, progress=report)
        if with_tattoos:
            pull_tattoo_networks(name, directory, progress=report)
    echo(f"installed in {installed}")


@models.command("check")
@click.argument("name")
def models_check(name: str) -> None:
    """Verify an installed pack or a pack directory: its description, its files, and that each network runs."""
    from stash_sense_pipeline.faces.models.pack_install import check_pack

    pack = check_pack(name, environment_of(os.environ).models_dir)
    tattoos = ", networks for tattoos" if pack.tattoo is not None else ""
    echo(
        f"{pack.name}: detector {pack.detector.path.name}, embedders {', '.join(pack.embedders)}{tattoos}; all run"
    )
    echo(f"licence: {pack.licence}")
