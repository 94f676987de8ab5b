"""Engines out of a bundle's cache, and the Tracker over frame graphs, on a recording GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from recording_cuda import Machine, RecordingCuda, on_gpu
from tiny_frame_graphs import FORM, FRAME_HW, frame_bundle, frames

from trackctl.runtime import select
from trackctl.runtime.bundle import SEARCH, TEMPLATE, frame_key
from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.engines.engine_cache import build_into_cache, engine_path, read_sound
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.tensorrt import load_library
from trackctl.runtime.engines.tensorrt_run import PlanError, TensorRtEngine
from trackctl.runtime.errors import EngineError, FrameError
from trackctl.runtime.geometry import Box
from trackctl.runtime.select import Choice, CutChooser, graph_keys, open_engines
from trackctl.runtime.tracker import DEFAULT_REDETECTION, Tracker

KEY = frame_key(SEARCH, *FORM)
BOX = Box(20, 16, 8, 6)


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.fixture
def bundle(tmp_path):
    return frame_bundle(tmp_path)


def test_an_engine_is_built_once_and_found_again(machine, bundle):
    told = []
    TensorRtEngine.open(bundle, KEY, "tensorrt", progress=lambda *step: told.append(step)).close()
    assert told == [("building", 1, 1)]
    TensorRtEngine.open(bundle, KEY, "tensorrt", progress=lambda *step: told.append(step)).close()
    assert len(machine.built) == len(told) == 1
    [engine] = (bundle.path / "engines").glob("*.engine")
    assert engine == engine_path(bundle, KEY, "tensorrt", machine.library, machine.cuda)
    assert machine.cuda.live == {}


@pytest.mark.parametrize("what", ["gpu", "driver", "version"])
def test_another_gpu_driver_or_version_builds_its_own(machine, bundle, what):
    TensorRtEngine.open(bundle, KEY, "tensorrt").close()
    setattr(machine.library if what == "version" else machine.cuda, {"version": "__version__"}.get(what, what), "other")
    TensorRtEngine.open(bundle, KEY, "tensorrt").close()
    first, second = machine.built
    # Timings belong to a version and a GPU as well, and are kept for the next graph.
    assert first[2] != second[2]
    assert {path.name for path in (bundle.path / "engines").glob("*.timings")} == {first[2], second[2]}
    build_into_cache(bundle, frame_key(TEMPLATE, *FORM), "tensorrt", machine.cuda)
    assert machine.built[2][2] == second[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"frame", b"fname", 1)),
        lambda path: path.unlink(),
        lambda path: path.with_name(path.name + ".sha256").unlink(),
        lambda path: path.with_name(path.name + ".sha256").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_engine_is_never_read_and_built_anew(machine, bundle, damage, monkeypatch):
    TensorRtEngine.open(bundle, KEY, "tensorrt").close()
    path = engine_path(bundle, KEY, "tensorrt", machine.library, machine.cuda)
    damage(path)
    assert read_sound(path) is None
    TensorRtEngine.open(bundle, KEY, "tensorrt").close()
    assert len(machine.built) == 2
    assert read_sound(path) is not None


def test_a_sound_engine_that_the_library_refuses_is_built_anew_once(machine, bundle):
    machine.corrupt = True
    build_into_cache(bundle, KEY, "tensorrt", machine.cuda)
    machine.corrupt = False
    TensorRtEngine.open(bundle, KEY, "tensorrt").close()
    assert len(machine.built) == 2
    machine.corrupt = True
    build_into_cache(bundle, KEY, "tensorrt", machine.cuda)
    with pytest.raises(PlanError, match="magicTag"):
        TensorRtEngine.open(bundle, KEY, "tensorrt")
    assert len(machine.built) == 4
    assert machine.cuda.live == {}


def test_the_real_builder_fills_the_cache_for_any_gpu(bundle):
    """TensorRT-RTX engines belong to no GPU: what is built where there is none is found where there is one."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    library = load_library("tensorrt_rtx")
    for key in (frame_key(TEMPLATE, *FORM), KEY):
        built = build_into_cache(bundle, key, "tensorrt_rtx")
        assert built.path == engine_path(bundle, key, "tensorrt_rtx", library, RecordingCuda())
        plan = read_sound(built.path)
        assert plan is not None
        assert len(plan) == built.size_bytes > 1000


class Kernels:
    """TensorRT-RTX's runtime configuration and its cache of compiled kernels."""

    def __init__(self):
        self.loaded, self.contexts = [], []

    def give(self, engine):
        outer = self
        create = engine.create_execution_context

        class Cache:
            def deserialize(self, blob):
                outer.loaded.append(blob)
                return True

            def serialize(self):
                return b"compiled"

        class Settings:
            def create_runtime_cache(self):
                return Cache()

            def set_runtime_cache(self, cache):
                outer.contexts.append(cache)

        engine.create_runtime_config = Settings
        engine.create_execution_context = lambda settings: create()
        return engine


