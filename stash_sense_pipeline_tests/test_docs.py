"""The documentation: made pages are current, names in it exist, the site builds, and the files of deploy/ are sound."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import dagster as dg
import pytest
import yaml

from stash_sense_pipeline.cli import main
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.tools.generated_docs import DOCS, VARIABLES, pages

PROJECT = DOCS.parent
TEXTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", ["commands.md", "settings.md"])
def test_made_pages_are_current(page: str) -> None:
    made = pages()[DOCS / page]
    assert (DOCS / page).read_text() == made, "run `make docs`"


def test_every_command_is_shown_with_its_output() -> None:
    """That each is what the command prints now is for test_documented_commands."""
    sections = re.split(r"^## (?=stash-sense)", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections if "```console" not in section] == []


def test_the_readme_shows_the_same_demo() -> None:
    printed = (DOCS / "examples" / "demo.txt").read_text().partition("\n")[2]
    assert f"```\n{printed}```" in (PROJECT / "README.md").read_text()


def test_numbers_of_the_demo_in_the_text_are_those_that_it_printed() -> None:
    """docs/examples/demo.txt is what a demo prints; test_documented_commands holds it to that."""
    printed = (DOCS / "examples" / "demo.txt").read_text()
    faces = sum(int(number) for number in re.findall(r"; (\d+) faces from", printed))
    (people,) = (int(number) for number in re.findall(r"publish: (\d+) people", printed))
    assert f"Measured on the demo ({faces:,} faces, SQLite)" in (DOCS / "first-build.md").read_text()
    readme = (PROJECT / "README.md").read_text()
    (said,) = (int(number) for number in re.findall(r"about (\d+) invented people", readme))
    assert abs(people - said) < 0.1 * said
    servers = ("five", "six", "seven", "eight", "nine", "ten")[
        len(re.findall(r"^\w+: \d+ performers", printed, re.M)) - 5
    ]
    assert f"by {servers} servers" in readme
    # Elsewhere a number of checks would be that of an older demo.
    for path in TEXTS:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"\b\d+ (of \d+ )?(checks|tests)\b", text), path.name


def named_tests() -> list[tuple[str, str, str]]:
    """(page, path, test) of every test that a page names as a proof."""
    proving = [DOCS / "robustness.md", PROJECT / "SECURITY.md", PROJECT / "PRIVACY.md"]
    return [
        (page.name, *found)
        for page in proving
        for found in re.findall(r"`([\w/]+\.py)::(test_\w+)`", page.read_text())
    ]


def test_every_test_that_a_page_names_exists() -> None:
    named = named_tests()
    assert len(named) > 50
    missing = [
        f"{page}: {path}::{name}"
        for page, path, name in named
        if not (file := PROJECT / "stash_sense_pipeline_tests" / path).is_file()
        or f"def {name}(" not in file.read_text()
    ]
    assert missing == []


def test_every_variable_that_is_read_is_explained() -> None:
    read = set()
    for path in (PROJECT / "stash_sense_pipeline").rglob("*.py"):
        if "sandbox" not in path.parts:
            read |= set(
                re.findall(r'"((?:STASH_SENSE|FLARESOLVERR|CHROME_CDP|DATA_DIR)\w*)"', path.read_text())
            )
    explained = set(VARIABLES) | set(re.findall(r"STASH_SENSE_\w+", (PROJECT / ".env.example").read_text()))
    assert {name for name in read if not name.endswith("_")} <= explained


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path.name != "commands.md"], ids=lambda path: path.name
)
def test_commands_and_options_in_the_text_exist(path: Path) -> None:
    for words in re.findall(r"stash-sense ((?:[a-z-]+ ?)+)((?:[^`\n#]*))", path.read_text()):
        command: click.Command = main
        used = "stash-sense"
        for word in words[0].split():
            if not isinstance(command, click.Group):
                break
            if word not in command.commands:
                # What follows in prose is no command of a group that runs by itself.
                assert command is not main or word in ("and", "or", "is", "does"), (
                    f"{used} {word} in {path.name}"
                )
                break
            command, used = command.commands[word], f"{used} {word}"
        options = {name for param in command.params for name in param.opts}
        for option in re.findall(r"(?<!\S)--[a-z-]+", words[1]):
            assert option in options or option in ("--debug", "--help"), f"{used} {option} in {path.name}"


def test_the_pages_name_every_schedule_and_sensor_with_its_time(tmp_path: Path) -> None:
    environment = read_environment({"DATA_DIR": str(tmp_path)}, tmp_path)
    definitions = build_defs(settings=load_settings(PROJECT / "sources.yaml"), environment=environment)
    text = (DOCS / "operation.md").read_text()
    for sensor in definitions.sensors or []:
        assert f"| `{sensor.name}` |" in text
    times = {
        "30 2 * * *": "02:30 UTC",
        "0 5 * * 0": "Sunday 05:00 UTC",
        "0 9 * * *": "09:00 UTC",
        "0 */6 * * *": "every 6 hours",
    }
    for schedule in definitions.schedules or []:
        assert isinstance(schedule, dg.ScheduleDefinition)
        assert f"| `{schedule.name}` | {times[str(schedule.cron_schedule)]} |" in text


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("mkdocs")
    command = [program, "build", "-q", "--strict", "-d", tmp_path / "site"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    pages_made = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {"install", "runbook", "commands", "settings", "architecture"} <= pages_made


def test_what_the_runbook_quotes_is_what_the_program_says() -> None:
    code = "".join(path.read_text() for path in (PROJECT / "stash_sense_pipeline").rglob("*.py"))
    # Text that is put together over lines or from fields, as it stands in the source.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 8
    for line in quoted:
        parts = [
            part.strip()
            for part in re.split(r"\.\.\.|\b\d+(?::\d+)?\b|127\.0\.0\.1|STASHDB|postgresql", line)
        ]
        for part in (part for part in parts if len(part) > 3):
            assert part.strip(": ") in code, f"{part!r} of {line!r}"


def test_the_unraid_template_has_the_variables() -> None:
    template = ElementTree.parse(PROJECT / "deploy" / "unraid-template.xml")
    targets = {config.attrib["Target"]: config.attrib for config in template.iter("Config")}
    keys = {f"{name}_API_KEY" for name in ("STASHDB", "THEPORNDB", "PMVSTASH", "JAVSTASH", "FANSDB")}
    said = {"STASH_SENSE_SOURCES", "STASH_SENSE_CATALOG_URL", "STASH_SENSE_MODEL_PACK", "STASH_SENSE_OVERRIDES",
            "STASH_SENSE_SUPPRESSIONS", "FLARESOLVERR_URL", "CHROME_CDP_URL", "STASH_SENSE_DEVICE"}  # fmt: skip
    assert keys | said | {"3000", "/data"} <= set(targets)
    assert {name for name in targets if targets[name].get("Mask") == "true"} >= keys
    assert ":latest" not in str(template.findtext("Repository"))


def test_the_systemd_unit_is_sound(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    unit = (PROJECT / "deploy" / "stash-sense.service").read_text()
    # The program and the user are the operator's; the rest must be what systemd understands.
    sound = unit.replace("/opt/stash-sense-pipeline/.venv/bin/stash-sense", "/bin/true").replace(
        "User=stash", "User=root"
    )
    (tmp_path / "stash-sense.service").write_text(sound)
    command = [program, "verify", tmp_path / "stash-sense.service"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in result.stderr.splitlines() if "stash-sense.service" in line]
    assert complaints == []


def test_the_values_for_kubernetes_run_this_code_with_these_limits() -> None:
    values = yaml.safe_load((PROJECT / "deploy" / "k8s-values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    variables = {item["name"]: item["value"] for item in deployment["env"]}
    assert set(variables) <= set(VARIABLES)
    assert variables["STASH_SENSE_EXECUTOR"] == "k8s"
    workspace = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    assert workspace["module_name"] in deployment["codeServerArgs"]
    limits = yaml.safe_load((PROJECT / "dagster.yaml").read_text())["concurrency"]["runs"]
    queue = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue["tagConcurrencyLimits"] == limits["tag_concurrency_limits"]
    assert queue["maxConcurrentRuns"] == limits["max_concurrent_runs"]


def test_the_pictures_of_the_pages_are_there() -> None:
    for path in TEXTS:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text()):
            assert (path.parent / picture).stat().st_size > 5000


def test_the_workflow_runs_the_same_commands() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"make demo", "make test", "make docs"} <= set(steps)
    assert any("docker build --target" in step for step in steps)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_paths_of_the_code_that_a_page_names_exist(path: Path) -> None:
    roots = [PROJECT, PROJECT / "stash_sense_pipeline", PROJECT / "stash_sense_pipeline_tests"]
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_0-9]+\.py|\b)?)(?:::\w+)?`", path.read_text()))
    # What the recipes make, and what the program writes.
    made = {
        "stash_sense_pipeline/sources/reference_sites/sites/example_site.py",
        "staging/",
        "data/demo/releases/",
    }
    missing = [name for name in sorted(named - made) if not any((root / name).exists() for root in roots)]
    assert missing == []


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of prose: no tables, lists, headings or code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    return [block for block in blocks if block and not re.match(r"[|#!>]|\d+\. |[-*] |    ", block)]


@pytest.mark.parametrize(
    "path",
    [path for path in TEXTS if path.name not in ("commands.md", "settings.md")],
    ids=lambda path: path.name,
)
def test_no_paragraph_is_longer_than_eighty_words(path: Path) -> None:
    long_ones = [block[:60] for block in _paragraphs(path.read_text()) if len(block.split()) > 80]
    assert long_ones == []
