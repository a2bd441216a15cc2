"""The sources.yaml of a demo: what a user adds to it stays, and the sandbox world stands in it anew at each start."""

from __future__ import annotations

import random
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.sandbox.demo import demo_world
from stash_sense_pipeline.settings.sources_file import load_settings


def started(data: Path, tattoos: bool | None = False) -> dict[str, Any]:
    """The content of sources.yaml while a demo runs, which the program reads without a mistake."""
    with demo_world(data, tattoos=tattoos) as variables:
        path = Path(variables["STASH_SENSE_SOURCES"])
        load_settings(path)
        content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def without_ports(content: dict[str, Any]) -> dict[str, Any]:
    """The settings, independently of the ports that were free."""
    text = re.sub(r"(127\.0\.0\.1):\d+", r"\1", yaml.safe_dump(content))
    return dict(yaml.safe_load(text))


def port_of_no_other_program() -> int:
    """A free port below those that the system gives to connections and servers without a port of their own."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def add(data: Path, text: str) -> None:
    with (data / "sources.yaml").open("a") as stream:
        stream.write(text)


@pytest.mark.slow
def test_settings_that_a_user_adds_stay_in_every_later_demo(tmp_path: Path) -> None:
    first = without_ports(started(tmp_path))
    assert set(first) == {"stash_boxes", "reference_sites"}
    text = "export:\n  flavours: [full, small]\n  namesakes: []\nglobal:\n  max_faces_per_performer: 7\n"
    add(tmp_path, text)
    own = yaml.safe_load(text)
    for tattoos, faces in ((True, True), (None, True), (False, False), (None, False)):
        section = {"faces": {"tattoos": True}} if faces else {}
        assert without_ports(started(tmp_path, tattoos)) == {**first, **own, **section}
    loaded = load_settings(tmp_path / "sources.yaml")
    assert loaded.export.flavours == ("full", "small")


@pytest.mark.slow
def test_changed_places_are_those_of_the_sandbox_world_again(tmp_path: Path) -> None:
    first = started(tmp_path)
    path, port = tmp_path / "sources.yaml", port_of_no_other_program()
    changed = yaml.safe_load(path.read_text())
    boxes = changed["stash_boxes"]
    boxes |= {"stashdb": None, "another": {"url": 5}}
    boxes["fansdb"]["url"] = "http://[::1"
    for name in ("pmvstash", "theporndb"):
        boxes[name].pop("url")
    boxes["javstash"]["url"] = f"http://127.0.0.1:{port}/graphql"
    changed["reference_sites"] = ["boobpedia"]
    path.write_text(yaml.safe_dump(changed))
    again = started(tmp_path)
    assert {kind: set(places) for kind, places in again.items()} == {
        kind: set(places) for kind, places in first.items()
    }
    # A place that has a port keeps it.
    assert urlsplit(again["stash_boxes"]["javstash"]["url"]).port == port


@pytest.mark.parametrize("text", ["export: [", "- a\n", "5\n", "", "export: 1\nexport: 2\n"])
def test_a_file_that_is_no_settings_file_is_refused_in_one_line_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"sources\.yaml") as refused, demo_world(tmp_path):
        pass
    assert "\n" not in str(refused.value)
    assert path.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(("section", "key"), [("export", "flavour"), ("faces", "tattoo")])
def test_a_setting_that_is_not_known_is_refused_and_not_removed(
    tmp_path: Path, section: str, key: str
) -> None:
    started(tmp_path)
    add(tmp_path, f"{section}:\n  {key}: small\n")
    with (
        pytest.raises(ConfigurationError, match=rf"sources\.yaml:\d+: {section}\.{key}"),
        demo_world(tmp_path) as variables,
    ):
        load_settings(Path(variables["STASH_SENSE_SOURCES"]))
