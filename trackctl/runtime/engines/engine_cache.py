"""The engines that a bundle keeps for this machine: found by a key of everything that matters, checked, built when need be.

engines/
  KEY.KIND.DIGEST.engine          the engine; the digest covers the graph, the library and, for TensorRT, GPU and driver
  KEY.KIND.DIGEST.engine.sha256   its checksum: a half-written or damaged engine may crash the library that reads it
  KIND.DIGEST.timings             TensorRT's kernel timings on this GPU, which make the next build faster
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.tensorrt import TENSORRT, Built, Progress, build_engine, load_library
from trackctl.runtime.errors import EngineError, MissingDependency

CHECKSUM_SUFFIX = ".sha256"


def engine_path(bundle: Bundle, key: str, kind: str, library: Any, cuda: Cuda | None) -> Path:
    """Where the engine of a graph belongs.

    Args:
        bundle: the bundle.
        key: the graph.
        kind: ``tensorrt`` or ``tensorrt_rtx``.
        library: its module.
        cuda: the GPU; None where there is none.
    """
    return bundle.engine_cache(key, kind, **_details(kind, library, cuda))


def read_sound(path: Path) -> bytes | None:
    """An engine file's bytes; None if it is missing or differs from its checksum."""
    try:
        plan = path.read_bytes()
        expected = _checksum_file(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return plan if hashlib.sha256(plan).hexdigest() == expected else None


def build_into_cache(bundle: Bundle, key: str, kind: str, cuda: Cuda | None = None, progress: Progress | None = None) -> Built:
    """The engine of a graph built into the bundle's cache, whatever was there.

    Args:
        bundle: the bundle.
        key: the graph.
        kind: ``tensorrt`` or ``tensorrt_rtx``.
        cuda: the GPU; None to use the one that answers, if any.
        progress: told of the builder's steps, from its threads.

    Raises:
        EngineError: the library is missing or refuses the graph; or the cache cannot be written.
        BundleError: the bundle has no such graph.
    """
    library = load_library(kind)
    if cuda is None and kind == TENSORRT:
        with contextlib.suppress(EngineError, MissingDependency):
            cuda = Cuda.open()
    path = engine_path(bundle, key, kind, library, cuda)
    _checksum_file(path).unlink(missing_ok=True)
    digest = hashlib.sha256(repr(sorted(_details(kind, library, cuda).items())).encode()).hexdigest()
    timings = path.parent / f"{kind}.{digest[:16]}.timings"
    built = build_engine(kind, bundle.graph_path(key), path, timing_cache=timings, progress=progress)
    try:
        write_whole(_checksum_file(path), hashlib.sha256(path.read_bytes()).hexdigest().encode())
    except OSError as error:
        raise EngineError(f"cannot write {_checksum_file(path)}: {error}") from error
    return built


def _details(kind: str, library: Any, cuda: Cuda | None) -> dict[str, str]:
    # TensorRT-RTX compiles for the GPU where the engine runs; its engines belong to no GPU.
    gpu = {"gpu": cuda.gpu, "driver": cuda.driver} if cuda is not None and kind == TENSORRT else {}
    return {"version": library.__version__, **gpu}


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM_SUFFIX)
