"""Both CPU engines do the same, copy what they must and refuse what is not theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_graphs import SEARCH_INPUTS, SEARCH_OUTPUTS, STATE, feeds, save_model, save_search, search_reference

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import Engine
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.errors import EngineError

KINDS = [OnnxRuntimeEngine, OpenVinoEngine]
LIVE = ("search", "state")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "search.onnx"
    save_search(path)
    return path


def opened(kind, graph, threads=1, precision="fp32", inputs=SEARCH_INPUTS, outputs=SEARCH_OUTPUTS):
    return kind.open(graph, expected_inputs=inputs, expected_outputs=outputs, threads=threads, precision=precision)


@pytest.fixture(params=KINDS)
def engine(request, graph):
    with opened(request.param, graph) as engine:
        yield engine


def parts(values):
    return {name: values[name] for name in LIVE}, {"kernel": values["kernel"]}


def test_the_tiny_tracker_is_computed(engine):
    assert isinstance(engine, Engine)
    assert engine.inputs == SEARCH_INPUTS
    assert engine.outputs == SEARCH_OUTPUTS
    for seed in range(3):
        values = feeds(seed)
        live, memory = parts(values)
        engine.bind(memory)
        got = engine.run(live)
        expected = search_reference(values)
        assert set(got) == set(expected)
        for name, array in expected.items():
            assert got[name].dtype == np.float32
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=2e-4, err_msg=name)


def test_names_tell_library_and_threads(graph):
    with opened(OnnxRuntimeEngine, graph, threads=2) as engine:
        assert engine.name == "onnxruntime x2"
    with opened(OpenVinoEngine, graph, threads=None) as engine:
        assert engine.name == "openvino f32 xauto"


def test_bound_memory_is_a_copy(engine):
    values = feeds()
    live, memory = parts(values)
    engine.bind(memory)
    expected = engine.run(live)["cls"].copy()
    values["kernel"][:] = 0
    np.testing.assert_array_equal(engine.run(live)["cls"], expected)
    engine.bind({"kernel": values["kernel"]})
    assert not np.any(engine.run(live)["cls"])


def test_a_patch_buffer_that_is_refilled_is_read_anew(engine):
    values = feeds()
    live, memory = parts(values)
    engine.bind(memory)
    engine.run(live)
    values["search"][...] = feeds(5)["search"]
    np.testing.assert_allclose(engine.run(live)["cls"], search_reference(values)["cls"], rtol=1e-5, atol=2e-4)


def test_a_large_array_that_comes_again_is_not_copied(engine):
    live, memory = parts(feeds())
    engine.bind(memory)
    engine.run(live)
    attached = []
    attach = engine._attach
    engine._attach = lambda name, array: (attached.append(name), attach(name, array))
    engine.run(live)
    assert attached == []
    engine.run({**live, "search": live["search"].copy(), "state": live["state"].copy()})
    assert attached == ["search"]


@pytest.mark.parametrize("form", ["read-only", "strided", "reversed", "view"])
def test_every_memory_layout_is_read_rightly(engine, form):
    values = feeds()
    live, memory = parts(values)
    engine.bind(memory)
    expected = engine.run(live)["loc"].copy()
    patch = values["search"]
    if form == "read-only":
        patch = patch.copy()
        patch.flags.writeable = False
    elif form == "strided":
        patch = np.repeat(patch, 2, axis=3)[..., ::2]
    elif form == "reversed":
        patch = patch[..., ::-1].copy()[..., ::-1]
    else:
        patch = np.stack([patch, patch])[1]
    np.testing.assert_array_equal(engine.run({**live, "search": patch})["loc"], expected)


def test_the_next_state_may_be_fed_back(engine):
    values = feeds()
    live, memory = parts(values)
    engine.bind(memory)
    result = engine.run(live)
    step = result["next_state"] - values["state"]
    assert np.abs(step[0, :4]).min() > 1e-3
    for count in range(2, 5):
        result = engine.run({"search": values["search"], "state": result["next_state"]})
        np.testing.assert_allclose(result["next_state"], values["state"] + count * step, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_was_never_given_is_named(kind, graph):
    live, _ = parts(feeds())
    with opened(kind, graph) as engine, pytest.raises(EngineError, match="got no kernel"):
        engine.run(live)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("kernel", np.zeros((1, 4, 5, 5), dtype=np.float32), r"'kernel' as float32\[1, 4, 5, 5\]"),
        ("kernel", np.zeros((1, 4, 7, 7)), "'kernel' as float64"),
        ("kernels", np.zeros((1, 4, 7, 7), dtype=np.float32), "unknown input 'kernels'"),
    ],
)
def test_wrong_tensors_are_refused(engine, name, array, message):
    with pytest.raises(EngineError, match=message):
        engine.bind({name: array})
    with pytest.raises(EngineError, match=message):
        engine.run({name: array})


@pytest.mark.parametrize("kind", KINDS)
def test_closed_engines_say_so_and_leave_their_last_results(kind, graph):
    live, memory = parts(feeds())
    engine = opened(kind, graph)
    engine.bind(memory)
    result = engine.run(live)
    before = result["cls"].copy()
    engine.close()
    engine.close()
    np.testing.assert_array_equal(result["cls"], before)
    with pytest.raises(EngineError, match="is closed"):
        engine.run(live)
    with pytest.raises(EngineError, match="is closed"):
        engine.bind(memory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_graph_is_refused_in_one_line(kind, graph, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[:300])
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(EngineError, match=rf"{path.name}.*export the bundle again") as caught:
            opened(kind, path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_another_graph_than_the_manifest_says_is_refused(kind, graph):
    wider = {**SEARCH_INPUTS, "search": TensorSpec("float32", (1, 3, 287, 287))}
    with pytest.raises(EngineError, match=r"'search' is float32\[1, 3, 255, 255\], expected float32\[1, 3, 287, 287\]"):
        opened(kind, graph, inputs=wider)
    with pytest.raises(EngineError, match="no tensor 'mask'"):
        opened(kind, graph, outputs={**SEARCH_OUTPUTS, "mask": TensorSpec("float32", (1, 1))})
    fewer = {name: spec for name, spec in SEARCH_OUTPUTS.items() if name != "loc"}
    with pytest.raises(EngineError, match=r"unexpected tensors \['loc'\]"):
        opened(kind, graph, outputs=fewer)


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_axes_are_refused(kind, tmp_path):
    port = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "dynamic", port[:1], port[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    path = tmp_path / "dynamic.onnx"
    onnx.save(model, path)
    tensors = [{name: TensorSpec("float32", (1, 4))} for name in "xy"]
    with pytest.raises(EngineError, match=r"'x' is float32\[-1, 4\], expected float32\[1, 4\]"):
        opened(kind, path, inputs=tensors[0], outputs=tensors[1])


def test_a_full_precision_bundle_is_not_computed_in_half(graph):
    with opened(OpenVinoEngine, graph, precision="fp32") as engine:
        assert engine.name == "openvino f32 x1"


def test_a_graph_that_takes_frames_is_computed_in_float32(tmp_path):
    """Crop lies before the convolutions, where half precision would reach its coordinates."""
    inputs = {"frame": TensorSpec("uint8", (8, 8)), "state": TensorSpec("float32", (1, 6))}
    outputs = {"next_state": TensorSpec("float32", (1, 6))}
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["peak"], keepdims=0),
        helper.make_node("Add", ["state", "peak"], ["next_state"]),
    ]
    save_model(tmp_path / "frame.onnx", nodes, inputs, outputs, {})
    with opened(OpenVinoEngine, tmp_path / "frame.onnx", precision="fp16", inputs=inputs, outputs=outputs) as engine:
        assert engine.name == "openvino f32 x1"
        frame = np.full((8, 8), 200, dtype=np.uint8)
        np.testing.assert_allclose(engine.run({"frame": frame, "state": STATE})["next_state"], STATE + 200)


def test_importing_openvino_reports_to_nobody(graph, tmp_path):
    """OpenVINO's telemetry writes into the home before it reports; without CI's variables, which silence it too."""
    script = (
        "import sys\n"
        "from trackctl.runtime.engines.openvino import load_openvino\n"
        "load_openvino().Core()\n"
        "print('openvino_telemetry' in sys.modules)\n"
    )
    silencers = ("CI", "TF_BUILD", "JENKINS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in silencers} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_library_is_named_with_its_extra(package, graph):
    script = (
        "import sys, pathlib\n"
        f"sys.modules['{package}'] = None\n"
        "from trackctl.runtime.errors import MissingDependency\n"
        "from trackctl.runtime.select import OPENERS\n"
        "try:\n"
        f"    OPENERS['{package}'](pathlib.Path('x'), expected_inputs={{}}, expected_outputs={{}}, threads=1, precision='fp32')\n"
        "except MissingDependency as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert f"pip install 'trackctl[{package}]'" in done.stdout
