"""Which engine and how many CPU threads: measured once per machine and graph, then remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.bundle import NEAR, SEARCH, TEMPLATE, Bundle, frame_key
from trackctl.runtime.contract import FRAME, SEARCH_PATCH, STATE_IN, TONE, Array
from trackctl.runtime.engine import Engine, Engines
from trackctl.runtime.engines.cuda import Cuda, gpu_answers
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.engines.tensorrt import TENSORRT, TENSORRT_RTX, Progress, installed_kinds, load_library
from trackctl.runtime.engines.tensorrt_run import TensorRtEngine
from trackctl.runtime.errors import EngineError, InputError, MissingDependency, TrackctlError
from trackctl.runtime.processor import Processor

AUTO = "auto"
MEMORY_FILE = "engines.json"
# The engines on the CPU, which take patch graphs; named after the package they import.
OPENERS: dict[str, Callable[..., Engine]] = {"openvino": OpenVinoEngine.open, "onnxruntime": OnnxRuntimeEngine.open}
# The engines on the GPU, which take frame graphs where the bundle has them.
ONNXRUNTIME_CUDA = "onnxruntime_cuda"
GPU_OPENERS: dict[str, Callable[..., Engine]] = {
    TENSORRT: partial(TensorRtEngine.open, kind=TENSORRT),
    TENSORRT_RTX: partial(TensorRtEngine.open, kind=TENSORRT_RTX),
    ONNXRUNTIME_CUDA: OnnxRuntimeCudaEngine.open,
}

# Height and width, and the layout of frames.
Form = tuple[tuple[int, int], str]

WARMUP_RUNS = 3
RUNS = 15
JUDGED_AFTER = 4  # runs after which a candidate may be given up
HOPELESS = 1.3  # ... if even its fastest run takes this many times the best median
BUDGET_NS = 1_500_000_000  # per candidate, for graphs so slow that RUNS would keep the user waiting


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine kind with its thread count.

    Attributes:
        kind: key of ``OPENERS`` or ``GPU_OPENERS``.
        threads: CPU threads; 0 on a GPU.
        median_ms: time of one run of its busiest graph when that was measured; None if nothing had to be measured.
    """

    kind: str
    threads: int
    median_ms: float | None = None


def installed(kind: str) -> bool:
    """Whether the package of an engine kind is there."""
    return importlib.util.find_spec(kind) is not None


