"""Fusing a 640x512 pair: the tiled engines against the same network in eager PyTorch, and the memory each takes.

    .venv/bin/python benchmarks/fuse.py WEIGHTS.npz [--threads 1 2] [--runs 2] [--out FILE.md]

The contenders are called in turn, run by run, so that all meet the same machine. CPU seconds are the processor time of all
threads, which other programs disturb least. Memory is the peak of a process of its own that fuses twice.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from trackctl.runtime.fusion import Fuser
from trackctl.runtime.processor import Processor

FRAME_HW = (512, 640)
EAGER = "pytorch eager fp32, whole picture"


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two smooth pictures with noise, uint8."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(FRAME_HW[0]), np.arange(FRAME_HW[1])) / 8
    ir, vi = (np.clip(ramp + rng.normal(0.0, 20.0, FRAME_HW), 0, 255).astype(np.uint8) for _ in range(2))
    return ir, vi


def eager(weights: Path, threads: int) -> Callable[[], np.ndarray]:
    import torch

    from trackctl.training.lrrnet import LRRNet
    from trackctl.training.weights import load_weights

    torch.set_num_threads(threads)
    model = LRRNet().eval()
    load_weights(model, weights)
    images = [torch.from_numpy(image.astype(np.float32))[None, None] for image in pair()]

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model.fuse(*images)[0, 0].numpy().astype(np.uint8)

    return run


def peak_mb(arguments: list[str]) -> float:
    """The peak resident memory, MB, of this file called with ``--alone`` and these arguments."""
    done = subprocess.run([sys.executable, __file__, "--alone", *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def alone(kind: str, source: str, threads: int) -> None:
    """Fuse twice and print the process's peak memory, MB."""
    with Fuser.open(source, engine=kind, threads=threads) as fuser:
        for _ in range(2):
            fuser.fuse(*pair())
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    if "--alone" in sys.argv:
        kind, source, threads = sys.argv[2:]
        alone(kind, source, int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from trackctl.export.fusion import write_fusion
    from trackctl.training.lrrnet import LRRNet

    lines = [f"{platform.machine()}, {Processor.read().model}, 640x512, {options.runs} runs in turn"]
    with tempfile.TemporaryDirectory() as folder:
        bundles = {precision: Path(folder, f"{precision}.fuse") for precision in ("fp32", "fp16")}
        tiles = {
            write_fusion(path, LRRNet(), options.weights, frame_hw=FRAME_HW, precision=precision).tile_hw
            for precision, path in bundles.items()
        }
        lines.append(f"tiles of {', '.join(f'{width}x{height}' for height, width in tiles)}")
        for threads in options.threads:
            contenders = {EAGER: eager(options.weights, threads)}
            memory = {}
            for precision, kind in (("fp32", "openvino"), ("fp16", "openvino"), ("fp32", "onnxruntime")):
                fuser = Fuser.open(bundles[precision], engine=kind, threads=threads)
                name = f"{fuser.engine.name}, {precision} tiles"
                contenders[name] = lambda fuser=fuser: fuser.fuse(*pair())
                memory[name] = [kind, str(bundles[precision])]
            results, wall, cpu = {}, {name: [] for name in contenders}, {name: [] for name in contenders}
            for name, run in contenders.items():
                if name != EAGER:
                    run()
            for _ in range(options.runs):
                for name, run in contenders.items():
                    began = perf_counter(), process_time()
                    results[name] = run()
                    wall[name].append(perf_counter() - began[0])
                    cpu[name].append(process_time() - began[1])
            heads = ("wall s", "faster than eager", "CPU s", "less than eager", "peak RSS MB", "same pixels", "most off")
            lines += ["", f"| {threads} thread{'s' * (threads > 1)} | {' | '.join(heads)} |", "|---" * 8 + "|"]
            for name in contenders:
                seconds, work = np.median(wall[name]), np.median(cpu[name])
                off = np.abs(results[name].astype(int) - results[EAGER])
                resident = f"{peak_mb([*memory[name], str(threads)]):.0f}" if name in memory else ""
                lines.append(
                    f"| {name} | {seconds:.2f} | {np.median(wall[EAGER]) / seconds:.1f}x | {work:.2f} "
                    f"| {np.median(cpu[EAGER]) / work:.1f}x | {resident} | {(off == 0).mean():.4%} | {off.max()} |"
                )
            print("\n".join(lines), flush=True)
    text = "\n".join(lines)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
