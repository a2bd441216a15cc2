"""The demo: starts the servers of the demo world and yields the environment that points there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError, LockHeldError
from stash_sense_pipeline.foundation.files import held_alone, make_directory, write_atomically
from stash_sense_pipeline.foundation.yaml_file import read_yaml
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.invented.pictures import PictureStore
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings

DEMO_PACK = Path(__file__).with_name("demo_pack")
# The same networks with the rules of stash-sense2, and with one embedder.
DEMO_SENSE2_PACK = DEMO_PACK / "sense2.yaml"
SEED = 1
PEOPLE = 250
# Three shapes of site: pages by name, a wiki, and galleries that are found by name.
SITES = ("babepedia", "boobpedia", "thenude", "elitebabes")
_PLACES = ("stash_boxes", "reference_sites")
# Below the ports that operating systems give to connections of clients: a later demo finds its ports free again.
_PORTS = range(20_000, 32_000, 20)
_TRIES = 20
_HEADER = """\
# The demo writes stash_boxes, reference_sites and faces.tattoos anew at each start: the sandbox world on this machine.
# Your other sections and keys stay, without comments; `export:` with `flavours: [full, small]`, for example.
"""


@contextmanager
def demo_world(data_dir: Path, *, tattoos: bool | None = False) -> Iterator[dict[str, str]]:
    """Serves the demo world while the block runs. Yields the environment variables that make the program read it.

    With `tattoos` half of the people have one, and sources.yaml asks for them; None: as in the earlier demo.

    `data_dir` gets a sources.yaml, which keeps the settings that a user added to an earlier one. The ports of an earlier
    demo are used again if they are free, because addresses of images are part of a release; a first demo has ports that
    no connection of a client takes. Raises ConfigurationError,
    and changes nothing, while another process serves the demo world of this directory, or when its sources.yaml is no
    YAML.
    """
    sources = data_dir / "sources.yaml"
    make_directory(data_dir)
    with ExitStack() as stack:
        stack.enter_context(_alone(data_dir))
        earlier = _earlier_settings(sources)
        with_tattoos = bool(_section(earlier, "faces").get("tattoos")) if tattoos is None else tattoos
        pictures = PictureStore(data_dir / "pictures", with_tattoos)
        servers = stack.enter_context(_servers(_earlier_ports(earlier), pictures))
        settings = _settings(earlier, sources_settings(servers, sites=SITES), with_tattoos)
        write_atomically(sources, _HEADER + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
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
def _servers(earlier: dict[str, int], pictures: PictureStore) -> Iterator[SandboxServers]:
    world = make_demo_world(seed=SEED, people=PEOPLE)
    names = (*world.sources, *world.sites)
    blocks = [
        {name: first + place for place, name in enumerate(names)}
        for first in random.SystemRandom().sample(_PORTS, _TRIES)
    ]
    # At last the system chooses all ports.
    tries: list[dict[str, int]] = [*([earlier] if earlier else []), *blocks, {}]
    for ports in tries:
        servers = SandboxServers(world, ports=ports, pictures=pictures)
        try:
            servers.start()
        except OSError:
            if not ports:
                raise
            continue
        break
    try:
        yield servers
    finally:
        servers.stop()


def _earlier_settings(sources: Path) -> Mapping[str, Any]:
    """The content of the sources.yaml of an earlier demo; nothing without one."""
    if not sources.exists():
        return {}
    file = read_yaml(sources)
    if not isinstance(file.data, dict):
        file.complain((), "a demo's sources.yaml has sections; remove the file, and the demo writes it anew")
    file.raise_problems()
    settings: Mapping[str, Any] = file.data
    return settings


def _settings(earlier: Mapping[str, Any], places: Mapping[str, Any], with_tattoos: bool) -> dict[str, Any]:
    """The sections of this world, and what a user added."""
    settings = {**places, **{name: section for name, section in earlier.items() if name not in _PLACES}}
    if isinstance(settings.get("faces", {}), dict):
        faces = {key: value for key, value in settings.pop("faces", {}).items() if key != "tattoos"}
        faces |= {"tattoos": True} if with_tattoos else {}
        settings |= {"faces": faces} if faces else {}
    return settings


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _earlier_ports(settings: Mapping[str, Any]) -> dict[str, int]:
    places = [item for name in _PLACES for item in _section(settings, name).items()]
    urls = {name: str(place.get("url")) for name, place in places if isinstance(place, dict)}
    return {name: port for name, url in urls.items() if (port := _port(url))}


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None