def version(kind: str) -> str:
    """The version of an engine's package, without importing it."""
    for distribution in (kind, f"{kind}-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return "unknown"


def open_engines(
    bundle: Bundle, kind: str = AUTO, threads: int | None = None, progress: Progress | None = None
) -> tuple[Engines, Choice]:
    """The engines of a bundle and why these.

    Args:
        bundle: whose graphs to open: patch graphs on the CPU; on a GPU the first frame graphs, if it has any.
        kind: ``auto`` for the fastest one installed, a GPU's only if one answers; or a key of ``OPENERS`` or ``GPU_OPENERS``.
        threads: CPU threads; None for the fastest number. Without effect on a GPU.
        progress: told of the steps when an engine must be built, from the builder's threads.

    Raises:
        InputError: the kind or the number of threads makes no sense.
        MissingDependency: the engine's package is not installed.
        EngineError: no candidate can run the graphs.
    """
    if kind not in (AUTO, *OPENERS, *GPU_OPENERS):
        raise InputError(f"got the engine {kind!r}, expected one of {', '.join((AUTO, *OPENERS, *GPU_OPENERS))}")
    if threads is not None and threads < 1:
        raise InputError(f"got {threads} threads, expected 1 or more")
    kinds = [*(name for name in OPENERS if installed(name)), *gpu_kinds()] if kind == AUTO else [kind]
    if not kinds:
        raise MissingDependency("openvino", "tracking on the CPU", "openvino")
    processor = Processor.read()
    counts = [threads] if threads is not None else thread_counts(processor.cores)
    candidates = [Choice(kind=name, threads=count) for name in kinds for count in ([0] if name in GPU_OPENERS else counts)]
    if len(candidates) == 1:
        return _open_all(bundle, candidates[0], None, progress), candidates[0]
    key = _key(bundle, candidates, processor)
    remembered = recall(key, candidates)
    if remembered is not None:
        # A broken memory (say, the package was damaged since) is no reason to fail while others may work.
        with contextlib.suppress(TrackctlError):
            return _open_all(bundle, remembered, None, progress), remembered
    choice = fastest(bundle, candidates, progress)
    remember(key, choice)
    return _open_all(bundle, choice, None, progress), choice


class CutChooser:
    """Opens the graphs that fit a camera's frames, on the engine that was chosen for a bundle.

    A CPU engine takes the patch graphs whatever comes; a GPU engine takes the frame graphs made for these frames, and the
    patch graphs where there are none.

    Args:
        bundle: whose graphs.
        choice: the engine.
        progress: as for :func:`open_engines`, whose engines are taken to be open.
    """

    def __init__(self, bundle: Bundle, choice: Choice, progress: Progress | None = None) -> None:
        self._bundle, self._choice, self._progress = bundle, choice, progress
        self._keys = graph_keys(bundle, choice.kind, None)

    def engines_for(self, form: Form) -> Engines | None:
        """Engines for frames of this form; None if those opened last are right.

        Raises:
            EngineError: they cannot be opened; those opened last stay right.
        """
        keys = graph_keys(self._bundle, self._choice.kind, form)
        if keys == self._keys:
            return None
        engines = _open_all(self._bundle, self._choice, form, self._progress)
        self._keys = keys
        return engines


def graph_keys(bundle: Bundle, kind: str, form: Form | None) -> tuple[str, str]:
    """The keys of the template and the search graph that an engine kind takes for frames of a form, or of any form."""
    cuts = bundle.frame_graphs() if kind in GPU_OPENERS else ()
    fitting = [cut for cut in cuts if form is None or cut == form]
    return (frame_key(TEMPLATE, *fitting[0]), frame_key(SEARCH, *fitting[0])) if fitting else (TEMPLATE, SEARCH)


def busiest_key(bundle: Bundle, kind: str) -> str:
    """The key of the graph that an engine kind runs on most frames: the near one on a CPU, if there is one, else the search."""
    return NEAR if kind in OPENERS and NEAR in bundle.manifest.graphs else graph_keys(bundle, kind, None)[1]


def gpu_kinds() -> tuple[str, ...]:
    """The engine kinds that may run on this machine's GPU; none where no GPU answers."""
    if not gpu_answers():
        return ()
    onnxruntime = installed("onnxruntime") and "CUDAExecutionProvider" in _onnxruntime_providers()
    return (*installed_kinds(), *([ONNXRUNTIME_CUDA] if onnxruntime else []))


def _onnxruntime_providers() -> list[str]:
    import onnxruntime

    providers: list[str] = onnxruntime.get_available_providers()
    return providers


def thread_counts(cores: int) -> list[int]:
    """The thread counts worth trying: powers of two and all cores."""
    powers = (1 << exponent for exponent in range(cores.bit_length()))
    return sorted({*powers, cores})


def fastest(bundle: Bundle, candidates: Sequence[Choice], progress: Progress | None = None) -> Choice:
    """The candidate with the lowest median time of one run of its busiest graph.

    Raises:
        EngineError: every candidate failed; with their reasons.
    """
    best: Choice | None = None
    reasons = []
    for candidate in candidates:
        try:
            key = busiest_key(bundle, candidate.kind)
            with contextlib.closing(_open(bundle, key, candidate, progress)) as engine:
                median_ms = measure_ms(engine, None if best is None else best.median_ms)
        except TrackctlError as error:
            reasons.append(str(error))
            continue
        if best is None or best.median_ms is None or median_ms < best.median_ms:
            best = Choice(kind=candidate.kind, threads=candidate.threads, median_ms=median_ms)
    if best is None:
        raise EngineError(f"no engine can run {bundle.path}: {'; '.join(dict.fromkeys(reasons))}")
    return best


def measure_ms(engine: Engine, best_ms: float | None = None) -> float:
    """The median time of one run on random inputs, ms; a few runs only if it cannot come near ``best_ms``."""
    feeds = _random_feeds(engine)
    live = {name: feeds[name] for name in (STATE_IN, SEARCH_PATCH, FRAME, TONE) if name in feeds}
    engine.bind({name: array for name, array in feeds.items() if name not in live})
    started = perf_counter_ns()
    for _ in range(WARMUP_RUNS):
        engine.run(live)
    times_ms: list[float] = []
    while len(times_ms) < RUNS:
        before = perf_counter_ns()
        engine.run(live)
        after = perf_counter_ns()
        times_ms.append((after - before) / 1e6)
        if len(times_ms) >= JUDGED_AFTER:
            hopeless = best_ms is not None and min(times_ms) > HOPELESS * best_ms
            if hopeless or after - started > BUDGET_NS:
                break
    return median(times_ms)


def _random_feeds(engine: Engine) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds = {}
    for name, spec in engine.inputs.items():
        high = 255.0 if name in (SEARCH_PATCH, FRAME) else 1.0
        feeds[name] = rng.uniform(0.0, high, spec.shape).astype(spec.dtype)
    if STATE_IN in feeds:
        feeds[STATE_IN][...] = np.array([320.0, 256.0, 40.0, 30.0, 640.0, 512.0])
    return feeds


def _open(bundle: Bundle, key: str, choice: Choice, progress: Progress | None) -> Engine:
    if choice.kind in GPU_OPENERS:
        return GPU_OPENERS[choice.kind](bundle, key, progress=progress)
    entry = bundle.graph(key)
    return OPENERS[choice.kind](
        bundle.graph_path(key),
        expected_inputs=entry.inputs,
        expected_outputs=entry.outputs,
        threads=choice.threads,
        precision=bundle.manifest.precision,
    )


def _open_all(bundle: Bundle, choice: Choice, form: Form | None, progress: Progress | None) -> Engines:
    keys = list(graph_keys(bundle, choice.kind, form))
    if choice.kind in OPENERS and NEAR in bundle.manifest.graphs:
        keys.append(NEAR)
    with contextlib.ExitStack() as opened:
        engines = Engines(*(opened.enter_context(contextlib.closing(_open(bundle, key, choice, progress))) for key in keys))
        opened.pop_all()
    return engines


def _key(bundle: Bundle, candidates: Sequence[Choice], processor: Processor) -> str:
    """What the fastest choice depends on, as one checksum."""
    facts: dict[str, Any] = {
        "candidates": [(choice.kind, _version(choice.kind), choice.threads) for choice in candidates],
        "cpu": (processor.model, processor.cores, processor.cpus),
        "graph": [bundle.graph(busiest_key(bundle, choice.kind)).sha256 for choice in candidates],
        "precision": bundle.manifest.precision,
    }
    if any(choice.kind in GPU_OPENERS for choice in candidates):
        cuda = Cuda.open()
        facts["gpu"] = (cuda.gpu, cuda.driver)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(kind: str) -> str:
    if kind in (TENSORRT, TENSORRT_RTX):
        return str(load_library(kind).__version__)
    return version("onnxruntime" if kind == ONNXRUNTIME_CUDA else kind)


def cache_folder() -> Path:
    """The folder of what trackctl remembers: ``TRACKCTL_CACHE_DIR``, else trackctl in the user's cache folder."""
    if own := os.environ.get("TRACKCTL_CACHE_DIR"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "trackctl")
    try:
        return Path.home() / ".cache/trackctl"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir(), "trackctl")


def _memory() -> dict[str, Any]:
    try:
        content = json.loads((cache_folder() / MEMORY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def recall(key: str, candidates: Sequence[Choice]) -> Choice | None:
    """The choice remembered under a key; None if there is none, it is damaged or none of the candidates."""
    entry = _memory().get(key)
    if not isinstance(entry, dict) or not isinstance(entry.get("median_ms"), float):
        return None
    for candidate in candidates:
        if (entry.get("kind"), entry.get("threads")) == (candidate.kind, candidate.threads):
            return replace(candidate, median_ms=entry["median_ms"])
    return None


def remember(key: str, choice: Choice) -> None:
    """Keep a choice for :func:`recall`; without effect where the cache folder cannot be written."""
    content = json.dumps({**_memory(), key: asdict(choice)}, indent=2, sort_keys=True)
    with contextlib.suppress(OSError):
        write_whole(cache_folder() / MEMORY_FILE, content.encode())