def test_kernels_compiled_on_the_device_are_kept(machine, bundle, monkeypatch):
    kernels = Kernels()
    original = machine.library.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(machine.library.Runtime, "deserialize_cuda_engine", lambda self, plan: kernels.give(original(self, plan)))
    TensorRtEngine.open(bundle, KEY, "tensorrt_rtx").close()
    [kept] = (bundle.path / "engines").glob("*.kernels")
    assert (kept.read_bytes(), kernels.loaded) == (b"compiled", [])
    TensorRtEngine.open(bundle, KEY, "tensorrt_rtx").close()
    assert kernels.loaded == [b"compiled"]
    assert len(kernels.contexts) == 2


def test_a_library_that_cannot_be_captured_runs_without_a_graph(machine, bundle, monkeypatch):
    original = machine.library.Runtime.deserialize_cuda_engine

    def deserialize(self, plan):
        engine = original(self, plan)
        create = engine.create_execution_context

        def context():
            made = create()
            made.is_stream_capturable = lambda stream: False
            return made

        engine.create_execution_context = context
        return engine

    monkeypatch.setattr(machine.library.Runtime, "deserialize_cuda_engine", deserialize)
    with TensorRtEngine.open(bundle, KEY, "tensorrt_rtx") as engine:
        assert engine.name == "tensorrt_rtx"
    assert "capture" not in machine.cuda.calls


def cpu_tracker(bundle):
    """The frame graphs on ONNX Runtime."""
    engines = []
    for role in (TEMPLATE, SEARCH):
        key = frame_key(role, *bundle.frame_graphs()[0])
        entry = bundle.graph(key)
        engines.append(
            OnnxRuntimeEngine.open(
                bundle.graph_path(key), expected_inputs=entry.inputs, expected_outputs=entry.outputs, threads=1, precision="fp32"
            )
        )
    confidence = ConfidenceSpec.from_mapping(bundle.manifest.confidence)
    return Tracker(*engines, crop=bundle.manifest.crop, confidence=confidence)


@pytest.mark.parametrize("device", [False, True])
def test_a_lost_target_is_looked_for_also_on_frames_that_lie_on_the_gpu(monkeypatch, bundle, device):
    machine = Machine(monkeypatch)
    clip = frames(2)
    with Tracker.open(bundle.path, engine="tensorrt") as tracker:
        tracker.init(on_gpu(clip[0]).source if device else clip[0], BOX)
        launches = []
        for index in range(1, 40):
            blank = np.full_like(clip[0], index)
            machine.cuda.calls.clear()
            status = tracker.update(on_gpu(blank).source if device else blank).status
            launches.append(machine.cuda.calls.count("launch"))
    assert status.value == "LOST"
    assert launches[0] == 1
    assert launches[-1] == 1 + DEFAULT_REDETECTION.windows


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("device", [False, True])
def test_the_tracker_opens_the_frame_graphs_and_gives_the_boxes_of_the_cpu(monkeypatch, bundle, integrated, device):
    machine = Machine(monkeypatch, integrated=integrated)
    clip = frames(6)
    with Tracker.open(bundle.path, engine="tensorrt", redetection=None) as tracker, cpu_tracker(bundle) as expected:
        assert [name for _, name, _ in machine.built] == [f"{frame_key(role, *FORM)}.onnx" for role in (TEMPLATE, SEARCH)]
        tracker.init(on_gpu(clip[0]).source if device else clip[0], BOX)
        expected.init(clip[0], BOX)
        allocated = machine.cuda.allocations
        machine.cuda.calls.clear()
        for pixels in clip[1:]:
            got, wanted = tracker.update(on_gpu(pixels).source if device else pixels), expected.update(pixels)
            assert (got.box, got.score, got.status, got.quality) == (wanted.box, wanted.score, wanted.status, wanted.quality)
        frame = ["copy_rows"] * device + ["launch", "synchronize"]
        assert machine.cuda.calls == frame * 5
        assert machine.cuda.allocations == allocated
        if not device:
            repeated = tracker.update(clip[-1])
            assert (repeated.box, repeated.score) == (got.box, 0.0)
    assert machine.cuda.live == {}


@pytest.mark.parametrize("integrated", [False, True])
def test_sixteen_bit_frames_and_their_tone_reach_the_graph(monkeypatch, tmp_path, integrated):
    machine = Machine(monkeypatch, integrated=integrated)
    bundle = frame_bundle(tmp_path, "gray16")
    clip = [np.random.default_rng(index).integers(7000, 7300 + 90 * index, FRAME_HW).astype(np.uint16) for index in range(5)]
    with Tracker.open(bundle.path, engine="tensorrt", redetection=None) as tracker, cpu_tracker(bundle) as expected:
        tracker.init(clip[0], BOX)
        expected.init(clip[0], BOX)
        for pixels in clip[1:]:
            got, wanted = tracker.update(pixels), expected.update(pixels)
            assert (got.box, got.score, got.quality) == (wanted.box, wanted.score, wanted.quality)
        assert tracker.update(clip[-1]).score == 0.0
        with pytest.raises(FrameError, match="uint16 on the GPU"):
            tracker.update(SimpleNamespace(shape=FRAME_HW, dtype=np.dtype(np.uint16), __cuda_array_interface__={}))
    assert machine.cuda.live == {}


