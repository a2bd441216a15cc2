"""The recipes of docs/extending.md, followed in a copy of the repository: a reference site and a check of a release."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
_STEP = re.compile(
    r"(?:New file `(?P<new>[^`]+)`|At the end of `(?P<end>[^`]+)`|In `(?P<path>[^`]+)`, after the line `(?P<line>[^`]+)`):"
    r"\n\n```(?:python|text|html|yaml)\n(?P<code>.*?)```",
    re.DOTALL,
)


def follow(section: str, copy: Path) -> int:
    """Does what the steps of a section say in a copy of the repository; returns how many there are."""
    text = (PROJECT / "docs" / "extending.md").read_text()
    recipe = re.split(r"^## ", text, flags=re.MULTILINE)
    (chosen,) = (part for part in recipe if part.startswith(f"{section}\n"))
    steps = list(_STEP.finditer(chosen))
    for step in steps:
        code = step["code"]
        if step["new"]:
            assert not (copy / step["new"]).exists()
            (copy / step["new"]).parent.mkdir(parents=True, exist_ok=True)
            (copy / step["new"]).write_text(code)
        elif step["end"]:
            path = copy / step["end"]
            path.write_text(path.read_text() + code)
        else:
            path = copy / step["path"]
            content = path.read_text()
            assert content.count(f"{step['line']}\n") == 1, step["line"]
            path.write_text(content.replace(f"{step['line']}\n", f"{step['line']}\n{code}"))
    return len(steps)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package."""
    shutil.copytree(
        PROJECT / "stash_sense_pipeline",
        tmp_path / "stash_sense_pipeline",
        ignore=shutil.ignore_patterns("__pycache__", "demo_pack"),
    )
    return tmp_path


def run(copy: Path, code: str, *arguments: str) -> str:
    """What a program prints that imports the package from the copy."""
    program = f"import sys; sys.path.insert(0, {str(copy)!r})\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=copy, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def yaml_of(section: str) -> str:
    """The block of sources.yaml in a section."""
    (block,) = re.findall(
        rf"```yaml\n(  {section}:.*?)```", (PROJECT / "docs" / "extending.md").read_text(), re.DOTALL
    )
    return str(block)


@pytest.mark.slow
def test_the_recipe_for_a_reference_site_gives_a_site_that_reads_its_page(copy: Path) -> None:
    tests = copy / "stash_sense_pipeline_tests" / "sources"
    shutil.copytree(PROJECT / "stash_sense_pipeline_tests" / "sources" / "site_pages", tests / "site_pages")
    shutil.copy2(PROJECT / "stash_sense_pipeline_tests" / "sources" / "test_site_pages.py", tests)
    assert follow("A reference site", copy) == 4
    (copy / "sources.yaml").write_text(
        f"stash_boxes: {{stashdb: {{}}}}\nreference_sites:\n{yaml_of('example_site')}"
    )
    code = """
import sys
from pathlib import Path
import pytest
import stash_sense_pipeline
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.connections import unusable
assert Path(stash_sense_pipeline.__file__).is_relative_to(Path.cwd())
settings = load_settings(Path("sources.yaml"))
assert settings.source("example_site").url == "https://www.example.com"
assert "not enabled" in unusable(settings, read_environment({}, Path.cwd()), "example_site")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "stash_sense_pipeline_tests", "-k", "page_gives and example_site"]))
"""
    assert "1 passed" in run(copy, code)


@pytest.mark.slow
def test_the_recipe_for_a_check_gives_a_line_of_verify_that_can_fail(copy: Path, tmp_path: Path) -> None:
    assert follow("A check of a release", copy) == 2
    code = """
import json, sys
from pathlib import Path
from stash_sense_pipeline.release.checks.verify import verify_release
release = Path(sys.argv[1])
def line():
    return [(c.passed, c.detail) for c in verify_release(release) if c.name == "short_names"]
print(*line())
path = release / "performers.json"
people = json.loads(path.read_text())
next(iter(people.values()))["name"] = "x" * 201
path.write_text(json.dumps(people))
print(line()[0][0])
"""
    from stash_sense_pipeline.release.publish import publish_release
    from stash_sense_pipeline_tests.release.conftest import DAY
    from stash_sense_pipeline_tests.release.worlds import SPEC, make_catalog

    data = tmp_path / "data"
    engine = make_catalog(tmp_path / "catalog.db")
    report = publish_release(engine, data, "run", SPEC, DAY)
    engine.dispose()
    printed = run(copy, code, str(report.path.resolve()))
    assert printed == "(True, 'no name is longer than 200 characters')\nFalse\n"
