"""NVIDIA's own parser and builder: TensorRT-RTX builds on machines without a GPU."""

from __future__ import annotations

import sys

import pytest
from onnx import helper
from tiny_graphs import SEARCH_INPUTS, SEARCH_OUTPUTS, save_model, save_search

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engines import tensorrt
from trackctl.runtime.engines.tensorrt import ADVICE, PACKAGES, build_engine, installed_kinds, load_library
from trackctl.runtime.errors import EngineError, InputError


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "search.onnx"
    save_search(path)
    return path


def test_a_search_graph_with_a_run_time_kernel_is_built(rtx, graph, tmp_path):
    steps = []
    out = tmp_path / "engines/search.engine"
    built = build_engine("tensorrt_rtx", graph, out, progress=lambda *step: steps.append(step))
    assert built.path == out
    assert built.version == rtx.__version__
    assert built.size_bytes == out.stat().st_size > 1000
    assert built.seconds > 0
    assert [path.name for path in out.parent.iterdir()] == ["search.engine"]
    phases = {phase: total for phase, _, total in steps}
    assert phases
    for phase, done, total in steps:
        assert 0 <= done <= total == phases[phase]
    assert (next(iter(phases)), 0, next(iter(phases.values()))) == steps[0]


def test_building_again_replaces_the_engine(rtx, graph, tmp_path):
    out = tmp_path / "search.engine"
    out.write_bytes(b"old")
    # TensorRT-RTX has no timing cache: the file that TensorRT would keep is not made.
    build_engine("tensorrt_rtx", graph, out, timing_cache=tmp_path / "timings")
    assert out.stat().st_size > 1000
    assert not (tmp_path / "timings").exists()


def test_a_broken_file_is_refused_with_the_parsers_reason(rtx, graph, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[:300])
    with pytest.raises(EngineError, match=r"cannot parse .*broken\.onnx: .*Failed to parse the ONNX model") as caught:
        build_engine("tensorrt_rtx", broken, tmp_path / "broken.engine")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "broken.engine").exists()
    with pytest.raises(EngineError, match="cannot read the graph"):
        build_engine("tensorrt_rtx", tmp_path / "missing.onnx", tmp_path / "missing.engine")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="cannot parse"):
        build_engine("tensorrt_rtx", tmp_path / "empty.onnx", tmp_path / "empty.engine")


def test_an_operator_that_tensorrt_lacks_is_named(rtx, tmp_path):
    node = helper.make_node("Unheard", ["search", "state", "kernel"], list(SEARCH_OUTPUTS), domain="nowhere")
    ports = [
        [helper.make_tensor_value_info(name, 1, spec.shape) for name, spec in tensors.items()]
        for tensors in (SEARCH_INPUTS, SEARCH_OUTPUTS)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    model = helper.make_model(helper.make_graph([node], "unheard", *ports), opset_imports=opsets, ir_version=9)
    path = tmp_path / "unheard.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"cannot parse .*Unheard"):
        build_engine("tensorrt_rtx", path, tmp_path / "unheard.engine")


def test_mixed_types_are_refused_because_the_network_is_strongly_typed(rtx, tmp_path):
    """In a weakly typed network TensorRT would choose the precision itself; the file must say it."""
    inputs, outputs = {"x": TensorSpec("float32", (1, 4))}, {"y": TensorSpec("float32", (1, 4))}
    cast = helper.make_node("Cast", ["x"], ["half"], to=10)
    good = [cast, helper.make_node("Add", ["half", "half"], ["sum"]), helper.make_node("Cast", ["sum"], ["y"], to=1)]
    save_model(tmp_path / "good.onnx", good, inputs, outputs, {})
    assert build_engine("tensorrt_rtx", tmp_path / "good.onnx", tmp_path / "good.engine").size_bytes > 0
    mixed = helper.make_model(
        helper.make_graph(
            [cast, helper.make_node("Add", ["x", "half"], ["y"])],
            "mixed",
            [helper.make_tensor_value_info("x", 1, [1, 4])],
            [helper.make_tensor_value_info("y", 1, [1, 4])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    (tmp_path / "mixed.onnx").write_bytes(mixed.SerializeToString())
    with pytest.raises(EngineError, match=r"cannot (parse|build) .*mixed\.onnx: .*[Tt]ype"):
        build_engine("tensorrt_rtx", tmp_path / "mixed.onnx", tmp_path / "mixed.engine")


def test_an_engine_that_cannot_be_written_is_an_error(rtx, graph, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError, match="cannot write"):
        build_engine("tensorrt_rtx", graph, tmp_path / "file/search.engine")


def test_installed_kinds_are_those_that_load(rtx):
    assert "tensorrt_rtx" in installed_kinds()
    assert load_library("tensorrt_rtx").__version__ == rtx.__version__


@pytest.mark.parametrize("kind", list(PACKAGES))
def test_a_library_that_is_not_there_says_how_to_get_it(kind, graph, tmp_path, monkeypatch):
    monkeypatch.setitem(tensorrt.PACKAGES, kind, ("no_such_package",))
    with pytest.raises(EngineError, match="is not installed: ") as caught:
        build_engine(kind, graph, tmp_path / "x.engine")
    assert ADVICE[kind] in str(caught.value)
    assert kind not in installed_kinds()


def test_a_package_without_its_libraries_gives_the_loaders_reason(tmp_path, monkeypatch):
    """What the binding wheels do on a machine without libnvinfer."""
    (tmp_path / "half_installed_tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvinfer_that_is_not_there.so.10')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(tensorrt.PACKAGES, "tensorrt", ("half_installed_tensorrt",))
    with pytest.raises(EngineError, match=r"installed but cannot be loaded \(libnvinfer_that_is_not_there"):
        load_library("tensorrt")
    assert "half_installed_tensorrt" not in sys.modules


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="expected one of tensorrt, tensorrt_rtx"):
        load_library("cuda")
