"""The demo: starts the servers of the demo world and yields the environment that points there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError, LockHeldError
from stash_sense_pipeline.foundation.files import held_alone, make_directory, write_atomically
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings

DEMO_PACK = Path(__file__).with_name("demo_pack")
SEED = 1
PEOPLE = 250
# Three shapes of site: pages by name, a wiki, and galleries that are found by name.
SITES = ("babepedia", "boobpedia", "thenude", "elitebabes")


@contextmanager
def demo_world(data_dir: Path) -> Iterator[dict[str, str]]:
    """Serves the demo world while the block runs. Yields the environment variables that make the program read it.

    `data_dir` gets a sources.yaml. The ports of an earlier demo are used again if they are free, because
    addresses of images are part of a release. Raises ConfigurationError, and changes nothing, while another process
    serves the demo world of this directory.
    """
    sources = data_dir / "sources.yaml"
    make_directory(data_dir)
    with _alone(data_dir), _servers(_earlier_ports(sources), data_dir / "pictures") as servers:
        text = yaml.safe_dump(sources_settings(servers, sites=SITES), sort_keys=False)
        write_atomically(
            sources, f"# Written by the demo at each start: the sandbox world on this machine.\n{text}"
        )
        yield {
            "DATA_DIR": str(data_dir),
            "STASH_SENSE_SOURCES": str(sources),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            **servers.environment(),
        }


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(held_alone(data_dir / ".demo.lock"))
        except LockHeldError as error:
            raise ConfigurationError(
                f"process {error.holder} serves the demo world of {data_dir}; end it first, or choose another --data-dir"
            ) from error
        yield


@contextmanager
def _servers(ports: dict[str, int], pictures: Path) -> Iterator[SandboxServers]:
    servers = SandboxServers(
        make_demo_world(seed=SEED, people=PEOPLE), ports=ports, picture_directory=pictures
    )
    try:
        servers.start()
    except OSError:
        servers = SandboxServers(servers.world, picture_directory=pictures)
        servers.start()
    try:
        yield servers
    finally:
        servers.stop()


def _earlier_ports(sources: Path) -> dict[str, int]:
    if not sources.exists():
        return {}
    sections = yaml.safe_load(sources.read_text())
    places = {**sections["stash_boxes"], **sections.get("reference_sites", {})}
    return {name: port for name, place in places.items() if (port := urlsplit(place["url"]).port)}
