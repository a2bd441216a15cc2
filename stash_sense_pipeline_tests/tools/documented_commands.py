"""Runs every command on the demo's data, as docs/commands.md shows it. `make examples` writes what they print.

docs/examples has a file for each command; a test runs them again and compares, so that the page shows what the program
says.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from click.testing import CliRunner

from stash_sense_pipeline.cli import main
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.sandbox.demo import DEMO_PACK, demo_world
from stash_sense_pipeline.settings.known_sources import KNOWN_STASH_BOXES
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM, without_progress
from stash_sense_pipeline_tests.postgres import free_port
from stash_sense_pipeline_tests.release.github import REPOSITORY, TOKEN, github
from stash_sense_pipeline_tests.tools.generated_docs import DOCS

EXAMPLES = DOCS / "examples"
# What the page shows instead of the directories and ports of a test.
SHOWN_DATA = "/srv/stash-sense"
SHOWN_PORT = "3000"
PERSON = "babepedia:xeskan_quaejiav"
LEAVER = "fansdb:00528ed5-ac39-4428-be2e-3bbb21a10156"


class Terminal:
    """Runs commands in an empty directory, and keeps the transcripts by the names of their files."""

    def __init__(self, directory: Path, data: Path) -> None:
        self.directory, self.data = directory, data
        self.seen: dict[str, str] = {}

    def variables(self, data: Path, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
        }
        ours = {
            "DATA_DIR": str(data),
            "STASH_SENSE_SOURCES": str(data / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            # The user that signs an answer of the review.
            "LOGNAME": "operator",
            **{f"{name.upper()}_API_KEY": "key" for name in KNOWN_STASH_BOXES},
        }
        return {**kept, **ours, **more}

    def run(
        self,
        name: str | None,
        *words: str,
        shown: str | None = None,
        code: int = 0,
        data: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Runs a command that must exit with status `code`. `shown`: the words on the page in place of the arguments.

        It runs in this process, which saves the second that each start of the program takes.
        """
        data = data or self.data
        variables = self.variables(data, **(more or {}))
        others: dict[str, str | None] = dict.fromkeys(os.environ.keys() - variables.keys())
        before = signal.getsignal(signal.SIGTERM)
        try:
            with chdir(self.directory):
                ended = CliRunner().invoke(
                    main, words, env={**others, **variables}, prog_name="stash-sense", catch_exceptions=False
                )
        finally:
            signal.signal(signal.SIGTERM, before)
        assert ended.exit_code == code, f"{words}: {ended.exit_code}\n{ended.output[-3000:]}"
        if name:
            progress = set(ended.stderr.splitlines()) - set(without_progress(ended.stderr))
            said = "\n".join(line for line in ended.output.splitlines() if line not in progress)
            self.keep(name, shown or " ".join(words), said.replace(str(data), SHOWN_DATA))

    def serve(self, name: str, *words: str, shown: str, port: int, begins: str = "Dagster UI:") -> None:
        """Runs a command until it has printed the line of its address, and ends it with SIGINT."""
        command = [PROGRAM, *words, "--port", str(port)]
        with subprocess.Popen(
            command, env=self.variables(self.data), cwd=self.directory,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            too_long = threading.Timer(600, process.kill)
            too_long.start()
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(begins):
                    break
            process.send_signal(signal.SIGINT)
            ended = process.wait()
            too_long.cancel()
        said = "".join(lines)
        assert ended == 0, said
        said = _SECRET_PATH.sub(
            "/…/", said.replace(str(self.data), SHOWN_DATA).replace(str(port), SHOWN_PORT)
        )
        self.keep(name, shown, said)

    def keep(self, name: str, shown: str, said: str) -> None:
        text = f"$ stash-sense {shown}\n{said}".replace(str(self.directory), "")
        self.seen[name] = "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def transcripts(demo: Path, demo_said: str, directory: Path) -> dict[str, str]:
    """What every command prints: name of its file in docs/examples → text. Works on a copy of the demo's data."""
    data = directory / "data"
    shutil.copytree(demo, data, symlinks=True)
    # Another test may have run the daemon on the demo's data.
    with open_instance(data / "dagster") as instance:
        instance.wipe_daemon_heartbeats()
    terminal = Terminal(directory, data)
    terminal.keep("demo", "demo", demo_said.replace(str(demo), "data/demo"))
    _looking(terminal)
    _backup(terminal)
    _models(terminal)
    _releases(terminal)
    _leaving(terminal)
    _building(terminal)
    port = free_port()
    terminal.serve("serve", "serve", shown="serve", port=port)
    terminal.serve("ui", "ui", "--data-dir", str(data), shown="ui", port=port)
    return terminal.seen


def _looking(terminal: Terminal) -> None:
    terminal.run("prepare", "prepare")
    terminal.run("status", "status")
    terminal.run("export", "export", "identities", "--format", "csv", "--to", "./identities.csv")
    terminal.run("settings-show", "settings", "show", "global")
    with _listening() as address:
        terminal.run("alerts-test", "alerts", "test", more={"STASH_SENSE_ALERT_URL": address})
    terminal.run("identity-explain", "identity", "explain", PERSON)
    terminal.run("identity-suggestions", "identity", "suggestions")
    _reviewing(terminal)
    latest = terminal.data / "releases" / "latest"
    terminal.run("verify", "verify", str(latest), shown=f"verify {SHOWN_DATA}/releases/latest")
    new = terminal.directory / "new"
    terminal.run(None, "prepare", data=new)
    # A release has the files of a predecessor's data directory.
    shutil.copytree(latest.resolve(), terminal.directory / "predecessor")
    terminal.run("import-legacy", "import-legacy", "./predecessor", data=new)


def _reviewing(terminal: Terminal) -> None:
    """The page, and the first open pair by command."""
    terminal.serve("review", "review", shown="review", port=free_port(), begins="Review:")
    terminal.run("review-list", "review", "list")
    listed = terminal.seen["review-list"].splitlines()
    decision = next(line.split()[0] for line in listed if line.startswith("pair-"))
    reason = ("--reason", "other birth dates")
    terminal.run("review-settle", "review", "settle", decision, "different", *reason,
                 shown=f'review settle {decision} different --reason "other birth dates"')  # fmt: skip
    terminal.run("review-settled", "review", "settled")
    # What follows shows the demo as it was.
    (terminal.data / "identity_overrides.yaml").unlink()


def _backup(terminal: Terminal) -> None:
    terminal.run("backup", "backup", "./backup.zip")
    terminal.run("restore", "restore", "./backup.zip", data=terminal.directory / "restored")


def _models(terminal: Terminal) -> None:
    shutil.copytree(DEMO_PACK, terminal.data / "models" / "demo-synth-v1")
    terminal.run("models-list", "models", "list")
    terminal.run("models-check", "models", "check", "demo-synth-v1")
    # Nothing is downloaded before the licence is accepted.
    terminal.run("models-pull", "models", "pull", "stash-sense-v1", code=2)


def _releases(terminal: Terminal) -> None:
    terminal.run("releases-list", "releases", "list")
    latest = str(terminal.data / "releases" / "latest")
    terminal.run(
        "releases-verify", "releases", "verify", latest, shown=f"releases verify {SHOWN_DATA}/releases/latest"
    )
    # The demo has no second pack.
    terminal.run("releases-build", "releases", "build", "--format", "sense2", code=2)
    terminal.run("releases-install", "releases", "install", "latest", "--to", "./sidecar")
    with github() as world:
        sources = yaml.safe_load((terminal.data / "sources.yaml").read_text())
        sources["export"] = {"github": {"repository": REPOSITORY, "api": world.url}}
        path = terminal.directory / "sources.yaml"
        path.write_text(yaml.safe_dump(sources))
        more = {"STASH_SENSE_SOURCES": str(path), "GITHUB_TOKEN": TOKEN}
        terminal.run("releases-upload", "releases", "upload", "latest", more=more)
        terminal.seen["releases-upload"] = terminal.seen["releases-upload"].replace(
            world.url, "https://github.com"
        )
        terminal.run("releases-fetch", "releases", "fetch", "--to", "./other-sidecar", more=more)


def _leaving(terminal: Terminal) -> None:
    terminal.run("suppress-review", "suppress", "review")
    reason = ("--reason", "asked us")
    terminal.run("suppress-add", "suppress", "add", LEAVER, *reason,
                 shown=f'suppress add {LEAVER} --reason "asked us"')  # fmt: skip
    terminal.run("suppress-list", "suppress", "list")
    terminal.run("suppress-apply", "suppress", "apply")
    # No record of the demo is held.
    terminal.run("suppress-review-settle", "suppress", "review", "settle", LEAVER, "--other", code=2)


def _building(terminal: Terminal) -> None:
    """A first build, and a second one that publishes a new version without one person."""
    before = (terminal.data / "releases" / "latest").resolve().name
    with demo_world(terminal.data) as variables:
        given = {name: variables[name] for name in variables if name != "DATA_DIR"}
        terminal.run("doctor", "doctor", more=given)
        two = ("--sources", "fansdb,babepedia")
        terminal.run("build", "build", *two, data=terminal.directory / "fresh", more=given)
        release = str((terminal.data / "releases" / "latest").resolve())
        new = {"data": terminal.directory / "bootstrapped", "more": given}
        terminal.run(
            "bootstrap", "bootstrap", release, shown=f"bootstrap {SHOWN_DATA}/releases/latest", **new
        )
        terminal.run("bootstrap-undo", "bootstrap", "--undo", release,
                     shown=f"bootstrap --undo {SHOWN_DATA}/releases/latest", **new)  # fmt: skip
        terminal.run(None, "build", *two, more=given)
    after = (terminal.data / "releases" / "latest").resolve().name
    assert after != before
    terminal.run("releases-diff", "releases", "diff", before, after)
    terminal.run("releases-revoke", "releases", "revoke")
    terminal.run("releases-prune", "releases", "prune", "--keep", "1")
    terminal.run("sources-reset", "sources", "reset", "fansdb", "--yes")


# A version has one part more on the day of another one, and the day may end between two commands.
# The secret path of the review page, and the date and user of an answer.
_SECRET_PATH = re.compile(r"(?<=:3000)/[A-Za-z0-9_-]{32}/")
_VARIES = re.compile(r"\d+ (?:s|min|h|days)\b(?: \d+ (?:min|h))?|\d+(?:[.,]\d+)*")
# A build prints a line a source when it has ended.
_SOURCE = re.compile(r"\w+: # performers \(")


def comparable(text: str) -> list[str]:
    """The words of a transcript, without what differs from run to run.

    These are numbers, times, widths of columns, and the order in which the sources of a build end.
    """
    lines = [" ".join(_VARIES.sub("#", line).split()) for line in text.splitlines()]
    ended = sorted(line for line in lines if _SOURCE.match(line))
    return [ended.pop(0) if _SOURCE.match(line) else line for line in lines]


class _Accepting(BaseHTTPRequestHandler):
    """Answers every POST with 200."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _listening() -> Iterator[str]:
    """The address of a webhook on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Accepting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _demo() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "demo"
        said = subprocess.run(
            [PROGRAM, "demo", "--data-dir", data], capture_output=True, text=True, check=True
        ).stdout
        yield data, said


if __name__ == "__main__":
    with _demo() as (made, printed), tempfile.TemporaryDirectory() as place:
        for stem, content in transcripts(made, printed, Path(place)).items():
            (EXAMPLES / f"{stem}.txt").write_text(content)
