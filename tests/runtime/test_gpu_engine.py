"""The GPU engine over a recording GPU: what a frame costs, that the numbers are right, that nothing stays allocated."""

from __future__ import annotations

import gc
import inspect

import numpy as np
import pytest
from recording_cuda import MAGIC, RecordedTensorRt, RecordingCuda, on_gpu
from tiny_frame_graphs import (
    FRAME_HW,
    FRAME_SEARCH_INPUTS,
    FRAME_SEARCH_OUTPUTS,
    FRAME_TEMPLATE_INPUTS,
    FRAME_TEMPLATE_OUTPUTS,
    frame_memory,
    frame_search_reference,
    frame_state,
    frames,
    save_frame_search,
    save_frame_template,
)

from trackctl.runtime.engine import Engine, FrameBuffered
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.tensorrt_run import PlanError, TensorRtEngine
from trackctl.runtime.errors import EngineError, FrameError


@pytest.fixture(scope="module")
def search_graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "search.onnx"
    save_frame_search(path)
    return path.read_bytes()


def opened(cuda, onnx, *, refuse="", **options):
    library = RecordedTensorRt(cuda, refuse)
    return TensorRtEngine(cuda, library, "tensorrt", MAGIC + onnx, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS, **options), library


def test_the_stand_in_is_asked_like_the_real_one():
    def interface(kind):
        methods = {name: value for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        return {name: list(inspect.signature(value).parameters) for name, value in methods.items()}

    real, recorded = interface(Cuda), interface(RecordingCuda)
    assert {name: recorded.get(name) for name in real} == real
    assert {"gpu", "driver", "integrated", "allocations"} <= vars(RecordingCuda()).keys()


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("graph", [True, False])
def test_the_numbers_are_those_of_onnx_runtime(search_graph, integrated, graph):
    engine, _ = opened(RecordingCuda(integrated=integrated), search_graph, graph=graph)
    assert isinstance(engine, Engine)
    assert isinstance(engine, FrameBuffered)
    assert engine.name == "tensorrt" + " cuda-graph" * graph + " mapped" * integrated
    with engine:
        for seed in range(2):
            engine.bind(frame_memory(seed))
            for index, pixels in enumerate(frames(3)):
                got = engine.run({"frame": pixels, "state": frame_state(10.0 + index)})
                wanted = frame_search_reference(
                    search_graph, {"frame": pixels, "state": frame_state(10.0 + index), **frame_memory(seed)}
                )
                assert list(got) == list(wanted)
                for name, values in wanted.items():
                    np.testing.assert_array_equal(got[name], values)


def test_a_frame_is_one_launch_and_one_wait_and_no_allocation(search_graph):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.bind(frame_memory())
    allocated, free = engine.allocations, cuda.free_bytes()
    cuda.calls.clear()
    for pixels in frames(3):
        engine.run({"frame": pixels, "state": frame_state()})
    assert cuda.calls == ["launch", "synchronize"] * 3
    assert (engine.allocations, cuda.free_bytes()) == (allocated, free)


def test_the_graph_holds_one_copy_in_the_engine_and_one_copy_out(search_graph):
    cuda = RecordingCuda()
    opened(cuda, search_graph)
    first = cuda.calls.index("capture")
    assert cuda.calls[first:] == ["capture", "copy", "execute", "copy", "capture", "copy", "execute", "copy"]
    # State, rounded up to 256 bytes, then the frame; the three small outputs; for a frame on the GPU the state alone.
    outputs = 256 + 256 + 12
    assert cuda.copied[-4:] == [256 + FRAME_HW[0] * FRAME_HW[1], outputs, 256, outputs]


def test_shared_memory_needs_no_copy(search_graph):
    cuda = RecordingCuda(integrated=True)
    engine, _ = opened(cuda, search_graph)
    assert "copy" not in cuda.calls
    # One block in, one block out; fill, kernel, cls and loc have their own.
    assert [call for call in cuda.calls if call.startswith("allocate")] == ["allocate_host"] * 2 + ["allocate"] * 4
    engine.close()
    copied, _ = opened(RecordingCuda(integrated=True), search_graph, mapped=False)
    assert copied.name == "tensorrt cuda-graph"


def test_large_outputs_are_read_when_they_are_asked_for(search_graph):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.bind(frame_memory())
    got = engine.run({"frame": frames(1)[0], "state": frame_state()})
    cuda.calls.clear()
    assert got["score"].shape == (1, 1)
    assert cuda.calls == []
    assert got["cls"].shape == (1, 2, 26, 26)
    assert cuda.calls == ["copy", "synchronize"]
    with pytest.raises(KeyError):
        got["nothing"]


def test_a_frame_written_into_the_engines_buffer_is_not_copied_again(search_graph):
    engine, _ = opened(RecordingCuda(), search_graph)
    engine.bind(frame_memory())
    pixels = frames(2)[1]
    np.copyto(engine.frame_buffer, pixels)
    got = engine.run({"frame": engine.frame_buffer, "state": frame_state()})
    np.testing.assert_array_equal(
        got["score"], frame_search_reference(search_graph, {"frame": pixels, "state": frame_state(), **frame_memory()})["score"]
    )


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("graph", [True, False])
def test_a_frame_on_the_gpu_is_copied_there_and_nowhere_else(search_graph, integrated, graph):
    cuda = RecordingCuda(integrated=integrated)
    engine, _ = opened(cuda, search_graph, graph=graph)
    engine.bind(frame_memory())
    padded = np.zeros((FRAME_HW[0], FRAME_HW[1] + 32), dtype=np.uint8)
    host, device = frames(2)
    padded[:, : FRAME_HW[1]] = device
    engine.run({"frame": host, "state": frame_state()})
    for pixels in (np.ascontiguousarray(device), padded[:, : FRAME_HW[1]]):
        cuda.calls.clear()
        got = engine.run({"frame": on_gpu(pixels), "state": frame_state(11.0)})
        if graph:
            assert cuda.calls == ["copy_rows", "launch", "synchronize"]
        wanted = frame_search_reference(search_graph, {"frame": device, "state": frame_state(11.0), **frame_memory()})
        np.testing.assert_array_equal(got["next_state"], wanted["next_state"])
        np.testing.assert_array_equal(got["score"], wanted["score"])


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, []),
        ({"stream": 77}, ["wait_for 77"]),
        ({"stream": 2}, ["wait_for 2"]),
        ({"version": 2}, []),
    ],
)
def test_the_stream_that_made_a_frame_is_waited_for(search_graph, changes, waits):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.bind(frame_memory())
    cuda.calls.clear()
    engine.run({"frame": on_gpu(frames(1)[0], **changes), "state": frame_state()})
    assert [call for call in cuda.calls if call.startswith("wait_for")] == waits
    assert cuda.calls.count("synchronize") == 1


