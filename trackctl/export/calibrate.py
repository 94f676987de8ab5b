"""A calibrated bundle with its proof: frames by coverage, sensitivity by layer, a mixed plan within a budget, and its speed.

The order of things: the float32 tracker follows the calibration clips and the clips it is judged on; the ranges come from the
former; each layer alone is quantised and compared on steps of the latter; the layers that hurt most return to float until the
budget holds; the result is timed beside float32 and fp16 on this machine. What stays in float is computed in bfloat16 where
OpenVINO has it, and in float32 elsewhere.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from trackctl.calibration.sensitivity import StepDrift
from trackctl.calibration.speed import side_by_side
from trackctl.export.frame_graph import FrameFormat
from trackctl.export.int8 import DEFAULT_METHOD, Method, quantise
from trackctl.export.judge import Bench, Judge, Material
from trackctl.export.layers import Layer, layers_of, with_float
from trackctl.export.near import near_feeds
from trackctl.export.pipeline import INITIAL, ROLES, Exported, Progress, assemble, patch_graphs, prepared_model
from trackctl.export.plan import Candidate, DriftBudget, LayerDrift, choose, fewest, most_hurtful
from trackctl.export.plan_report import findings, sensitivity_chart
from trackctl.runtime.bundle import NEAR
from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine
from trackctl.runtime.errors import InputError
from trackctl.runtime.manifest import Precision
from trackctl.runtime.select import OPENERS, installed

# Frames of the first judged clip on which the bundle is compared with PyTorch.
VERIFIED_FRAMES = 30

_FLOAT: tuple[Precision, ...] = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a calibration came to.

    Attributes:
        exported: the bundle.
        candidates: what was measured: fp32, fp16, int8 and, if all in int8 does not keep the budget, int8 mixed.
        chosen: the one that the bundle holds.
        why: in one sentence.
        methods: drift with all layers in int8, by calibration method.
        method: the one taken.
        layers: what quantising each layer alone does, in the graph's order.
    """

    exported: Exported
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    why: str
    methods: Mapping[Method, StepDrift]
    method: Method
    layers: tuple[LayerDrift, ...]


