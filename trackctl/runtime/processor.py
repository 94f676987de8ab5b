"""What the CPU is: its name, its instruction sets and how many of its cores this process may use."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """The CPU as Linux describes it.

    Attributes:
        model: product name.
        features: instruction sets in Linux's spelling, such as ``avx512_bf16``.
        cpus: logical CPUs this process may run on (its affinity).
        cores: physical cores behind them; the threads of one core share its arithmetic units.
    """

    model: str
    features: frozenset[str]
    cpus: int
    cores: int

    @classmethod
    def read(cls, root: Path = Path("/")) -> Processor:
        """The CPU described under ``root``; what cannot be read is answered with what Python knows.

        Args:
            root: the folder that holds ``proc`` and ``sys``.
        """
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        info = _text(root / "proc/cpuinfo")
        model = _field("model name", info) or _text(root / "proc/device-tree/model") or platform.machine()
        features = _field("flags", info) or _field("Features", info)
        siblings = {
            _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in affinity
        }
        return cls(model.strip("\0 \n"), frozenset(features.split()), len(affinity), len(siblings))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _field(name: str, info: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", info, re.MULTILINE)
    return found[1].strip() if found else ""
