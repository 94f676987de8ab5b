"""All that needs an NVIDIA GPU, in one command: parity, latency, overhead, memory, and PyTorch for comparison.

    .venv/bin/python benchmarks/gpu.py BUNDLE... [--weights FILE] [--frames 1000] [--out benchmarks/results]

Per bundle it writes gpu_GPU_BUNDLE.json and .md. Every engine that the machine has runs the bundle's first frame graphs over a
rendered clip, each frame new in the host's memory, until the box is on the host:

    update     the Tracker's whole update(), percentiles over all frames after a warm-up
    bare       the engine's own work, launched and waited for, without a copy (as one graph launch where update() is one)
    overhead   median of update less median of bare: what the frame costs beyond the engine
    no graph   update() with each operation launched on its own
    copied     update() with copies where CPU and GPU share their memory and need none (Jetson only)
    grown      GPU memory that was taken, and blocks that were allocated, while the timed frames ran; both must be 0
    parity     against ONNX Runtime on the CPU, step by step on the same inputs: the graphs are the same files

An engine that does not accept the GPU is listed with its reason. PyTorch computes the same frame graph from host frame to host
box, eager, compiled (mode reduce-overhead) and as one captured CUDA graph.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from trackctl.calibration.drift import measure_drift
from trackctl.calibration.footage import Footage
from trackctl.calibration.record import Tap
from trackctl.runtime.bundle import SEARCH, TEMPLATE, Bundle, frame_key
from trackctl.runtime.contract import CLS, LOC
from trackctl.runtime.engine import Engine, Engines
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.gpu import GpuEngine
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.errors import InputError, MissingDependency, TrackctlError
from trackctl.runtime.geometry import Box
from trackctl.runtime.processor import Processor
from trackctl.runtime.select import GPU_OPENERS, ONNXRUNTIME_CUDA, Form
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.tracker import Tracker

PARITY_FRAMES = 20
CLIP_FRAMES = 50
WARM_UP_FRAMES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--weights", type=Path, help="of the model, if they are not in the package")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    try:
        cuda = Cuda.open()
    except TrackctlError as error:
        sys.exit(f"nothing measured: {error}")
    for path in options.bundles:
        try:
            report = measure_bundle(Bundle.open(path), cuda, options.frames, options.weights)
        except TrackctlError as error:
            sys.exit(f"nothing measured: {error}")
        text = markdown(report)
        print(text)
        name = re.sub(r"[^a-z0-9]+", "_", f"gpu {cuda.gpu.partition(' (')[0]} {path.stem}".lower()).strip("_")
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.out / f"{name}.md").write_text(text)


def measure_bundle(bundle: Bundle, cuda: Cuda, frames: int, weights: Path | None) -> dict[str, Any]:
    """JSON values: the machine, and a row per engine and per way of running PyTorch."""
    if not bundle.frame_graphs():
        raise InputError(f"{bundle.path} has no frame graphs, which GPU engines take: export it with --frame")
    form = bundle.frame_graphs()[0]
    footage = rendered(form)
    rows = [measure_engine(bundle, kind, cuda, form, footage, frames) for kind in GPU_OPENERS]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {Processor.read().model}",
        "gpu": cuda.gpu,
        "driver": f"CUDA {cuda.driver}" + kernel_driver(),
        "bundle": bundle.path.name,
        "frame": f"{form[0][1]}x{form[0][0]} {form[1]}",
        "frames": frames,
        "engines": rows,
        "pytorch": measure_torch(bundle, form, footage, frames, weights),
    }


def rendered(form: Form) -> Footage:
    """A clip of frames of this form, rendered."""
    (height, width), layout = form
    if layout not in ("gray8", "gray16"):
        raise InputError(f"got frame graphs for {layout}, expected gray8 or gray16, which can be rendered: export such ones")
    clip = Synth(SynthSpec(frames=CLIP_FRAMES, size=(width, height), depth=16 if layout == "gray16" else 8))
    return Footage(source=clip, box=clip.initial_box, frames=PARITY_FRAMES)


def measure_engine(bundle: Bundle, kind: str, cuda: Cuda, form: Form, footage: Footage, frames: int) -> dict[str, Any]:
    """One engine's row; with ``reason`` alone if it does not run here."""
    # ONNX Runtime promises capture only for graphs without a node on the CPU.
    graph = kind != ONNXRUNTIME_CUDA
    try:
        row: dict[str, Any] = {"engine": kind, **timed(bundle, kind, cuda, form, footage, frames, graph=graph)}
    except TrackctlError as error:
        return {"engine": kind, "reason": str(error)}
    others: list[tuple[str, dict[str, bool]]] = [("no_graph" if graph else "graph", {"graph": not graph})]
    if cuda.integrated:
        others.append(("copied", {"graph": graph, "mapped": False}))
    for name, options in others:
        row[name] = otherwise(lambda: timed(bundle, kind, cuda, form, footage, frames, **options)["update_ms"])  # noqa: B023
    row["parity"] = parity(bundle, kind, form, footage)
    return row


