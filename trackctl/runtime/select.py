"""Which CPU engine and how many threads: measured once per machine and graph, then remembered."""

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
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.bundle import SEARCH, TEMPLATE, Bundle
from trackctl.runtime.contract import SEARCH_PATCH, STATE_IN, Array
from trackctl.runtime.engine import Engine
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.errors import EngineError, InputError, MissingDependency, TrackctlError
from trackctl.runtime.processor import Processor

AUTO = "auto"
MEMORY_FILE = "engines.json"
# Named after the package they import.
OPENERS: dict[str, Callable[..., Engine]] = {"openvino": OpenVinoEngine.open, "onnxruntime": OnnxRuntimeEngine.open}

WARMUP_RUNS = 3
RUNS = 15
JUDGED_AFTER = 4  # runs after which a candidate may be given up
HOPELESS = 1.3  # ... if even its fastest run takes this many times the best median
BUDGET_NS = 1_500_000_000  # per candidate, for graphs so slow that RUNS would keep the user waiting


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine kind with its thread count.

    Attributes:
        kind: key of ``OPENERS``.
        threads: CPU threads.
        median_ms: time of one search when it was measured; None if nothing had to be measured.
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


def open_engines(bundle: Bundle, kind: str = AUTO, threads: int | None = None) -> tuple[Engine, Engine, Choice]:
    """The template engine, the search engine and why these.

    Args:
        bundle: whose patch graphs to open.
        kind: ``auto`` for the fastest one installed, or a key of ``OPENERS``.
        threads: CPU threads; None for the fastest number.

    Raises:
        InputError: the kind or the number of threads makes no sense.
        MissingDependency: the engine's package is not installed.
        EngineError: no candidate can run the graphs.
    """
    if kind not in (AUTO, *OPENERS):
        raise InputError(f"got the engine {kind!r}, expected one of {', '.join((AUTO, *OPENERS))}")
    if threads is not None and threads < 1:
        raise InputError(f"got {threads} threads, expected 1 or more")
    kinds = [name for name in OPENERS if installed(name)] if kind == AUTO else [kind]
    if not kinds:
        raise MissingDependency("openvino", "tracking on the CPU", "openvino")
    processor = Processor.read()
    counts = [threads] if threads is not None else thread_counts(processor.cores)
    candidates = [Choice(kind=name, threads=count) for name in kinds for count in counts]
    if len(candidates) == 1:
        return _open_both(bundle, candidates[0])
    key = _key(bundle, candidates, processor)
    remembered = recall(key, candidates)
    if remembered is not None:
        # A broken memory (say, the package was damaged since) is no reason to fail while others may work.
        with contextlib.suppress(TrackctlError):
            return _open_both(bundle, remembered)
    choice = fastest(bundle, candidates)
    remember(key, choice)
    return _open_both(bundle, choice)


def thread_counts(cores: int) -> list[int]:
    """The thread counts worth trying: powers of two and all cores."""
    powers = (1 << exponent for exponent in range(cores.bit_length()))
    return sorted({*powers, cores})


def fastest(bundle: Bundle, candidates: Sequence[Choice]) -> Choice:
    """The candidate with the lowest median time of one search.

    Raises:
        EngineError: every candidate failed; with their reasons.
    """
    best: Choice | None = None
    reasons = []
    for candidate in candidates:
        try:
            with contextlib.closing(_open(bundle, SEARCH, candidate)) as engine:
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
    engine.bind({name: array for name, array in feeds.items() if name not in (STATE_IN, SEARCH_PATCH)})
    live = {name: feeds[name] for name in (STATE_IN, SEARCH_PATCH) if name in feeds}
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
        high = 255.0 if name == SEARCH_PATCH else 1.0
        feeds[name] = rng.uniform(0.0, high, spec.shape).astype(spec.dtype)
    if STATE_IN in feeds:
        feeds[STATE_IN][...] = np.array([320.0, 256.0, 40.0, 30.0, 640.0, 512.0])
    return feeds


def _open(bundle: Bundle, key: str, choice: Choice) -> Engine:
    entry = bundle.graph(key)
    return OPENERS[choice.kind](
        bundle.graph_path(key),
        expected_inputs=entry.inputs,
        expected_outputs=entry.outputs,
        threads=choice.threads,
        precision=bundle.manifest.precision,
    )


def _open_both(bundle: Bundle, choice: Choice) -> tuple[Engine, Engine, Choice]:
    template = _open(bundle, TEMPLATE, choice)
    try:
        return template, _open(bundle, SEARCH, choice), choice
    except BaseException:
        template.close()
        raise


def _key(bundle: Bundle, candidates: Sequence[Choice], processor: Processor) -> str:
    """What the fastest choice depends on, as one checksum."""
    facts = {
        "candidates": [(choice.kind, version(choice.kind), choice.threads) for choice in candidates],
        "cpu": (processor.model, processor.cores, processor.cpus),
        "graph": bundle.graph(SEARCH).sha256,
        "precision": bundle.manifest.precision,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