def calibrate(
    name: str,
    material: Material,
    *,
    out: Path,
    weights: Path | None = None,
    budget: DriftBudget,
    methods: Sequence[Method] = (DEFAULT_METHOD,),
    frames: Sequence[FrameFormat] = (),
    gray: bool | None = None,
    int8: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """The bundle of a model of the zoo in the precision that is best here, with the reasons in its report.

    Args:
        name: model of the zoo.
        material: clips.
        out: folder for the bundle.
        weights: as for :func:`trackctl.export.pipeline.export`.
        budget: what may be lost.
        methods: how ranges follow from values; of several, the one that drifts least with all layers in int8 is taken.
        frames: frame formats to make frame graphs for.
        gray: as for export.
        int8: write the int8 bundle whenever it keeps the budget, also where fp16 is as fast: for another machine than this.
        engine: kind of CPU engine that measures; ``auto`` takes OpenVINO if it is installed.
        threads: its CPU threads; None leaves the number to the library.
        force: write the bundle even if it fails its verification.
        progress: told of each step.

    Raises:
        InputError: the budget needs an annotation and no clip has one; a clip is too short; no such engine.
        WeightsError, ExportError, BundleError, MissingDependency: as for export.
    """
    if budget.measure == "auc" and all(clip.truth_ltwh is None for clip in material.judged):
        raise InputError(f"got the budget {budget} without an annotated clip, expected one: add it or give step=LOSS")
    tell = progress or (lambda _: None)
    model, origin = prepared_model(name, weights, gray=gray, progress=tell)
    graphs = {precision: patch_graphs(model, precision, tell) for precision in _FLOAT}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(folder=folder, kind=_kind(engine), threads=threads, crop=model.crop, channels=model.channels)
        trial = _Trial(bench, graphs, material, budget, stack, tell)
        methods_drift = trial.quantise(methods)
        layers = trial.layer_drifts()
        candidates = trial.candidates(most_hurtful(layers))
    chosen, why = choose(candidates, always_int8=int8)
    precision: Precision = "int8" if chosen.name.startswith("int8") else "fp16" if chosen.name == "fp16" else "fp32"
    patch = dict(graphs["fp32" if precision == "int8" else precision])
    if precision == "int8":
        patch["search"] = with_float(trial.quantised, graphs["fp32"]["search"], chosen.float_layers)
        if NEAR in patch:
            patch[NEAR] = trial.near(chosen.float_layers)
        origin |= {
            "calibration": ", ".join(recorded.source for recorded in trial.judge.calibration),
            "calibration_method": trial.method,
            "calibration_budget": str(budget),
            "float_layers": " ".join(layer.name for layer in chosen.float_layers),
        }
    told = findings(trial.judge, budget, methods_drift, trial.method, layers, candidates, chosen, why)
    exported = assemble(
        model,
        name,
        patch,
        out=out,
        precision=precision,
        frames=frames,
        footage=replace(material.judged[0], frames=min(VERIFIED_FRAMES, material.judged[0].frames or VERIFIED_FRAMES)),
        force=force or origin["weights"] == INITIAL,
        threads=threads,
        provenance=origin,
        findings={"calibration": told},
        picture=sensitivity_chart(layers, chosen.float_layers),
        progress=tell,
    )
    return Calibrated(
        exported=replace(exported, untrained=origin["weights"] == INITIAL),
        candidates=tuple(candidates),
        chosen=chosen,
        why=why,
        methods=methods_drift,
        method=trial.method,
        layers=tuple(layers),
    )


def _kind(engine: str) -> str:
    kinds = [kind for kind in OPENERS if installed(kind)]
    if engine == "auto" and kinds:
        return kinds[0]
    if engine not in OPENERS:
        raise InputError(f"got the engine {engine!r}, expected one of auto, {', '.join(OPENERS)}")
    return engine


class _Trial:
    """The steps of a calibration in their order: quantise, layer_drifts, candidates.

    Args:
        bench: opens engines; those of candidates are closed with ``stack``.
        graphs: patch graphs by precision and role.
        material, budget: as for :func:`calibrate`.

    Attributes:
        judge: knows the float32 tracker's answers.
        quantised: the search graph with all layers in int8.
        method: by which its ranges were found.
    """

    def __init__(
        self,
        bench: Bench,
        graphs: Mapping[Precision, Mapping[str, onnx.ModelProto]],
        material: Material,
        budget: DriftBudget,
        stack: ExitStack,
        tell: Progress,
    ) -> None:
        self._bench, self._graphs, self._budget, self._stack, self._tell = bench, graphs, budget, stack, tell
        self._template, self._search = (self._open(graphs["fp32"][role], "fp32") for role in ROLES)
        self.judge = Judge(bench, self._template, self._search, material, tell)
        self.quantised = graphs["fp32"]["search"]
        self.method: Method = DEFAULT_METHOD

    def quantise(self, methods: Sequence[Method]) -> dict[Method, StepDrift]:
        """The drift with all layers in int8 by method; the best is kept."""
        feeds = self._feeds()
        drifts: dict[Method, StepDrift] = {}
        for method in methods:
            self._tell(f"quantising with the {method} ranges of {len(feeds)} frames")
            graph = quantise(self._graphs["fp32"]["search"], feeds, method=method)
            drifts[method] = self._step_drift(graph)
            if _rank(drifts[method]) <= min(map(_rank, drifts.values())):
                self.quantised, self.method = graph, method
        return drifts

    def layer_drifts(self) -> list[LayerDrift]:
        """What quantising each layer alone does."""
        layers = layers_of(self._graphs["fp32"]["search"])
        drifts = []
        for number, layer in enumerate(layers, 1):
            self._tell(f"quantising {layer.name} alone, {number} of {len(layers)}")
            alone = self._mixed([other for other in layers if other is not layer])
            drifts.append(LayerDrift(layer=layer, drift=self._step_drift(alone)))
        return drifts

    def candidates(self, hurtful: Sequence[Layer]) -> list[Candidate]:
        """fp32, fp16, int8 and, if that breaks the budget, int8 mixed, measured and timed in turn.

        Args:
            hurtful: all layers from the one that hurts most.
        """
        engines: dict[str, Engine] = {"fp32": self._search}
        found = [self._candidate("fp32", self._template, self._search)]
        template, engines["fp16"] = (self._open(self._graphs["fp16"][role], "fp16") for role in ROLES)
        found.append(self._candidate("fp16", template, engines["fp16"]))
        mixed: dict[int, tuple[Candidate, Engine]] = {}

        def holds(count: int) -> bool:
            name = "int8 mixed" if count else "int8"
            engine = self._open(self._mixed(hurtful[:count]), "int8")
            mixed[count] = self._candidate(name, self._template, engine, hurtful[:count]), engine
            return mixed[count][0].holds

        count = fewest(len(hurtful), holds)
        for kept in dict.fromkeys((0, count or 0)):
            candidate, engines[candidate.name] = mixed[kept]
            found.append(candidate)
        self._tell("timing the candidates in turn")
        paces = side_by_side(engines, self.judge.feeds[0], base="fp16")
        return [replace(each, ms=paces[each.name].ms, against_fp16=paces[each.name].ratio) for each in found]

    def _candidate(self, name: str, template: Engine, search: Engine, float_layers: Sequence[Layer] = ()) -> Candidate:
        kept = f" with {len(float_layers)} layers in float" if float_layers else ""
        self._tell(f"judging {name}{kept}")
        drift = self.judge.step_drift(search)
        aucs = self.judge.aucs if search is self._search else self.judge.loop_aucs(template, search)
        loss = float(np.mean([self.judge.aucs[clip] - auc for clip, auc in aucs.items()])) if aucs else None
        lost = drift.boxes if self._budget.measure == "step" else loss
        return Candidate(
            name=name,
            engine=search.name,
            float_layers=tuple(float_layers),
            drift=drift,
            auc=aucs,
            loss=loss,
            holds=lost is not None and lost <= self._budget.most,
        )

    def near(self, float_layers: Sequence[Layer]) -> onnx.ModelProto:
        """The near graph by the plan that was made for the search graph, whose layers it has."""
        graph = self._graphs["fp32"][NEAR]
        return with_float(quantise(graph, near_feeds(graph, self._feeds()), method=self.method), graph, float_layers)

    def _feeds(self) -> list[Mapping[str, Array]]:
        return [feed for recorded in self.judge.calibration for feed in recorded.feeds]

    def _mixed(self, float_layers: Sequence[Layer]) -> onnx.ModelProto:
        return with_float(self.quantised, self._graphs["fp32"]["search"], float_layers)

    def _step_drift(self, graph: onnx.ModelProto) -> StepDrift:
        # As fp32, so that what stays in float adds nothing of its own.
        with contextlib.closing(self._bench.open(graph, "fp32")) as search:
            return self.judge.step_drift(search)

    def _open(self, graph: onnx.ModelProto, precision: Precision) -> Engine:
        engine = self._bench.open(graph, precision)
        self._stack.callback(engine.close)
        return engine


def _rank(drift: StepDrift) -> tuple[float, float]:
    return drift.boxes, drift.maps