def otherwise(measure: Callable[[], Any]) -> Any:
    """What is measured, or why it cannot be."""
    try:
        return measure()
    except TrackctlError as error:
        return str(error)


@contextlib.contextmanager
def opened(bundle: Bundle, form: Form, opener: Callable[[str], Engine]) -> Iterator[Engines]:
    """The template and the search engine of the frame graphs."""
    with contextlib.ExitStack() as stack:
        engines = []
        for role in (TEMPLATE, SEARCH):
            engines.append(opener(frame_key(role, *form)))
            stack.callback(engines[-1].close)
        yield Engines(*engines)


def timed(bundle: Bundle, kind: str, cuda: Cuda, form: Form, footage: Footage, frames: int, **options: bool) -> dict[str, Any]:
    """What the frames of a clip cost with an engine opened like this."""
    before = cuda.free_bytes()
    clip = [frame.pixels for frame in footage.source]
    with opened(bundle, form, lambda key: GPU_OPENERS[kind](bundle, key, **options)) as engines:
        manifest = bundle.manifest
        tracker = Tracker(*engines, crop=manifest.crop, channels=manifest.channels)
        tracker.init(clip[0], footage.box)
        for index in range(WARM_UP_FRAMES):
            tracker.update(clip[index % len(clip)])
        gpu_engines = [engine for engine in engines if isinstance(engine, GpuEngine)]
        free, blocks = cuda.free_bytes(), sum(engine.allocations for engine in gpu_engines)
        stages = []
        for index in range(frames):
            # A camera's frame is no array that was there before.
            spent = tracker.update(clip[index % len(clip)].copy()).stages_ns
            stages.append([spent["update"], spent["engine"]])
        grown = free - cuda.free_bytes(), sum(engine.allocations for engine in gpu_engines) - blocks
        bare = [time_ms(gpu_engines[1].compute) for _ in range(frames)]
        update, engine = np.array(stages).T / 1e6
        return {
            "name": engines.search.name,
            "update_ms": percentiles(update),
            "engine_ms": percentiles(engine),
            "bare_ms": percentiles(bare),
            "overhead_us": round(1000 * float(np.median(update) - np.median(bare)), 1),
            "memory_mib": round((before - free) / 2**20, 1),
            "grown_bytes": grown[0],
            "grown_blocks": grown[1],
        }


def parity(bundle: Bundle, kind: str, form: Form, footage: Footage) -> dict[str, float]:
    """How far the engine is from ONNX Runtime on the CPU with the same file."""

    def cpu(key: str) -> Engine:
        entry = bundle.graph(key)
        return OnnxRuntimeEngine.open(
            bundle.graph_path(key),
            expected_inputs=entry.inputs,
            expected_outputs=entry.outputs,
            threads=None,
            precision=bundle.manifest.precision,
        )

    with (
        opened(bundle, form, cpu) as reference,
        opened(bundle, form, lambda key: GPU_OPENERS[kind](bundle, key)) as engines,
    ):
        # Both trackers' frames go through the engine, so neither may keep its own in the engine's buffer.
        candidate = Engines(engines.template, Tap(engines.search, lambda feeds, outputs: None))
        manifest = bundle.manifest
        drift = measure_drift(reference, candidate, footage, crop=manifest.crop, channels=manifest.channels)
    names = (*manifest.memory, CLS, LOC)
    largest = {f"largest {name} difference": float(f"{drift.tensors[name].mixed:.3g}") for name in names}
    return {"mean step IoU": round(drift.step_iou, 5), "least step IoU": round(drift.step_iou_min, 5), **largest}


