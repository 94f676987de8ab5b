"""Every name of TensorRT that we use exists in TensorRT 10.3, 10.13, 10.16 and 11.4 and in the TensorRT-RTX that is installed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from list_tensorrt_names import names_of

from trackctl.runtime.engines import engine_cache, tensorrt, tensorrt_run

NAMES = Path(__file__).with_name("tensorrt_names.txt")
MODULES = (tensorrt, tensorrt_run, engine_cache)
# What our variables and attributes hold.
CLASSES = {
    "trt": None,
    "library": None,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "timings": "ITimingCache",
    "_runtime": "Runtime",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "settings": "IRuntimeConfig",
    "_kernels": "IRuntimeCache",
    "error": "ParserError",
}
# Asked for with hasattr before they are used.
GUARDED = {
    "ICudaEngine.create_runtime_config",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IExecutionContext.is_stream_capturable",
}


def chain(node: ast.expr) -> list[str]:
    """``self._engine.num_io_tensors`` as its parts; a call ends a chain."""
    if isinstance(node, ast.Attribute):
        return [*chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def used_names() -> set[str]:
    """``NAME``, ``CLASS.NAME`` for every use of the library in our source."""
    used = set()
    for module in MODULES:
        for function in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.Attribute):
                    continue
                parts = [part for part in chain(node) if part != "self"]
                # The errors of the parser are the only ones that have an own method called.
                if len(parts) < 2 or parts[0] not in CLASSES or (parts[0] == "error" and function.name != "_explain"):
                    continue
                prefix = CLASSES[parts[0]]
                used.add(".".join(parts[1:3] if prefix is None else (prefix, parts[1])))
    return {name for name in used if not name.endswith("__")}


def test_the_names_are_found_in_our_source():
    used = used_names()
    assert {
        "Builder",
        "ILogger.Severity",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_memory_pool_limit",
        "OnnxParser.parse",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_shape",
        "IExecutionContext.execute_async_v3",
        "IRuntimeCache.deserialize",
        "nptype",
        "ParserError.node_name",
    } <= used
    assert len(used) > 35
    assert used >= GUARDED


def test_the_names_exist_in_every_version():
    header, *names = NAMES.read_text().splitlines()
    assert header.startswith("# In all of TensorRT 10.3.0, 10.13.3.9, 10.16.1.11, 11.4.0.106;")
    assert used_names() - GUARDED - set(names) == set()
    # The list tells versions apart: these are gone in 11.
    assert not {"BuilderFlag.FP16", "IBuilderConfig.int8_calibrator", "Builder.platform_has_fast_fp16"} & set(names)


def test_the_names_exist_in_tensorrt_rtx():
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    assert used_names() - set(names_of(rtx)) == set()


@pytest.mark.parametrize("name", sorted(GUARDED))
def test_what_some_versions_lack_is_asked_for_first(name):
    """The first name of each guarded block stands in a hasattr; the others follow from it."""
    source = Path(tensorrt_run.__file__).read_text()
    first = {"IRuntimeConfig": "create_runtime_cache", "IRuntimeCache": "create_runtime_cache"}
    kind, _, attribute = name.partition(".")
    assert f'"{first.get(kind, attribute)}")' in source
