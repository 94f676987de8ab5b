"""The processes of one training run: on one machine started here, on several by torchrun.

Collective operations are few: one sum of all gradients per step, one of the running statistics, one of the loss parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

MEETING_FILE = "meeting"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Where this process stands among those of the run.

    Attributes:
        rank: its number; 0 writes the files.
        size: number of processes.
        device: where it computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the processes, in one operation. They are of one dtype, on ``device``."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        with torch.no_grad():
            for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))


def started_by_torchrun() -> bool:
    """Whether another program started this process as one of a group (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``)."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def torchrun_group() -> Group:
    """Join the group that the environment describes; NCCL on GPUs, gloo on CPUs."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", init_method="env://")
    return Group(rank=distributed.get_rank(), size=distributed.get_world_size(), device=device)


Work = Callable[[Group], None]


def run_together(first: Work, others: Work, *, processes: int, folder: Path) -> None:
    """Run so many processes on this machine, one thread each; rank 0 is this process.

    One process per core is faster on a CPU than threads that wait for each other in every layer.

    Args:
        first: the work of rank 0.
        others: the work of the other ranks; it can be pickled.
        processes: their number; with 1 nothing is started, threads stay as they are and a GPU is used if there is one.
        folder: where they meet; it exists.
    """
    if processes == 1:
        first(Group(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")))
        return
    meeting = (folder / MEETING_FILE).resolve()
    meeting.unlink(missing_ok=True)
    with ExitStack() as undo:
        undo.callback(meeting.unlink, missing_ok=True)
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        undo.callback(cv2.setNumThreads, cv2.getNumThreads())
        started = spawn(_join, (others, processes, meeting.as_uri()), nprocs=processes - 1, join=False)  # type: ignore[no-untyped-call]
        try:
            _run(0, first, processes, meeting.as_uri())
            while not started.join():
                pass
        finally:
            for process in started.processes:
                process.terminate()


def _join(index: int, work: Work, processes: int, meeting: str) -> None:
    _run(index + 1, work, processes, meeting)


def _run(rank: int, work: Work, processes: int, meeting: str) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    try:
        work(Group(rank=rank, size=processes))
    finally:
        distributed.destroy_process_group()
