"""ONNX Runtime sessions: devices, providers, options."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stash_sense_pipeline.foundation.errors import DeviceError, ModelPackError

if TYPE_CHECKING:
    import onnxruntime


class Device(StrEnum):
    """The device on which networks run."""

    CPU = "cpu"
    CUDA = "cuda"


# HEURISTIC: the default searches again for every shape. kSameAsRequested: the arena does not grow in powers of two.
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
_WARNINGS_ONLY_WHEN_FATAL = 4
_INSTALL = "install the `gpu` extra instead of `cpu`, or take the image built with --target gpu"
_DRIVER = "install driver 580 or newer, start a container with a GPU (NVIDIA container toolkit, --gpus all)"


def open_session(path: Path, device: Device, threads: int) -> onnxruntime.InferenceSession:
    """Opens a network on a device; `threads` is the number of CPU threads of one run.

    Raises DeviceError when CUDA is requested and missing, because a silent run on the CPU would take hours. Raises
    ModelPackError when the file is not an ONNX network, or does not take exactly one float32 tensor.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # All optimisations include the blocked layout, which is faster by a factor of 1.9. Parallel execution is slower by
    # a factor of 2.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads must not occupy the cores of the decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _WARNINGS_ONLY_WHEN_FATAL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=_providers(device))
    except _runtime_errors() as error:
        reason = str(error).split("\n")[0]
        raise ModelPackError(f"{path}: ONNX Runtime cannot load it: {reason}") from error
    if device is Device.CUDA and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(_no_cuda("ONNX Runtime could not start it", "see that the driver is 580 or newer"))
    taken = [(one.name, one.type) for one in session.get_inputs()]
    if [kind for _, kind in taken] != ["tensor(float)"]:
        inputs = ", ".join(f"{name} {kind}" for name, kind in taken)
        raise ModelPackError(f"{path}: must take one tensor(float), but takes {inputs or 'nothing'}")
    return session


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Converts errors of ONNX Runtime while it runs the network of `path` to ModelPackError."""
    try:
        yield
    except _runtime_errors() as error:
        reason = str(error).split("\n")[0]
        raise ModelPackError(f"{path}: ONNX Runtime cannot run it as pack.yaml says: {reason}") from error


def require_runtime(device: Device) -> None:
    """Raises DeviceError when the installed ONNX Runtime does not support the device, or a CUDA library is missing.

    Needs no GPU, so that a deployment can be prepared on a machine without one.
    """
    if device is Device.CPU:
        return
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError(_no_cuda("the installed ONNX Runtime is the one for CPUs", _INSTALL))
    # The CUDA libraries of the `gpu` extra are Python packages, which the loader does not find by itself. preload_dlls
    # only prints the libraries that it cannot load.
    with redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    failed = [line for line in printed.getvalue().splitlines() if line.startswith("Failed to load ")]
    if failed:
        raise DeviceError(_no_cuda(failed[-1].replace("Failed to load", "cannot load"), _INSTALL))


def require_device(device: Device) -> None:
    """Raises DeviceError when the device cannot be used here. Called early, before hours of fetching."""
    require_runtime(device)
    if device is Device.CPU:
        return
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(_no_cuda("there is no NVIDIA driver (libcuda.so.1)", _DRIVER)) from error
    code = driver.cuInit(0)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        said = (text.value or f"error {code}".encode()).decode()
        raise DeviceError(_no_cuda(f"the NVIDIA driver says: {said}", _DRIVER))


def _providers(device: Device) -> list[Any]:
    if device is Device.CPU:
        return ["CPUExecutionProvider"]
    require_device(device)
    return [("CUDAExecutionProvider", _CUDA_OPTIONS), "CPUExecutionProvider"]


def _no_cuda(reason: str, advice: str) -> str:
    return f"CUDA was asked for and is not there: {reason}; {advice}, or choose the device cpu"


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    )