def test_frames_of_another_form_take_the_patch_graphs_and_come_back(machine, bundle):
    tracker = Tracker.open(bundle.path, engine="tensorrt")
    tracker.init(frames(1)[0], BOX)
    assert len(machine.built) == 2
    larger = np.random.default_rng(0).integers(0, 255, (96, 128)).astype(np.uint8)
    tracker.init(larger, BOX)
    assert [name for _, name, _ in machine.built[2:]] == ["template.onnx", "search.onnx"]
    assert np.isfinite(tracker.update(255 - larger).box).all()
    with pytest.raises(FrameError, match=r"got a frame on the GPU, expected one in the host's memory"):
        tracker.init(on_gpu(larger).source, BOX)
    with pytest.raises(FrameError, match="got a frame on the GPU"):
        tracker.update(on_gpu(larger).source)
    tracker.init(frames(1)[0], BOX)
    tracker.update(frames(2)[1])
    assert len(machine.built) == 4
    tracker.close()
    assert machine.cuda.live == {}


def test_a_frame_on_the_gpu_needs_a_gpu_engine(bundle):
    with cpu_tracker(bundle) as tracker, pytest.raises(FrameError, match="copy it, or open a GPU engine"):
        tracker.init(on_gpu(frames(1)[0]).source, BOX)


def test_which_graphs_an_engine_takes(bundle):
    frame_keys = (frame_key(TEMPLATE, *FORM), frame_key(SEARCH, *FORM))
    assert graph_keys(bundle, "tensorrt", None) == graph_keys(bundle, "onnxruntime_cuda", FORM) == frame_keys
    assert graph_keys(bundle, "tensorrt", (FRAME_HW, "bgr8")) == (TEMPLATE, SEARCH)
    assert graph_keys(bundle, "openvino", FORM) == (TEMPLATE, SEARCH)
    assert CutChooser(bundle, Choice(kind="openvino", threads=1)).engines_for(FORM) is None


def test_auto_considers_the_gpu_only_where_one_answers(machine, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(select, "installed_kinds", lambda: ("tensorrt",))
    tried = []
    monkeypatch.setattr(
        select, "measure_ms", lambda engine, best: tried.append(engine.name) or {"tensorrt cuda-graph": 1.0}.get(engine.name, 2.0)
    )
    (template, search, _), choice = open_engines(bundle, threads=1)
    assert choice == Choice(kind="tensorrt", threads=0, median_ms=1.0)
    assert (template.name, search.name) == ("tensorrt cuda-graph",) * 2
    assert len(tried) == 3
    _, again = open_engines(bundle, threads=1)
    assert again == choice
    assert len(tried) == 3
    monkeypatch.setattr(select, "gpu_answers", lambda: False)
    (_, search, _), choice = open_engines(bundle, threads=1)
    assert choice.kind in select.OPENERS


def test_a_gpu_that_fails_leaves_auto_the_cpu(machine, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(select, "installed_kinds", lambda: ("tensorrt",))
    machine.library.refuse = "runtime"
    _, choice = open_engines(bundle, threads=1)
    assert choice.kind in select.OPENERS
    with pytest.raises(EngineError, match="tensorrt cannot start on Recorded GPU"):
        open_engines(bundle, "tensorrt")
    assert machine.cuda.live == {}


def test_a_frame_graph_is_measured_with_its_frames(machine, bundle):
    with TensorRtEngine.open(bundle, KEY, "tensorrt") as engine:
        machine.cuda.calls.clear()
        assert select.measure_ms(engine) > 0
        launches = [call for call in machine.cuda.calls if call in ("launch", "copy")]
        # The memory is sent once; then a run is a launch.
        assert launches == ["copy"] * 2 + ["launch"] * (select.WARMUP_RUNS + select.RUNS)


@pytest.mark.parametrize("place", [(0, 0), (FRAME_HW[0] // 2, 5), (FRAME_HW[0] - 1, FRAME_HW[1] - 1)])
def test_one_pixel_makes_another_frame(bundle, place):
    pixels = frames(3)[2]
    changed = pixels.copy()
    changed[place] ^= 1
    with cpu_tracker(bundle) as tracker:
        tracker.init(frames(1)[0], BOX)
        assert tracker.update(pixels).score > 0
        assert tracker.update(changed).score > 0
        assert tracker.update(changed.copy()).score == 0
