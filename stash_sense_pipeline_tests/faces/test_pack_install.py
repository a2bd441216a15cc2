"""A known pack is installed completely and verified, after any number of attempts, or not at all."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.faces.models.model_packs import ModelPack, PackDescription, read_description
from stash_sense_pipeline.faces.models.pack_install import (
    check_pack,
    known_packs,
    list_packs,
    pull_pack,
    pull_tattoo_networks,
)
from stash_sense_pipeline.foundation.errors import ModelPackError
from stash_sense_pipeline_tests.faces.nets import with_tattoos, write_pack


@dataclass
class FileServer:
    """Serves files with ranges; `cut` breaks answers off after so many bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    base: str = ""


@pytest.fixture
def files() -> Iterator[FileServer]:
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            asked = self.headers.get("Range")
            served.requests.append((name, asked))
            body = served.files.get(name)
            if body is None:
                self.send_error(404)
                return
            start = int(re.findall(r"\d+", asked)[0]) if asked and served.ranges else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:] if served.cut is None else body[start : start + served.cut])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def known(files: FileServer, pack: ModelPack, tmp_path: Path) -> dict[str, PackDescription]:
    """A pack that can be pulled from the server: the detector out of a zip, an optional embedder that is not served."""
    data = yaml.safe_load((pack.directory / "pack.yaml").read_text())
    for body in (data["detector"], *data["embedders"].values()):
        content = (pack.directory / body["file"]).read_bytes()
        files.files[body["file"]] = content
        body |= {"url": f"{files.base}/{body['file']}", "bytes": len(content)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("inside/detector.onnx", files.files.pop("detector.onnx"))
        content.writestr("other.onnx", b"not asked for")
    files.files["detectors.zip"] = archive.getvalue()
    data["detector"] |= {"url": f"{files.base}/detectors.zip", "member": "inside/detector.onnx"}
    third = {"input_size": 112, "layout": "nchw", "mean": 127.5, "std": 127.5, "dim": 512}
    data["embedders"]["third"] = {"file": "third.onnx", "optional": True, **third}
    data["name"] = "pulled"
    (tmp_path / "pulled.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return {"pulled": read_description(tmp_path / "pulled.yaml")}


def pull(known: dict[str, PackDescription], models: Path, **changes: object) -> Path:
    return pull_pack("pulled", models, **{"accept_licence": True, "known": known, **changes})


@pytest.mark.slow
def test_a_pulled_pack_is_downloaded_and_verified(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path, pack: ModelPack
) -> None:
    told: list[tuple[str, int, int | None]] = []
    directory = pull(known, tmp_path / "models", progress=lambda *what: told.append(what))
    loaded = check_pack("pulled", tmp_path / "models")
    assert (loaded.detector.digest, dict(loaded.digests)) == (pack.detector.digest, dict(pack.digests))
    names = {"pack.yaml", "detector.onnx", "facenet.onnx", "arcface.onnx"}
    assert {path.name for path in directory.iterdir()} == names
    size = len(files.files["facenet.onnx"])
    assert ("facenet.onnx", size, size) in told


@pytest.mark.slow
def test_networks_for_tattoos_are_fetched_only_when_asked_for(files: FileServer, tmp_path: Path) -> None:
    made = write_pack(tmp_path / "made")
    with_tattoos(made)
    data = yaml.safe_load((made / "pack.yaml").read_text()) | {"name": "pulled"}
    for body in (data["detector"], *data["embedders"].values(), *data["tattoo"].values()):
        files.files[body["file"]] = (made / body["file"]).read_bytes()
        body["url"] = f"{files.base}/{body['file']}"
    (tmp_path / "pulled.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    known = {"pulled": read_description(tmp_path / "pulled.yaml")}
    pull(known, tmp_path / "models")
    assert not any("tattoo" in name for name, _ in files.requests)
    assert check_pack("pulled", tmp_path / "models").tattoo is None
    pull_tattoo_networks("pulled", tmp_path / "models", known=known)
    loaded = check_pack("pulled", tmp_path / "models")
    assert loaded.tattoo is not None
    assert loaded.tattoo.embedder.dim == 1280
    files.files["tattoo_embedder.onnx"] = b"another file"
    (tmp_path / "models" / "pulled" / "tattoo_embedder.onnx").unlink()
    with pytest.raises(ModelPackError, match="delivered another file"):
        pull_tattoo_networks("pulled", tmp_path / "models", known=known)


def test_a_pack_that_describes_no_networks_for_tattoos_says_so(
    known: dict[str, PackDescription], tmp_path: Path
) -> None:
    pull(known, tmp_path / "models")
    with pytest.raises(ModelPackError, match="describes no networks for tattoos"):
        pull_tattoo_networks("pulled", tmp_path / "models", known=known)


def test_an_archive_with_several_networks_is_downloaded_once(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    data = yaml.safe_load((tmp_path / "pulled.yaml").read_text())
    with zipfile.ZipFile(io.BytesIO(files.files["detectors.zip"])) as old:
        content = {"inside/detector.onnx": old.read("inside/detector.onnx")}
    for name in ("facenet", "arcface"):
        content[f"inside/{name}.onnx"] = files.files.pop(f"{name}.onnx")
        data["embedders"][name] |= {"url": data["detector"]["url"], "member": f"inside/{name}.onnx"}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for name, body in content.items():
            made.writestr(name, body)
    files.files["detectors.zip"] = archive.getvalue()
    (tmp_path / "pulled.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    directory = pull({"pulled": read_description(tmp_path / "pulled.yaml")}, tmp_path / "models")
    assert files.requests == [("detectors.zip", None)]
    names = {"pack.yaml", "detector.onnx", "facenet.onnx", "arcface.onnx"}
    assert {path.name for path in directory.iterdir()} == names
    (directory / "arcface.onnx").unlink()
    pull({"pulled": read_description(tmp_path / "pulled.yaml")}, tmp_path / "models")
    assert len(files.requests) == 2


def test_the_known_pack_of_sense2_has_the_rules_of_its_sidecar() -> None:
    """The numbers are those of the contract of stash-sense2."""
    data = known_packs()["sense2"].data
    detector, (embedder,) = data["detector"], data["embedders"].values()
    assert (detector["input_size"], detector["threshold"], detector["channel_order"]) == (640, 0.5, "rgb")
    assert (detector["second_pass"], detector["padding"]) == ("padded_edges", 0.3)
    assert detector["roll_correction"] == {"from_degrees": 25, "accept_below": 15, "tries": 3}
    assert (detector["bytes"], embedder["bytes"]) == (16_923_827, 174_383_860)
    assert detector["sha256"].startswith("5838f7fe053675b1")
    assert embedder["sha256"].startswith("4c06341c33c2ca1f")
    shape = (embedder["input_size"], embedder["layout"], embedder["channel_order"], embedder["dim"])
    assert shape == (112, "nchw", "bgr", 512)
    assert (embedder["mean"], embedder["std"], data["flip_averaging"]) == (127.5, 127.5, False)
    assert "non-commercial" in data["licence"]


@pytest.mark.slow
def test_a_present_file_is_not_fetched_again(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    pull(known, tmp_path)
    files.requests.clear()
    pull(known, tmp_path)
    assert files.requests == []
    (tmp_path / "pulled" / "arcface.onnx").write_bytes(b"spoiled")
    pull(known, tmp_path)
    assert files.requests == [("arcface.onnx", None)]


def test_a_pack_is_not_pulled_before_its_licence_is_accepted(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    with pytest.raises(ModelPackError, match="pass --accept-licence"):
        pull(known, tmp_path / "models", accept_licence=False)
    assert files.requests == []
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_resumed(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path, ranges: bool
) -> None:
    files.ranges = ranges
    files.cut = len(files.files["detectors.zip"]) // 2
    with pytest.raises(ModelPackError, match=r"detectors\.zip broke off after \d+ bytes.*run it again"):
        pull(known, tmp_path)
    assert not (tmp_path / "pulled" / "pack.yaml").exists()
    assert not (tmp_path / "pulled" / "detector.onnx").exists()
    files.cut = None
    files.requests.clear()
    pull(known, tmp_path)
    name, asked = files.requests[0]
    assert name == "detectors.zip"
    assert asked is not None
    assert asked.startswith("bytes=")
    check_pack("pulled", tmp_path)


def test_another_file_than_described_is_not_installed(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    content = files.files["arcface.onnx"]
    files.files["arcface.onnx"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(ModelPackError, match="another file than the pack describes"):
        pull(known, tmp_path)
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == {"detector.onnx", "facenet.onnx"}
    files.files["arcface.onnx"] = content
    pull(known, tmp_path)


def test_a_download_larger_than_described_is_refused(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    files.files["arcface.onnx"] += bytes(1000)
    with pytest.raises(ModelPackError, match="delivers more than"):
        pull(known, tmp_path)
    assert not (tmp_path / "pulled" / "arcface.onnx").exists()
    assert not (tmp_path / "pulled" / ".arcface.onnx.part").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda files: files.files.pop("facenet.onnx"), "answered 404"),
        (
            lambda files: files.files.update({"detectors.zip": b"no zip at all"}),
            "no readable inside/detector.onnx",
        ),
    ],
)
def test_an_error_of_the_server_is_an_error_of_the_pack(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path, change, complaint: str
) -> None:
    change(files)
    with pytest.raises(ModelPackError, match=complaint) as caught:
        pull(known, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_is_an_error_of_the_pack(
    files: FileServer, known: dict[str, PackDescription], tmp_path: Path
) -> None:
    text = (known["pulled"].path).read_text().replace(files.base, "http://127.0.0.1:1")
    known["pulled"].path.write_text(text)
    with pytest.raises(ModelPackError, match="broke off after 0 bytes"):
        pull({"pulled": read_description(known["pulled"].path)}, tmp_path)


def test_an_unknown_name_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ModelPackError, match="no pack named 'nonsense' can be pulled; known are sense2, stash-sense-v1"
    ):
        pull_pack("nonsense", tmp_path, accept_licence=True)


def test_stash_sense_v1_is_what_the_sidecar_uses() -> None:
    description = known_packs()["stash-sense-v1"]
    assert {entry.role: entry.size for entry in description.files if not entry.optional} == {
        "detector": 2_524_817,
        "embedders.facenet": 93_985_006,
        "embedders.arcface": 136_564_309,
    }
    assert all(entry.sha256 and entry.url for entry in description.files if entry.role != "embedders.adaface")
    assert {entry.role: entry.size for entry in description.files if entry.optional} == {
        "embedders.adaface": None,
        "tattoo.detector": 83_882_182,
        "tattoo.embedder": 16_019_984,
    }
    embedders = description.data["embedders"]
    assert (embedders["facenet"]["std"], embedders["arcface"]["std"]) == (127.5, 128.0)
    assert {embedders[name]["layout"] for name in ("facenet", "arcface")} == {"nhwc"}
    assert description.data["detector"]["channel_order"] == "rgb"
    assert "non-commercial" in description.licence


def test_the_list_says_what_is_installed_and_what_is_wrong(
    known: dict[str, PackDescription], tmp_path: Path
) -> None:
    pull(known, tmp_path / "models")
    installed, sense2, unpulled = list_packs(tmp_path / "models")
    assert (installed.name, installed.installed, installed.known, installed.problem) == (
        "pulled",
        True,
        False,
        None,
    )
    assert installed.size > 10_000
    assert [(each.name, each.installed, each.known) for each in (sense2, unpulled)] == [
        ("sense2", False, True),
        ("stash-sense-v1", False, True),
    ]
    (tmp_path / "models" / "pulled" / "arcface.onnx").unlink()
    assert "arcface.onnx" in (list_packs(tmp_path / "models")[0].problem or "")
