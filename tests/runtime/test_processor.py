"""The CPU as Linux describes it, on machines this one is not."""

from __future__ import annotations

import os

from trackctl.runtime.processor import Processor

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: 13th Gen Intel(R) Core(TM) i7-1365U
flags\t\t: fpu vme avx2 avx_vnni

processor\t: 1
model name\t: 13th Gen Intel(R) Core(TM) i7-1365U
flags\t\t: fpu vme avx2 avx_vnni
"""
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd asimdhp asimddp
CPU implementer\t: 0x41
"""


def tree(root, cpuinfo, siblings):
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for cpu, text in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


def test_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 5})
    cpu = Processor.read(tree(tmp_path, X86, {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2,6"}))
    assert cpu.model == "13th Gen Intel(R) Core(TM) i7-1365U"
    assert cpu.features == {"fpu", "vme", "avx2", "avx_vnni"}
    assert (cpu.cpus, cpu.cores) == (4, 2)


def test_arm_boards_are_named_by_their_device_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    tree(tmp_path, ARM, {0: "0", 1: "1", 2: "2"})
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    cpu = Processor.read(tmp_path)
    assert cpu.model == "NVIDIA Jetson Orin Nano"
    assert "asimddp" in cpu.features
    assert (cpu.cpus, cpu.cores) == (3, 3)


def test_nothing_readable_still_gives_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3})
    cpu = Processor.read(tmp_path)
    assert cpu.model
    assert cpu.features == frozenset()
    assert (cpu.cpus, cpu.cores) == (2, 2)


def test_this_machine_is_read():
    cpu = Processor.read()
    assert cpu.model
    assert 1 <= cpu.cores <= cpu.cpus <= os.cpu_count()
