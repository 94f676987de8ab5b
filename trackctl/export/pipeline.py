"""From a checkpoint to a verified bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trackctl import __version__
from trackctl.calibration.footage import Footage
from trackctl.calibration.record import Recorded, record
from trackctl.export.frame_graph import FrameFormat, export_frame_graph
from trackctl.export.graphs import Role, export_patch_graph, fold_batch_norm
from trackctl.export.gray import gray_model
from trackctl.export.initial import initial_model
from trackctl.export.int8 import DEFAULT_METHOD, Method, quantise
from trackctl.export.near import near_feeds, near_model
from trackctl.export.precision import half_core
from trackctl.export.verify import Report, verify
from trackctl.runtime.bundle import NEAR, Bundle, GraphEntry, Manifest, frame_key, graph_entry, write_bundle
from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.engines.engine_cache import build_into_cache
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.tensorrt import ADVICE, Built, load_library
from trackctl.runtime.errors import EngineError, ExportError, InputError, WeightsError
from trackctl.runtime.manifest import PRECISIONS, Precision
from trackctl.training.model import TrackerModel
from trackctl.training.weights import weights_sha256
from trackctl.training.zoo import entry, load, weights_path

DEFAULT_FRAMES = (FrameFormat(frame_hw=(512, 640)),)
ROLES: tuple[Role, ...] = ("template", "search")
# Said of weights that no file holds.
INITIAL = "initial"

# Told in one line what is being done.
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where int8 ranges come from.

    Attributes:
        footage: clip with a target, tracked in float32 while the search graph's inputs are recorded.
        method: how a range follows from the values seen.
        limit: most frames to use.
    """

    footage: Footage
    method: Method = DEFAULT_METHOD
    limit: int = 64


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made.

    Attributes:
        bundle: as written.
        report: what :func:`trackctl.export.verify.verify` measured; None if there was no footage.
        engines: TensorRT engines built into the bundle's cache.
        advice: for each engine that was asked for and could not be built here, how to get it.
        untrained: the model has its initial weights, because none were given and none are shipped.
    """

    bundle: Bundle
    report: Report | None
    engines: tuple[Built, ...] = ()
    advice: tuple[str, ...] = ()
    untrained: bool = False


def export(
    name: str,
    *,
    out: Path,
    precision: Precision = "fp32",
    weights: Path | None = None,
    frames: Sequence[FrameFormat] = DEFAULT_FRAMES,
    calibration: Calibration | None = None,
    footage: Footage | None = None,
    engines: Sequence[str] = (),
    force: bool = False,
    gray: bool | None = None,
    targets: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """The bundle ``<out>/<name>-<precision>.trk`` of a model of the zoo.

    Args:
        name: model of the zoo.
        out: folder for the bundle.
        precision: ``fp32``, ``fp16`` or ``int8``.
        weights: file; None takes those in the package, or the initial ones if none are shipped.
        frames: frame formats to make frame graphs for.
        calibration: needed for ``int8``.
        footage: clip to verify the graphs on; None leaves them unverified.
        engines: ``tensorrt``, ``tensorrt_rtx``: kinds of engine to build into the bundle's cache as well.
        force: write the bundle even if it fails its verification; so is one with initial weights, whose maps have no peak that a
            lower precision could keep.
        gray: whether patches have one channel (:func:`trackctl.export.gray.gray_model`); None takes what the zoo says.
        targets: how many targets one search finds (:mod:`trackctl.runtime.multi`); more than one have no frame graphs.
        threads: CPU threads of ONNX Runtime while calibrating and verifying; None leaves the number to it.
        progress: told of each step.

    Raises:
        InputError: no such model or precision, int8 without calibration, or frame graphs for several targets.
        WeightsError: no weights or ones that do not fit.
        ExportError: the graphs do not track like the model.
        BundleError: the bundle cannot be written.
    """
    tell = progress or (lambda _: None)
    model, origin = prepared_model(name, weights, gray=gray, progress=tell)
    untrained = origin["weights"] == INITIAL
    exported = export_model(
        model,
        name,
        out=out,
        precision=precision,
        frames=frames,
        calibration=calibration,
        footage=footage,
        engines=engines,
        force=force or untrained,
        targets=targets,
        threads=threads,
        provenance=origin,
        progress=tell,
    )
    return replace(exported, untrained=untrained)


def prepared_model(
    name: str, weights: Path | None = None, *, gray: bool | None = None, progress: Progress | None = None
) -> tuple[TrackerModel, dict[str, str]]:
    """The model of the zoo that is exported, and where its weights come from; arguments and errors as in :func:`export`."""
    tell = progress or (lambda _: None)
    if weights is None and entry(name).weights is None:
        tell(f"building {name} with its initial weights")
        model, origin = initial_model(name), {"weights": INITIAL}
    else:
        path = weights_path(name, weights)
        tell(f"loading {name} from {path.name}")
        model, origin = load(name, path), {"weights": path.name, "weights_sha256": weights_sha256(path)}
    return (gray_model(model) if (entry(name).gray if gray is None else gray) else model), origin


def model_of(bundle: Bundle, weights: Path | None = None) -> TrackerModel:
    """The model that a bundle was exported from.

    Args:
        bundle: of a model of the zoo.
        weights: the file it was exported with, if not the one in the package.

    Raises:
        InputError: the bundle's model is not in the zoo.
        WeightsError: the weights are missing, do not fit or are not those of the bundle.
    """
    name, recorded = bundle.manifest.system, bundle.manifest.provenance.get("weights_sha256")
    if recorded is None:
        return _as_exported(initial_model(name), bundle)
    path = weights_path(name, weights)
    if (found := weights_sha256(path)) != recorded:
        raise WeightsError(
            f"got the weights {path.name} with the checksum {found[:12]}..., expected {recorded[:12]}... of "
            f"{bundle.manifest.provenance['weights']}, with which {bundle.path.name} was exported: give that file"
        )
    return _as_exported(load(name, path), bundle)


def _as_exported(model: TrackerModel, bundle: Bundle) -> TrackerModel:
    return gray_model(model) if bundle.manifest.channels == 1 != model.channels else model


def export_model(
    model: TrackerModel,
    name: str,
    *,
    out: Path,
    precision: Precision = "fp32",
    frames: Sequence[FrameFormat] = (),
    calibration: Calibration | None = None,
    footage: Footage | None = None,
    engines: Sequence[str] = (),
    force: bool = False,
    targets: int = 1,
    threads: int | None = None,
    provenance: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """The bundle of any model; arguments and errors as in :func:`export`.

    Args:
        model: in float32; put in evaluation mode.
        name: what the bundle is called.
        provenance: where the weights come from.
    """
    if precision not in PRECISIONS:
        raise InputError(f"got the precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "int8" and calibration is None:
        raise InputError("got the precision int8 without a clip to calibrate on: give one that shows your camera's scenes")
    if targets < 1 or (targets > 1 and frames):
        raise InputError(
            f"got {targets} targets and {len(frames)} frame formats, expected 1 target, or more without frame graphs"
        )
    tell = progress or (lambda _: None)
    model = model.eval()
    patch = patch_graphs(model, precision, tell, targets)
    origin = dict(provenance or {})
    if precision == "int8" and calibration is not None:
        tell(f"calibrating on {calibration.footage.name}")
        with tempfile.TemporaryDirectory() as folder:
            single = patch if targets == 1 else patch_graphs(model, precision, tell)
            recorded = _record(model, single, calibration, Path(folder), threads)
        tell(f"quantising with the ranges of {len(recorded.feeds)} frames")
        feeds = _batches(recorded.feeds, targets)
        patch["search"] = quantise(patch["search"], feeds, method=calibration.method)
        if NEAR in patch:
            patch[NEAR] = quantise(patch[NEAR], near_feeds(patch[NEAR], feeds), method=calibration.method)
        origin |= {
            "calibration": recorded.source,
            "calibration_frames": " ".join(map(str, recorded.frames)),
            "calibration_method": calibration.method,
        }
    return assemble(
        model,
        name,
        patch,
        out=out,
        precision=precision,
        frames=frames,
        footage=footage,
        engines=engines,
        force=force,
        threads=threads,
        provenance=origin,
        progress=tell,
    )


def assemble(
    model: TrackerModel,
    name: str,
    patch: Mapping[str, onnx.ModelProto],
    *,
    out: Path,
    precision: Precision,
    frames: Sequence[FrameFormat] = (),
    footage: Footage | None = None,
    engines: Sequence[str] = (),
    force: bool = False,
    threads: int | None = None,
    provenance: Mapping[str, str] | None = None,
    findings: Mapping[str, Any] | None = None,
    picture: str | None = None,
    progress: Progress | None = None,
) -> Exported:
    """The bundle of patch graphs that are lowered already; other arguments and errors as in :func:`export`.

    Args:
        model: that the graphs were made of, in float32 and evaluation mode.
        patch: graph by role, and the near graph if there is one.
        precision: of the graphs.
        findings: more for the bundle's report.
        picture: SVG text that goes with the report.
    """
    tell = progress or (lambda _: None)
    origin = {**(provenance or {}), **{package: version(package) for package in ("torch", "onnx")}, "trackctl": __version__}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        entries: dict[str, GraphEntry] = {role: save_graph(graph, role, folder) for role, graph in patch.items()}
        for form in frames:
            tell(f"adding the crop of {form} frames")
            for role in ROLES:
                key = frame_key(role, form.frame_hw, form.layout)
                entries[key] = save_graph(export_frame_graph(patch[role], role, model.crop, form), key, folder)
        manifest = Manifest(
            system=name,
            precision=precision,
            channels=model.channels,
            crop=model.crop,
            decode=_decode_constants(model),
            memory=tuple(model.memory_names),
            graphs=entries,
            confidence=asdict(model.confidence),
            provenance=origin,
        )
        report = None
        if footage is not None:
            report = verify(Bundle(folder, manifest), model, footage, threads=threads, progress=tell)
            if report.failures and not force:
                raise ExportError(
                    f"{name} in {precision} does not track like its model: {'; '.join(report.failures)}: see --force"
                )
        many = f"-x{manifest.targets}" if manifest.targets > 1 else ""
        target = out / f"{name}-{precision}{many}.trk"
        told = {**({} if report is None else report.to_json()), **(findings or {})}
        bundle = write_bundle(target, manifest, folder, told or None, picture)
    built, advice = build_engines(bundle, engines, tell)
    return Exported(bundle=bundle, report=report, engines=built, advice=advice)


def build_engines(
    bundle: Bundle, kinds: Sequence[str], progress: Progress | None = None
) -> tuple[tuple[Built, ...], tuple[str, ...]]:
    """The engines of every graph built into the bundle's cache, and for each kind that cannot be built here how to get it.

    Raises:
        EngineError: the library is there but refuses a graph.
        InputError: there is no such kind.
    """
    built: list[Built] = []
    advice: list[str] = []
    for kind in kinds:
        try:
            load_library(kind)
        except EngineError:
            advice.append(f"{kind} is not installed here, so its engines will be built on the device: {ADVICE[kind]}")
            continue
        for key in bundle.manifest.graphs:
            if key == NEAR:  # a GPU has time to spare
                continue
            if progress is not None:
                progress(f"building the {kind} engine of {key}")
            built.append(build_into_cache(bundle, key, kind))
    return tuple(built), tuple(advice)


def patch_graphs(model: TrackerModel, precision: Precision, tell: Progress, targets: int = 1) -> dict[str, onnx.ModelProto]:
    """The patch graphs by role, in float16 for ``fp16`` and in float32 otherwise; the search graph for so many targets.

    The near graph is there if the model has a margin for it.
    """
    folded = fold_batch_norm(model)
    lowered = half_core(folded) if precision == "fp16" else folded
    graphs: dict[str, onnx.ModelProto] = {}
    for role in ROLES:
        tell(f"exporting the {role} graph")
        graphs[role] = export_patch_graph(lowered, role, targets=targets)
    if model.near_margin:
        tell("exporting the near graph")
        graphs[NEAR] = export_patch_graph(near_model(lowered), "search", targets=targets)
    return graphs


def _record(
    model: TrackerModel, graphs: Mapping[str, onnx.ModelProto], calibration: Calibration, folder: Path, threads: int | None
) -> Recorded:
    """What the float32 search graph meets on the calibration footage."""
    engines = []
    for role in ROLES:
        path = folder / f"float.{role}.onnx"
        saved = save_graph(graphs[role], path.stem, folder)
        engines.append(
            OnnxRuntimeEngine.open(
                path, expected_inputs=saved.inputs, expected_outputs=saved.outputs, threads=threads, precision="fp32"
            )
        )
    template, search = engines
    with template, search:
        return record(template, search, calibration.footage, crop=model.crop, channels=model.channels, limit=calibration.limit)


def _batches(feeds: Sequence[Mapping[str, Array]], targets: int) -> list[dict[str, Array]]:
    """The feeds of one target as feeds of a search for several; the last are filled up from the first."""
    count = -(-len(feeds) // targets)
    turns = [[feeds[(start * targets + row) % len(feeds)] for row in range(targets)] for start in range(count)]
    return [{name: np.concatenate([feed[name] for feed in turn]) for name in turn[0]} for turn in turns]


def save_graph(graph: onnx.ModelProto, key: str, folder: Path) -> GraphEntry:
    """The manifest's entry of a graph, written to ``<folder>/<key>.onnx``."""
    path = folder / f"{key}.onnx"
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return graph_entry(path, tensor_specs(graph.graph.input), tensor_specs(graph.graph.output))


def tensor_specs(values: Sequence[onnx.ValueInfoProto]) -> dict[str, TensorSpec]:
    """Dtype and shape by name of a graph's inputs or outputs."""
    specs = {}
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        specs[value.name] = TensorSpec(dtype, tuple(size.dim_value for size in tensor.shape.dim))
    return specs


def _decode_constants(model: TrackerModel) -> dict[str, float | list[float]]:
    select = model.decode.select
    return {**asdict(select.spec), "cells": select.cells, "anchors": select.anchors}
