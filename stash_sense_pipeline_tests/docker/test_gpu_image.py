"""The image with CUDA: it builds from its lock file, and says in one line what a machine without a GPU lacks.

Two gigabytes are downloaded for it, so it is asked for by name: STASH_SENSE_DOCKER_TESTS=gpu.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stash_sense_pipeline_tests.docker.engine import (
    BASE,
    GPU_IMAGE,
    IMAGE,
    Engine,
    build_cpu_image,
    build_gpu_image,
)

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2400)]

CUDA_LIBRARIES = "/opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib"
SOURCES = """global: {user_agent_contact: a@b.invalid}
stash_boxes:
  private: {enabled: true, url: "http://127.0.0.1:9/graphql"}
"""
PACK = "/opt/code/stash_sense_pipeline/sandbox/demo_pack"


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> str:
    """The tag of the built image."""
    if os.environ.get("STASH_SENSE_DOCKER_TESTS") != "gpu":
        pytest.skip("downloads 2 GB: set STASH_SENSE_DOCKER_TESTS=gpu")
    build_gpu_image(request.getfixturevalue("engine"))
    return GPU_IMAGE


def runs(
    engine: Engine, directory: Path, *command: str, lacking: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a container without a GPU, with one source. `lacking`: a directory of the image to hide."""
    (directory / "sources.yaml").write_text(SOURCES)
    variables = {
        "STASH_SENSE_SOURCES": "/given/sources.yaml",
        "STASH_SENSE_MODEL_PACK": PACK,
        "PRIVATE_API_KEY": "key",
    }
    options = [f"--env={name}={value}" for name, value in variables.items()]
    options += ["--tmpfs", lacking] if lacking else []
    options += ["--network=none", "-v", "/data", "-v", f"{directory / 'sources.yaml'}:/given/sources.yaml:ro"]
    return engine.run("docker", "run", "--rm", *options, GPU_IMAGE, *command, check=False)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    return line


def test_the_gpu_image_has_the_same_program_with_the_gpu_runtime(
    image: str, engine: Engine, tmp_path: Path
) -> None:
    assert runs(engine, tmp_path, "stash-sense", "--version").stdout.startswith("stash-sense, version")
    script = "import onnxruntime; print(*onnxruntime.get_available_providers())"
    said = runs(engine, tmp_path, "python", "-c", script)
    assert "CUDAExecutionProvider" in said.stdout.split(), said.stderr
    beyond = engine.size_mb(image) - engine.size_mb(BASE)
    assert beyond < 4000, f"{beyond:.0f} MB beyond the base image"


def test_the_gpu_image_prepares_a_deployment_without_a_gpu(
    image: str, engine: Engine, tmp_path: Path
) -> None:
    """As `init` of docker-compose.yml does, which has no GPU."""
    result = runs(engine, tmp_path, "stash-sense", "prepare")
    assert (result.returncode, result.stderr) == (0, "")
    assert "device cuda: ONNX Runtime for GPUs and the libraries of CUDA are installed" in result.stdout


@pytest.mark.parametrize("command", ["serve", "build"])
def test_a_missing_driver_is_an_error_of_one_line(
    image: str, engine: Engine, tmp_path: Path, command: str
) -> None:
    said = one_line(runs(engine, tmp_path, "stash-sense", command))
    assert "there is no NVIDIA driver" in said
    assert "choose the device cpu" in said


@pytest.mark.parametrize("command", ["prepare", "serve", "build"])
def test_a_missing_cuda_library_is_an_error_of_one_line(
    image: str, engine: Engine, tmp_path: Path, command: str
) -> None:
    said = one_line(runs(engine, tmp_path, "stash-sense", command, lacking=CUDA_LIBRARIES))
    assert "cannot load libc" in said
    assert "image built with --target gpu" in said


def test_the_gpu_image_works_on_the_cpu(image: str, engine: Engine, tmp_path: Path) -> None:
    result = runs(engine, tmp_path, "stash-sense", "models", "check", PACK)
    assert result.returncode == 0, result.stderr
    assert "all run" in result.stdout


def test_the_cpu_image_refuses_the_device_cuda(image: str, engine: Engine) -> None:
    build_cpu_image(engine)
    result = engine.run(
        "docker", "run", "--rm", "-v", "/data", "--env=STASH_SENSE_DEVICE=cuda", IMAGE, "stash-sense", "prepare",
        check=False,
    )  # fmt: skip
    assert "the installed ONNX Runtime is the one for CPUs" in one_line(result)
