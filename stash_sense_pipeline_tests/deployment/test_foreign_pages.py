"""A real browser with the UI open visits other pages, which try to change something; the UI itself can."""

from __future__ import annotations

import base64
import html
import json
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, WebSocket, sync_playwright

from stash_sense_pipeline_tests.deployment.test_serve import Served

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1200)]

PASSWORD = "a word of the test"
# Names that the browser resolves to this machine, as a server of an attacker's can.
FOREIGN = ("evil.example", "localhost", "127.0.0.1")
PARAMS = """{mode: "default", selector: {repositoryLocationName: "stash_sense", repositoryName: "__repository__",
    pipelineName: "__ASSET_JOB", assetSelection: [{path: ["identity_graph"]}]}}"""


@dataclass(frozen=True)
class Ui:
    """A running UI and its password."""

    served: Served
    password: str | None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.served.port}"

    def ask(self, query: str) -> Any:
        """What GraphQL answers a program that is not a browser."""
        headers = {"Content-Type": "application/json"}
        if self.password:
            text = base64.b64encode(f"me:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {text}"
        request = urllib.request.Request(
            f"{self.address}/graphql", json.dumps({"query": query}).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=240) as answer:
            said = json.load(answer)
        assert "errors" not in said, said
        return said["data"]

    def runs(self) -> dict[str, str]:
        found = self.ask("{runsOrError {... on Runs {results {runId status}}}}")["runsOrError"]["results"]
        return {run["runId"]: run["status"] for run in found}

    def state(self) -> tuple[Any, ...]:
        """Everything that the attacks below would change."""
        asked = self.ask(
            """{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {__typename}}}}
            assetNodeOrError(assetKey: {path: ["identity_graph"]}) {... on AssetNode {assetMaterializations {runId}}}
            other: assetNodeOrError(assetKey: {path: ["release"]}) {... on AssetNode {assetMaterializations {runId}}}}"""
        )
        return (sorted(self.runs().items()), json.dumps(asked, sort_keys=True))


@pytest.fixture(scope="module", params=[None, PASSWORD], ids=["open", "with a password"])
def ui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """`stash-sense serve` without any source, up with its code."""
    home = tmp_path_factory.mktemp("served")
    given = {}
    if request.param:
        (home / "password").write_text(f"{request.param}\n")
        (home / "password").chmod(0o600)
        given = {"STASH_SENSE_UI_PASSWORD_FILE": "password"}
    served = Served(home, given)
    try:
        served.said("Dagster UI: http://127.0.0.1:")
        made = Ui(served, request.param)
        give_up = time.monotonic() + 240
        while "RepositoryLocation" not in str(made.state()):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        yield made
    finally:
        served.kill()


class _Pages(BaseHTTPRequestHandler):
    page = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(type(self).page.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def attacker() -> Iterator[tuple[type[_Pages], int]]:
    """A web server of another port, and the page that it serves."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield _Pages, server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    flags.append("--host-resolver-rules=MAP evil.example 127.0.0.1")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def context(browser: Browser, ui: Ui) -> Iterator[BrowserContext]:
    """A browser in which the operator has logged in."""
    known = {"username": "me", "password": ui.password, "origin": ui.address} if ui.password else None
    made = browser.new_context(http_credentials=known, viewport={"width": 1400, "height": 900})
    made.set_default_timeout(240_000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def materialized(ui: Ui, context: BrowserContext) -> str:
    """The run of one asset, launched by a click in the UI and watched there until its end: the UI still works."""
    page = context.new_page()
    sockets: list[WebSocket] = []
    received: list[str] = []

    def opened(socket: WebSocket) -> None:
        sockets.append(socket)
        socket.on("framereceived", lambda data: received.append(str(data)))

    page.on("websocket", opened)
    complaints: list[str] = []
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    page.goto(f"{ui.address}/assets/identity_graph", wait_until="domcontentloaded")
    page.get_by_text("Code location", exact=True).first.wait_for()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Confirm").click()
    wait_until(page, lambda: bool(ui.runs()))
    (run,) = ui.runs()
    page.goto(f"{ui.address}/runs/{run}", wait_until="domcontentloaded")
    page.get_by_text("RUN_SUCCESS").first.wait_for()
    # Dagster stores the event before the status of the run.
    wait_until(page, lambda: ui.runs() == {run: "SUCCESS"})
    assert any(socket.url.endswith("/graphql") for socket in sockets)
    # The log comes by the websocket.
    wait_until(page, lambda: any("RunSuccessEvent" in text for text in received))
    assert complaints == []
    page.close()
    return run


def wait_until(page: Page, ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 240
    while not ready():
        assert time.monotonic() < give_up
        page.wait_for_timeout(50)


def attacks(run: str) -> dict[str, str]:
    """What other people's pages have tried."""
    return {
        "launch": f"mutation {{launchPipelineExecution(executionParams: {PARAMS}) {{__typename}}}}",
        "delete": f'mutation {{deletePipelineRun(runId: "{run}") {{__typename}}}}',
        "wipe": 'mutation {wipeAssets(assetPartitionRanges: [{assetKey: {path: ["identity_graph"]}}]) {__typename}}',
        "shut down": 'mutation {shutdownRepositoryLocation(repositoryLocationName: "stash_sense") {__typename}}',
    }


SCRIPT = """
const tried = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
// Requests to which no answer has come yet.
const open = [];
// A request with an answer that a script must not read: the next attempt does not wait long for it.
async function attempt(what, doing) {
  const answer = judge(what, doing);
  open.push(answer);
  await Promise.race([answer, wait(200)]);
}
// A request that must fail, however long that takes.
async function judge(what, doing) {
  try { tried.push(what + ": " + await doing()); }
  catch (error) { tried.push(what + ": " + error); }
}
function socket(query) {
  return new Promise((done) => {
    const opened = new WebSocket(ADDRESS.replace("http", "ws") + "/graphql", "graphql-ws");
    opened.onopen = () => {
      opened.send(JSON.stringify({type: "connection_init", payload: {}}));
      opened.send(JSON.stringify({type: "start", id: "1", payload: {query}}));
      setTimeout(() => done("OPEN"), 1000);
    };
    opened.onerror = () => done("refused");
  });
}
function form(query, encoding, path) {
  const made = document.createElement("form");
  made.method = "POST"; made.enctype = encoding; made.action = ADDRESS + path; made.target = "frame";
  const field = document.createElement("input");
  field.name = encoding === "text/plain" ? JSON.stringify({query}).slice(0, -1) + ', "x": "' : "query";
  field.value = encoding === "text/plain" ? '"}' : query;
  made.append(field); document.body.append(made); made.submit();
}
async function all() {
  for (const query of QUERIES) {
    const address = ADDRESS + "/graphql?query=" + encodeURIComponent(query);
    const body = JSON.stringify({query});
    document.body.append(Object.assign(new Image(), {src: address}));
    document.head.append(Object.assign(document.createElement("script"), {src: address}));
    document.body.append(Object.assign(document.createElement("iframe"), {src: address}));
    form(query, "application/x-www-form-urlencoded", "/graphql?query=" + encodeURIComponent(query)); await wait(150);
    form(query, "multipart/form-data", "/graphql?query=" + encodeURIComponent(query)); await wait(150);
    form(query, "text/plain", "/graphql"); await wait(150);
    for (const type of ["text/plain", "text/plain;application/json", "application/x-www-form-urlencoded"])
      await attempt("no-cors " + type, () => fetch(ADDRESS + "/graphql",
        {method: "POST", mode: "no-cors", credentials: "include", body, headers: {"Content-Type": type}})
        .then(() => "sent"));
    await judge("cors", () => fetch(ADDRESS + "/graphql",
      {method: "POST", credentials: "include", body, headers: {"Content-Type": "application/json"}})
      .then((got) => got.text()));
    await attempt("get", () => fetch(address, {mode: "no-cors", credentials: "include"}).then(() => "sent"));
    await attempt("get with a line break", () => fetch(ADDRESS + "/graphql%0A?query=" + encodeURIComponent(query),
      {mode: "no-cors", credentials: "include"}).then(() => "sent"));
    await attempt("beacon", async () => navigator.sendBeacon(address, new Blob([body], {type: "text/plain"})));
    await judge("websocket", () => socket(query));
  }
  form("x", "application/x-www-form-urlencoded", "/report_asset_materialization/release"); await wait(150);
  await attempt("report", () => fetch(ADDRESS + "/report_asset_materialization/release",
    {method: "POST", mode: "no-cors", credentials: "include"}).then(() => "sent"));
  await judge("read", () => fetch(ADDRESS + "/server_info").then((got) => got.text()));
  await Promise.race([Promise.all(open), wait(2500)]);
  await wait(500);
  return tried;
}
"""


@pytest.mark.parametrize("host", FOREIGN)
def test_a_page_of_another_origin_changes_nothing(
    host: str, ui: Ui, context: BrowserContext, attacker: tuple[type[_Pages], int], materialized: str
) -> None:
    pages, port = attacker
    queries = json.dumps(list(attacks(materialized).values()))
    pages.page = f"""<!doctype html><body><iframe name="frame"></iframe>
      <script>const ADDRESS = "{ui.address}", QUERIES = {queries};{SCRIPT}</script></body>"""
    before = ui.state()
    page = context.new_page()
    page.goto(f"http://{host}:{port}/")
    tried = page.evaluate("all()")
    page.close()
    assert ui.state() == before
    assert tried, "the page ran"
    for line in tried:
        if line.startswith(("websocket", "cors", "read")):
            assert line.startswith(("websocket: refused", "cors: TypeError", "read: TypeError")), line


def test_a_link_on_another_page_opens_the_ui_and_changes_nothing(
    ui: Ui, context: BrowserContext, attacker: tuple[type[_Pages], int], materialized: str
) -> None:
    pages, port = attacker
    launch = f"{ui.address}/graphql?query={urllib.parse.quote(attacks(materialized)['launch'])}"
    pages.page = (
        f'<a id="ui" href="{ui.address}/runs">runs</a> <a id="launch" href="{html.escape(launch)}">launch</a>'
    )
    before = ui.state()
    page = context.new_page()
    page.goto(f"http://evil.example:{port}/")
    page.click("#launch")
    page.get_by_text("GraphQL is taken by POST only").wait_for()
    page.goto(f"http://evil.example:{port}/")
    page.click("#ui")
    page.get_by_text("identity_graph").first.wait_for()
    page.close()
    assert ui.state() == before


def test_a_host_name_that_is_rebound_to_this_machine_is_refused(
    ui: Ui, context: BrowserContext, materialized: str
) -> None:
    """The browser takes it for one origin with its attacker's page, so that nothing but the Host tells."""
    before = ui.state()
    page = context.new_page()
    address = f"http://evil.example:{ui.served.port}"
    answered = page.goto(f"{address}/server_info")
    assert answered is not None
    assert answered.status == 403
    said = page.evaluate(
        """async ([address, query]) => {
          const got = await fetch(address + "/graphql", {method: "POST", body: JSON.stringify({query}),
            headers: {"Content-Type": "application/json"}});
          const socket = new WebSocket(address.replace("http", "ws") + "/graphql", "graphql-ws");
          const ended = await new Promise((done) => {
            socket.onopen = () => done("open"); socket.onerror = () => done("refused");
          });
          return [got.status, ended];
        }""",
        [address, attacks(materialized)["launch"]],
    )
    assert said == [403, "refused"]
    page.close()
    assert ui.state() == before


def test_no_page_of_another_origin_frames_the_ui(
    ui: Ui, context: BrowserContext, attacker: tuple[type[_Pages], int], materialized: str
) -> None:
    pages, port = attacker
    pages.page = f'<iframe id="ui" src="{ui.address}/runs"></iframe>'
    page = context.new_page()
    page.goto(f"http://localhost:{port}/")
    # Chromium shows a page of its own in place of one that it must not frame.
    wait_until(page, lambda: [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"])
    page.close()
    assert ui.runs() == {materialized: "SUCCESS"}


def test_graphiql_of_the_ui_still_answers(ui: Ui, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{ui.address}/graphql")
    page.get_by_text("Docs").or_(page.locator(".graphiql-container")).first.wait_for()
    assert page.evaluate(
        """async () => (await (await fetch("/graphql", {method: "POST", body: JSON.stringify({query: "{version}"}),
          headers: {"Content-Type": "application/json"}})).json()).data.version"""
    )
    page.close()


def test_without_the_password_nothing_is_shown(ui: Ui, browser: Browser) -> None:
    if ui.password is None:
        pytest.skip("this one has no password")
    other = browser.new_context()
    other.set_default_timeout(240_000)
    page = other.new_page()
    for path in ("/", "/server_info", "/favicon.ico", "/graphql"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{ui.address}{path}", timeout=240)
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
        page.goto(f"{ui.address}/runs")
    other.close()


def test_the_password_is_in_no_log_and_no_history(ui: Ui, materialized: str) -> None:
    if ui.password is None:
        pytest.skip("this one has no password")
    for path in sorted(Path(ui.served.home).rglob("*")):
        # The UI still runs: a journal of a database may go meanwhile.
        with suppress(FileNotFoundError):
            if path.is_file() and path.name != "password":
                assert PASSWORD.encode() not in path.read_bytes(), path
    assert materialized
