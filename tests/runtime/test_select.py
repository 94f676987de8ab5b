"""The fastest engine is found by measuring, remembered, and nothing about remembering can fail."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from shutil import copyfile

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tiny_graphs import (
    SEARCH_INPUTS,
    SEARCH_OUTPUTS,
    TEMPLATE_INPUTS,
    TEMPLATE_OUTPUTS,
    feeds,
    save_search,
    search_reference,
    tiny_bundle,
    tiny_manifest,
)

from trackctl.runtime import select
from trackctl.runtime.bundle import NEAR, graph_entry, write_bundle
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import EngineError, InputError
from trackctl.runtime.select import (
    MEMORY_FILE,
    OPENERS,
    RUNS,
    WARMUP_RUNS,
    Choice,
    busiest_key,
    cache_folder,
    fastest,
    measure_ms,
    open_engines,
    recall,
    remember,
    thread_counts,
    version,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def memory_of(cache):
    return json.loads((cache / MEMORY_FILE).read_text())


def track_once(template, search):
    """One step of what the Tracker does, compared with the reference."""
    values = feeds()
    patch = np.random.default_rng(3).uniform(0, 255, (1, 3, 127, 127)).astype(np.float32)
    memory = template.run({"template": patch})
    search.bind(memory)
    got = search.run({"search": values["search"], "state": values["state"]})
    expected = search_reference({**values, "kernel": memory["kernel"]})
    np.testing.assert_allclose(got["next_state"], expected["next_state"], rtol=1e-6, atol=1e-3)


def test_auto_measures_once_and_remembers(tmp_path, cache):
    bundle = tiny_bundle(tmp_path)
    (template, search, _), choice = open_engines(bundle)
    assert choice.kind in OPENERS
    assert choice.median_ms > 0
    assert search.name.startswith(choice.kind)
    assert search.name.endswith(f"x{choice.threads}")
    assert (template.inputs, template.outputs) == (TEMPLATE_INPUTS, TEMPLATE_OUTPUTS)
    assert (search.inputs, search.outputs) == (SEARCH_INPUTS, SEARCH_OUTPUTS)
    track_once(template, search)
    [(key, entry)] = memory_of(cache).items()
    assert entry == {"kind": choice.kind, "threads": choice.threads, "median_ms": choice.median_ms}
    # A memory that no measurement gives shows that nothing was measured again.
    other = next(kind for kind in OPENERS if kind != choice.kind)
    (cache / MEMORY_FILE).write_text(json.dumps({key: {"kind": other, "threads": 1, "median_ms": 1e9}}))
    (template, search, _), again = open_engines(bundle)
    assert again == Choice(kind=other, threads=1, median_ms=1e9)
    assert search.name.startswith(other)
    track_once(template, search)


@pytest.mark.parametrize("kind", list(OPENERS))
def test_a_given_engine_and_thread_count_need_no_measurement(tmp_path, cache, kind):
    (template, search, _), choice = open_engines(tiny_bundle(tmp_path), kind, 1)
    assert choice == Choice(kind=kind, threads=1)
    assert not cache.exists()
    track_once(template, search)


def test_another_graph_is_measured_on_its_own(tmp_path, cache):
    first = tiny_bundle(tmp_path)
    open_engines(first, threads=1)
    made = tmp_path / "made"
    (tmp_path / "other").mkdir()
    manifest = tiny_manifest(tmp_path / "other", precision="int8")
    open_engines(write_bundle(tmp_path / "int8.trk", manifest, made), threads=1)
    assert len(memory_of(cache)) == 2
    open_engines(first, threads=1)
    assert len(memory_of(cache)) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"KEY": null}',
        '{"KEY": []}',
        '{"KEY": {}}',
        '{"KEY": {"kind": ["openvino"], "threads": 1, "median_ms": 1.0}}',
        '{"KEY": {"kind": "cuda", "threads": 1, "median_ms": 1.0}}',
        '{"KEY": {"kind": "openvino", "threads": 99, "median_ms": 1.0}}',
        '{"KEY": {"kind": "openvino", "threads": 1, "median_ms": "fast"}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_memory_is_forgotten_and_rewritten(cache, content):
    cache.mkdir()
    (cache / MEMORY_FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    candidates = [Choice(kind="openvino", threads=1), Choice(kind="onnxruntime", threads=1)]
    assert recall("KEY", candidates) is None
    choice = Choice(kind="onnxruntime", threads=1, median_ms=2.5)
    remember("KEY", choice)
    assert recall("KEY", candidates) == choice
    assert recall("KEY", candidates[:1]) is None
    assert [path.name for path in cache.iterdir()] == [MEMORY_FILE]


def test_a_cache_folder_that_cannot_be_made_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "file/below"))
    (template, search, _), choice = open_engines(tiny_bundle(tmp_path), threads=1)
    assert choice.median_ms > 0
    track_once(template, search)


def test_a_remembered_engine_that_no_longer_works_is_replaced(tmp_path, cache, monkeypatch):
    bundle = tiny_bundle(tmp_path)
    open_engines(bundle, threads=1)
    [key] = memory_of(cache)
    (cache / MEMORY_FILE).write_text(json.dumps({key: {"kind": "openvino", "threads": 1, "median_ms": 0.1}}))

    def broken(path, **options):
        raise EngineError("the library lost a file")

    monkeypatch.setitem(OPENERS, "openvino", broken)
    (_, search, _), choice = open_engines(bundle, threads=1)
    assert choice.kind == "onnxruntime"
    assert search.name == "onnxruntime x1"
    assert memory_of(cache)[key]["kind"] == "onnxruntime"


@pytest.mark.parametrize(("kind", "threads"), [("cuda", None), ("", None), ("auto", 0), ("openvino", -1)])
def test_senseless_requests_are_refused(tmp_path, kind, threads):
    with pytest.raises(InputError, match="expected"):
        open_engines(tiny_bundle(tmp_path), kind, threads)


def test_a_graph_that_no_engine_runs_is_refused_with_the_reasons(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    manifest = tiny_manifest(made)
    node = helper.make_node("Unheard", ["search", "state", "kernel"], list(SEARCH_OUTPUTS), domain="nowhere")
    ports = [
        [helper.make_tensor_value_info(name, 1, spec.shape) for name, spec in tensors.items()]
        for tensors in (SEARCH_INPUTS, SEARCH_OUTPUTS)
    ]
    graph = helper.make_graph([node], "unheard", *ports)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    (made / "search.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    graphs = manifest.graphs | {"search": graph_entry(made / "search.onnx", SEARCH_INPUTS, SEARCH_OUTPUTS)}
    bundle = write_bundle(tmp_path / "odd.trk", tiny_manifest_with(manifest, graphs), made)
    with pytest.raises(EngineError, match=r"no engine can run .*OpenVINO.*Unheard.*ONNX Runtime.*nowhere"):
        open_engines(bundle, threads=None)
    with pytest.raises(EngineError, match="Unheard"):
        open_engines(bundle, "openvino", 1)


def tiny_manifest_with(manifest, graphs):
    from dataclasses import replace

    return replace(manifest, graphs=graphs)


def sleeper(seconds, calls):
    outputs = {name: np.zeros(spec.shape, spec.dtype) for name, spec in SEARCH_OUTPUTS.items()}

    def function(inputs):
        assert set(inputs) == set(SEARCH_INPUTS)
        calls.append(seconds)
        time.sleep(seconds)
        return outputs

    return FunctionEngine(function, SEARCH_INPUTS, SEARCH_OUTPUTS)


def test_measuring_takes_the_median_and_gives_up_on_the_hopeless():
    calls = []
    assert 4.0 <= measure_ms(sleeper(0.004, calls)) < 40.0
    assert len(calls) == WARMUP_RUNS + RUNS
    calls.clear()
    assert measure_ms(sleeper(0.004, calls), best_ms=1.0) >= 4.0
    assert len(calls) < WARMUP_RUNS + RUNS
    calls.clear()
    measure_ms(sleeper(0.004, calls), best_ms=4.0)
    assert len(calls) == WARMUP_RUNS + RUNS


def test_the_fastest_candidate_is_chosen(tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path)
    seconds = {("openvino", 1): 0.020, ("openvino", 2): 0.012, ("onnxruntime", 1): 0.002, ("onnxruntime", 2): 0.016}
    for kind in ("openvino", "onnxruntime"):
        monkeypatch.setitem(OPENERS, kind, lambda path, *, threads, kind=kind, **options: sleeper(seconds[kind, threads], []))
    choice = fastest(bundle, [Choice(kind=kind, threads=threads) for kind, threads in seconds])
    assert (choice.kind, choice.threads) == ("onnxruntime", 1)
    assert 2.0 <= choice.median_ms < 12.0


def test_a_cpu_is_chosen_for_the_near_graph_which_runs_on_most_frames(tmp_path, cache):
    small = {**SEARCH_INPUTS, "search": TensorSpec("float32", (1, 3, 175, 175))}
    made = tmp_path / "made"
    made.mkdir()
    manifest = tiny_manifest(made)
    copyfile(made / "search.onnx", made / "near.onnx")
    graphs = {**manifest.graphs, NEAR: graph_entry(made / "near.onnx", small, SEARCH_OUTPUTS)}
    bundle = write_bundle(tmp_path / "near.trk", replace(manifest, graphs=graphs), made)
    assert {kind: busiest_key(bundle, kind) for kind in ("openvino", "tensorrt")} == {"openvino": NEAR, "tensorrt": "search"}
    opened = []

    def opener(path, **options):
        opened.append(path.name)
        return sleeper(0.0, [])

    with pytest.MonkeyPatch.context() as patch:
        for kind in OPENERS:
            patch.setitem(OPENERS, kind, opener)
        open_engines(bundle, threads=1)[0].close()
    assert opened == ["near.onnx"] * len(OPENERS) + ["template.onnx", "search.onnx", "near.onnx"]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 256))
def test_thread_counts_reach_from_one_to_all_cores(cores):
    counts = thread_counts(cores)
    assert counts[0] == 1
    assert counts[-1] == cores
    assert counts == sorted(set(counts))
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(counts))


def test_versions_are_those_of_the_packages():
    assert version("onnxruntime") == onnxruntime.__version__
    assert version("no-such-engine") == "unknown"


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TRACKCTL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/trackctl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/trackctl"


def test_the_key_changes_with_all_that_matters(tmp_path):
    bundle = tiny_bundle(tmp_path)
    processor = select.Processor.read()
    candidates = [Choice(kind="openvino", threads=1)]
    (tmp_path / "other").mkdir()
    save_search(tmp_path / "other/search.onnx")
    slower = select.Processor(processor.model, processor.features, processor.cpus + 1, processor.cores)
    keys = {
        select._key(bundle, candidates, processor),
        select._key(bundle, [Choice(kind="openvino", threads=2)], processor),
        select._key(bundle, [Choice(kind="onnxruntime", threads=1)], processor),
        select._key(bundle, candidates, slower),
    }
    assert len(keys) == 4
    assert select._key(bundle, candidates, processor) in keys