def test_a_producer_that_names_no_stream_is_taken_to_work_on_the_default_one(search_graph):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.bind(frame_memory())
    frame = on_gpu(frames(1)[0], version=2)
    del frame.source.__cuda_array_interface__["stream"]
    engine.run({"frame": frame, "state": frame_state()})
    assert "wait_for 1" in cuda.calls


def test_everything_is_freed_whatever_call_fails_while_opening(search_graph):
    """Every single CUDA call of the constructor fails once."""
    complete = RecordingCuda()
    opened(complete, search_graph)
    steps = len(complete.calls)
    assert steps > 20
    for fail_at in range(1, steps + 1):
        cuda = RecordingCuda(fail_at=fail_at)
        library = RecordedTensorRt(cuda)
        with pytest.raises(EngineError, match="recorded failure"):
            TensorRtEngine(cuda, library, "tensorrt", MAGIC + search_graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
        assert cuda.live == {}, f"call {fail_at} ({cuda.calls[fail_at - 1]})"
        assert sorted(library.made) == sorted(library.dropped)


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("runtime", "cannot start on Recorded GPU .*no kernel for this GPU"),
        ("context", "cannot make an execution context"),
        ("address", "refuses an address for 'state'"),
        ("execute", "tensorrt failed"),
    ],
)
def test_everything_is_freed_whatever_the_library_refuses(search_graph, refuse, message):
    cuda = RecordingCuda()
    library = RecordedTensorRt(cuda, refuse)
    with pytest.raises(EngineError, match=message) as caught:
        TensorRtEngine(cuda, library, "tensorrt", MAGIC + search_graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    assert "\n" not in str(caught.value)
    assert cuda.live == {}
    assert sorted(library.made) == sorted(library.dropped)


def test_a_plan_of_another_graph_or_version_is_refused(search_graph):
    cuda = RecordingCuda()
    with pytest.raises(PlanError, match=r"cannot load the engine on Recorded GPU.*magicTag"):
        TensorRtEngine(cuda, RecordedTensorRt(cuda), "tensorrt", b"junk", FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    with pytest.raises(PlanError, match="the engine's inputs has no tensor 'box'"):
        TensorRtEngine(
            cuda, RecordedTensorRt(cuda), "tensorrt", MAGIC + search_graph, FRAME_TEMPLATE_INPUTS, FRAME_TEMPLATE_OUTPUTS
        )
    assert cuda.live == {}


def test_closing_frees_everything_in_the_right_order_and_keeps_the_last_result_readable(search_graph):
    cuda = RecordingCuda()
    engine, library = opened(cuda, search_graph)
    engine.bind(frame_memory())
    got = engine.run({"frame": frames(1)[0], "state": frame_state()})
    score = got["score"].copy()
    cuda.calls.clear()
    engine.close()
    engine.close()
    assert cuda.live == {}
    assert (library.made, library.dropped) == (["runtime", "engine", "context"], ["context", "engine", "runtime"])
    # The graphs hold addresses, the memory lies in the stream's reach: from the last to the first.
    kinds = list(dict.fromkeys(cuda.calls))
    assert (kinds[0], kinds[-1]) == ("destroy_graph", "destroy_stream")
    np.testing.assert_array_equal(got["score"], score)
    for use in (lambda: engine.run({}), lambda: engine.bind(frame_memory()), lambda: got["cls"], engine.compute):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_an_engine_that_nobody_closed_frees_everything_when_it_is_dropped(search_graph):
    cuda = RecordingCuda()
    engine, library = opened(cuda, search_graph)
    assert cuda.live
    del engine
    gc.collect()
    assert cuda.live == {}
    assert sorted(library.dropped) == ["context", "engine", "runtime"]


def test_an_engine_survives_a_frame_that_fails(search_graph):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.bind(frame_memory())
    pixels = frames(1)[0]
    cuda.fail_at = len(cuda.calls) + 1
    with pytest.raises(EngineError, match="cannot launch"):
        engine.run({"frame": pixels, "state": frame_state()})
    got = engine.run({"frame": pixels, "state": frame_state()})
    np.testing.assert_array_equal(
        got["score"], frame_search_reference(search_graph, {"frame": pixels, "state": frame_state(), **frame_memory()})["score"]
    )


def test_the_bare_engine_is_the_librarys_work_and_a_wait(search_graph):
    cuda = RecordingCuda()
    engine, _ = opened(cuda, search_graph)
    engine.compute()
    cuda.calls.clear()
    engine.compute()
    assert cuda.calls == ["launch", "synchronize"]
    engine.close()
    assert cuda.live == {}
    plain, _ = opened(cuda, search_graph, graph=False)
    cuda.calls.clear()
    plain.compute()
    assert cuda.calls == ["execute", "synchronize"]


def test_wrong_inputs_are_refused(search_graph):
    engine, _ = opened(RecordingCuda(), search_graph)
    pixels = frames(1)[0]
    with pytest.raises(EngineError, match="got no fill, kernel"):
        engine.run({"frame": pixels, "state": frame_state()})
    with pytest.raises(EngineError, match="unknown input 'search'"):
        engine.bind({"search": pixels})
    with pytest.raises(EngineError, match=r"got 'frame' as uint8\[2, 2\], expected uint8\[64, 80\]"):
        engine.run({"frame": pixels[:2, :2]})
    with pytest.raises(EngineError, match=r"got 'state' as float64"):
        engine.run({"state": frame_state().astype(np.float64)})
    with pytest.raises(FrameError, match=r"on the GPU as uint8\[24, 80\], expected uint8\[64, 80\]"):
        engine.run({"frame": on_gpu(pixels[:24])})
    with pytest.raises(FrameError, match=r"with strides of \(160, 2\) bytes, expected \(80, 1\): make it contiguous"):
        engine.run({"frame": on_gpu(np.zeros((64, 160), dtype=np.uint8)[:, ::2])})


def test_a_template_graph_gives_its_memory(tmp_path):
    save_frame_template(tmp_path / "template.onnx")
    cuda = RecordingCuda()
    plan = MAGIC + (tmp_path / "template.onnx").read_bytes()
    engine = TensorRtEngine(cuda, RecordedTensorRt(cuda), "tensorrt", plan, FRAME_TEMPLATE_INPUTS, FRAME_TEMPLATE_OUTPUTS)
    pixels = frames(2)[1]
    made = dict(engine.run({"frame": pixels, "box": np.array([[1, 2, 3, 4]], dtype=np.float32)}))
    assert made["fill"][0, 0] == pytest.approx(pixels.mean())
    assert made["kernel"].shape == (1, 4, 7, 7)
    assert made["next_state"].tolist() == [[1, 2, 3, 4, 80, 64]]
