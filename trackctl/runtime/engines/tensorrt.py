"""TensorRT and TensorRT-RTX, the building side: engines from ONNX files. One code path, valid from TensorRT 10.3 to 11.4.

The graphs carry their precision, so the network is strongly typed and no precision flag, calibrator or dynamic range is
used: TensorRT 11 and TensorRT-RTX have none. TensorRT-RTX builds on a machine without a GPU and compiles its kernels
where the engine runs; a TensorRT engine belongs to the TensorRT version and the GPU model it was built on.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.errors import EngineError, InputError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
# The packages that hold each kind's API, the preferred one first.
PACKAGES = {TENSORRT: ("tensorrt",), TENSORRT_RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
ADVICE = {
    TENSORRT: (
        "on a Jetson install JetPack's own TensorRT (sudo apt install python3-libnvinfer) and let the virtual environment see it "
        "(python3 -m venv --system-site-packages); on a PC: pip install tensorrt"
    ),
    TENSORRT_RTX: "on a PC with an RTX card: pip install 'trackctl[tensorrt-rtx]'",
}

# Called with the phase, the steps done and all steps of it.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build took.

    Attributes:
        path: the engine file.
        version: of the library that built it.
        seconds: duration of parse and build.
        size_bytes: of the engine file.
    """

    path: Path
    version: str
    seconds: float
    size_bytes: int


def load_library(kind: str) -> Any:
    """The Python module of ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        InputError: the kind is neither.
        EngineError: it is not installed or its libraries are missing; with how to get them.
    """
    if kind not in PACKAGES:
        raise InputError(f"got the engine kind {kind!r}, expected one of {', '.join(PACKAGES)}")
    package = next(filter(importlib.util.find_spec, PACKAGES[kind]), None)
    if package is None:
        raise EngineError(f"{kind} is not installed: {ADVICE[kind]}")
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # whatever a package without its shared libraries raises
        raise EngineError(f"{kind} is installed but cannot be loaded ({error}): {ADVICE[kind]}") from error


def installed_kinds() -> tuple[str, ...]:
    """The kinds whose library can be loaded here."""
    found = []
    for kind in PACKAGES:
        with contextlib.suppress(EngineError):
            load_library(kind)
            found.append(kind)
    return tuple(found)


def build_engine(
    kind: str,
    graph_path: Path,
    out_path: Path,
    *,
    workspace_mib: int = 1024,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> Built:
    """The engine built from an ONNX file, written to ``out_path`` as a whole.

    Args:
        kind: ``tensorrt`` or ``tensorrt_rtx``.
        graph_path: strongly typed ONNX with static shapes.
        out_path: the engine file; its folder is made.
        workspace_mib: scratch memory the builder may plan with; on a Jetson it is the camera's memory too.
        timing_cache: file of kernel timings, read if it is there and written back; makes the next build faster.
            TensorRT-RTX times nothing while it builds and ignores it.
        progress: told of the builder's steps, from its threads.

    Raises:
        EngineError: the library is missing or refuses the graph; with its reasons.
    """
    trt = load_library(kind)
    started = perf_counter_ns()
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what its bindings make of a builder that did not come to be
        raise EngineError(
            f"{kind} cannot start here: {join_reasons(logger.reasons)}: build on the device, with its driver"
        ) from error
    # The flag's number is 1 in TensorRT 10 and 0 in TensorRT 11.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(_read(graph_path)) or network.num_outputs == 0:
        errors = [_explain(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(f"{kind} cannot parse {graph_path}: {join_reasons(errors or logger.reasons)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # Set by default. What the file calls float32 shall not be computed with the ten bits of TF32.
    config.clear_flag(trt.BuilderFlag.TF32)
    timings = None
    if timing_cache is not None and kind == TENSORRT:
        timings = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.exists() else b"")
        # False: timings of another version or GPU are refused rather than trusted.
        config.set_timing_cache(timings, False)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = join_reasons(logger.reasons)
        # The size that it names is what it may have and a little, not what it needs.
        hint = f": give it a workspace of more than {workspace_mib} MiB" if "OutOfMemory" in reasons else ""
        raise EngineError(f"{kind} cannot build {graph_path}: {reasons}{hint}")
    _write(out_path, plan)
    if timings is not None and timing_cache is not None:
        _write(timing_cache, timings.serialize())
    seconds = (perf_counter_ns() - started) / 1e9
    return Built(path=out_path, version=trt.__version__, seconds=seconds, size_bytes=out_path.stat().st_size)


def make_logger(trt: Any) -> Any:
    """A logger of the library that keeps what it calls an error in its list ``reasons``."""

    class Reasons(trt.ILogger):  # type: ignore[misc]
        """Keeps what the library calls an error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.reasons: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.reasons.append(message)

    return Reasons()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes the builder's steps on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress(phase, step + 1, self.steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            progress(phase, self.steps[phase], self.steps[phase])

    return Monitor()


def _explain(error: Any) -> str:
    place = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{error.desc()} ({place})" if place else str(error.desc())


def join_reasons(reasons: list[str]) -> str:
    """The library's reasons in one line, each once."""
    return "; ".join(dict.fromkeys(reasons)) or "no reason given"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read the graph {path} ({error.strerror}): export the bundle again") from error


def _write(path: Path, content: Any) -> None:
    try:
        write_whole(path, memoryview(content))
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error}") from error