def measure_torch(bundle: Bundle, form: Form, footage: Footage, frames: int, weights: Path | None) -> list[dict[str, Any]] | str:
    """Rows of PyTorch on the GPU, or why there are none."""
    try:
        import torch
    except ImportError:
        return str(MissingDependency("torch", "the comparison with PyTorch", "export"))
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} has no CUDA here"
    try:
        from trackctl.export.pipeline import model_of

        half = bundle.manifest.precision != "fp32"
        loop = TorchLoop(model_of(bundle, weights), half, form, footage.box, next(iter(footage)).pixels, "cuda")
    except TrackctlError as error:
        return str(error)
    clip = [frame.pixels for frame in footage.source]
    rows = []
    for name, way in loop.ways().items():
        torch.cuda.reset_peak_memory_stats()
        try:
            loop.begin(way())
            for index in range(WARM_UP_FRAMES):
                loop.update(clip[index % len(clip)])
        except Exception as error:  # compilers fail in their own ways; one line of it is enough
            rows.append({"way": name, "reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})
            continue
        fresh = (clip[index % len(clip)].copy() for index in range(frames))
        update = [time_ms(lambda: loop.update(pixels)) for pixels in fresh]  # noqa: B023
        peak = torch.cuda.max_memory_allocated() / 2**20
        rows.append({"way": name, "update_ms": percentiles(update), "memory_mib": round(peak, 1)})
    return rows


class TorchLoop:
    """A model in PyTorch, its Core in float32 or float16, from a host frame to a host box.

    The crop, the Core and Decode are the modules the graphs were exported from; the state stays on the device.
    """

    def __init__(self, model: Any, half: bool, form: Form, box: Box, first: Any, device: str) -> None:
        import torch

        from trackctl.export.frame_graph import FrameFormat, SearchCrop, TemplateCrop
        from trackctl.export.graphs import fold_batch_norm
        from trackctl.export.precision import half_core
        from trackctl.runtime.frame import graph_frame, is_toned
        from trackctl.training.model import SearchGraph, TemplateGraph

        self._torch, self._graph_frame = torch, graph_frame
        self._device = torch.device(device)
        folded = fold_batch_norm(model.eval())
        model = (half_core(folded) if half else folded).to(self._device)
        frame_format = FrameFormat(frame_hw=form[0], layout=form[1])
        cutting = SearchCrop(model.crop, frame_format, model.channels).to(self._device)
        searching = SearchGraph(model)
        tone = [torch.tensor([[0.0, 65535.0]], device=self._device)] if is_toned(form[1]) else []
        with torch.inference_mode():
            learning = TemplateCrop(model.crop, frame_format, model.channels).to(self._device)
            state, fill, patch = learning(self._pixels(first), torch.tensor([list(box)], device=self._device), *tone)
            memory = TemplateGraph(model)(patch)[: len(model.memory_names)]
        self._first_state = state

        def search(frame: Any, state: Any) -> Any:
            return searching(cutting(frame, state, fill, *tone), state, *memory)

        self._search = search
        self._step: Callable[[Any, Any], Any] = search
        self._state = state
        self._frame = self._pixels(first)

    def ways(self) -> Mapping[str, Callable[[], Callable[[Any, Any], Any]]]:
        """How the same step can be run, by name."""
        return {
            "eager": lambda: self._search,
            "compiled, reduce-overhead": lambda: self._torch.compile(self._search, mode="reduce-overhead"),
            "one CUDA graph": self._captured,
        }

    def begin(self, step: Callable[[Any, Any], Any]) -> None:
        """Start anew with a way to run a step."""
        self._step, self._state = step, self._first_state.clone()

    def update(self, pixels: Any) -> list[float]:
        """next_state's six numbers, on the host."""
        with self._torch.inference_mode():
            outputs = self._step(self._pixels(pixels), self._state)
            self._state = outputs[0].clone()
            numbers: list[float] = self._torch.cat([part.flatten() for part in outputs[:3]]).cpu().tolist()
        return numbers[:6]

    def _pixels(self, pixels: Any) -> Any:
        return self._torch.from_numpy(self._graph_frame(pixels)).to(self._device)

    def _captured(self) -> Callable[[Any, Any], Any]:
        torch = self._torch
        frame, state = self._frame.clone(), self._first_state.clone()
        with torch.inference_mode():
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._search(frame, state)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._search(frame, state)

        def step(new_frame: Any, new_state: Any) -> Any:
            frame.copy_(new_frame)
            state.copy_(new_state)
            graph.replay()
            return outputs

        return step


def time_ms(call: Callable[[], Any]) -> float:
    """The duration of a call, ms."""
    started = perf_counter_ns()
    call()
    return (perf_counter_ns() - started) / 1e6


def percentiles(values_ms: Any) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{percent}": round(float(np.percentile(values_ms, percent)), 4) for percent in (50, 95, 99)}


def kernel_driver() -> str:
    """The kernel driver's version, where Linux tells it."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:
        return ""
    found = re.search(r"\d+\.\d+(?:\.\d+)?", first)
    return f", driver {found[0]}" if found else ""


def markdown(report: Mapping[str, Any]) -> str:
    """The report as tables."""
    lines = [
        f"# {report['bundle']} on {report['gpu']}",
        "",
        f"{report['date']}, {report['machine']}, {report['driver']}; frames {report['frame']}, {report['frames']} timed.",
        "",
        *table(
            ("engine", "update p50", "p95", "p99 ms", "bare p50 ms", "overhead us", "other way p50 ms", "memory MiB", "grown"),
            [engine_cells(row) for row in report["engines"] if "reason" not in row],
        ),
        *(f"{row['engine']}: {row['reason']}" for row in report["engines"] if "reason" in row),
        "",
    ]
    parities = [(row["name"], row["parity"]) for row in report["engines"] if "parity" in row]
    if parities:
        names = list(parities[0][1])
        lines += ["Beside ONNX Runtime on the CPU, the same files and inputs:", ""]
        lines += [*table(("engine", *names), [(name, *(f"{values[key]:g}" for key in names)) for name, values in parities]), ""]
    lines += ["PyTorch, from host frame to host box:", ""]
    if isinstance(report["pytorch"], str):
        lines.append(report["pytorch"])
    else:
        good = [row for row in report["pytorch"] if "reason" not in row]
        lines += table(
            ("way", "p50", "p95", "p99 ms", "memory MiB"),
            [(row["way"], *(f"{value:.3f}" for value in row["update_ms"].values()), f"{row['memory_mib']:g}") for row in good],
        )
        lines += [f"{row['way']}: {row['reason']}" for row in report["pytorch"] if "reason" in row]
    return "\n".join(lines) + "\n"


def engine_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the engines' table."""
    other = [
        f"{name.replace('_', ' ')} {row[name]['p50']:.3f}"
        if isinstance(row[name], dict)
        else f"{name.replace('_', ' ')}: {row[name]}"
        for name in ("no_graph", "graph", "copied")
        if name in row
    ]
    update = (f"{value:.3f}" for value in row["update_ms"].values())
    grown = f"{row['grown_bytes']} B, {row['grown_blocks']} blocks"
    bare = f"{row['bare_ms']['p50']:.3f}"
    return row["name"], *update, bare, f"{row['overhead_us']:g}", ", ".join(other), f"{row['memory_mib']:g}", grown


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; none without rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


if __name__ == "__main__":
    main()
