"""Independent pieces of work, done here, in processes of this machine or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from trackctl.runtime.errors import EngineError, InputError, MissingDependency, TrackctlError

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")

LOCAL = "local"


def work(
    function: Callable[[Piece], Answer], pieces: Sequence[Piece], *, jobs: int = 1, cluster: str | None = None
) -> Iterator[tuple[Piece, Answer]]:
    """Each piece with what ``function`` makes of it, in the order in which they are done.

    Args:
        function: of a module, so that other processes find it.
        pieces: picklable.
        jobs: processes on this machine; 1 works in this one. On a cluster, the most pieces at a time (0: no limit).
        cluster: ``local`` starts Ray on this machine, ``ray://HOST:PORT`` joins a cluster; None does without Ray.

    Raises:
        InputError: ``jobs`` or ``cluster`` makes no sense.
        MissingDependency: Ray is not installed.
        EngineError: a worker process died.
    """
    if jobs < (1 if cluster is None else 0):
        raise InputError(f"got {jobs} jobs, expected 1 or more")
    if cluster is not None:
        return _on_cluster(function, pieces, jobs, cluster)
    if jobs == 1:
        return ((piece, function(piece)) for piece in pieces)
    return _in_processes(function, pieces, min(jobs, max(len(pieces), 1)))


def _in_processes(function: Callable[[Piece], Answer], pieces: Sequence[Piece], jobs: int) -> Iterator[tuple[Piece, Answer]]:
    # Engines own threads, which a fork would lose: new interpreters.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        waiting: dict[Future[Answer], Piece] = {pool.submit(function, piece): piece for piece in pieces}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process ended by itself, perhaps for want of memory: run again with fewer jobs; what is finished is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for work on a pipe that it holds open itself, so it would outlive a parent that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_cluster(
    function: Callable[[Piece], Answer], pieces: Sequence[Piece], jobs: int, cluster: str
) -> Iterator[tuple[Piece, Answer]]:
    if cluster != LOCAL and not cluster.startswith("ray://"):
        raise InputError(f"got the cluster {cluster!r}, expected {LOCAL} or ray://HOST:PORT")
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDependency("ray", "evaluation on a cluster", "cluster") from error
    address: dict[str, Any] = {"include_dashboard": False} if cluster == LOCAL else {"address": cluster}
    ray.init(**address, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1)(function)
        upcoming = iter(pieces)
        limit = jobs or len(pieces)
        waiting: dict[Any, Piece] = {}
        while True:
            for piece in upcoming:
                waiting[remote.remote(piece)] = piece
                if len(waiting) >= limit:
                    break
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            try:
                answer = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                # Ray's own message is the traceback on the node.
                raise (error.cause if isinstance(error.cause, TrackctlError) else error) from None
            yield waiting.pop(done[0]), answer
    finally:
        ray.shutdown()
