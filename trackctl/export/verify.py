"""Proof that the graphs of a bundle track like the PyTorch model they come from.

Each cut runs on ONNX Runtime beside the model over real frames (calibration/drift.py): tensor by tensor and step by step on the
same inputs, and in closed loop. What must hold depends on the precision; the boxes of a closed loop are reported, not demanded,
because it magnifies rounding: PyTorch and ONNX Runtime in float32, alike to 2e-5 in every map, part to a mean IoU of
0.94 within 120 frames of NanoTrack V2 on one thermal clip and stay at 1.00 on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trackctl.calibration.drift import Drift, measure_drift
from trackctl.calibration.footage import Footage
from trackctl.export.conform import conform
from trackctl.export.frame_graph import FrameFormat, SearchCrop, TemplateCrop, example_tone
from trackctl.export.near import near_model
from trackctl.runtime.bundle import NEAR, SEARCH, TEMPLATE, Bundle, frame_key
from trackctl.runtime.contract import BOX, CLS, FILL, FRAME, LOC, STATE_IN, STATE_OUT, TEMPLATE_PATCH
from trackctl.runtime.engine import Engines
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.frame import channels_of, graph_frame_spec, is_toned
from trackctl.runtime.manifest import Precision
from trackctl.runtime.multi import Batch
from trackctl.training.engine import SEARCH_OUTPUTS, example_inputs, module_engine, torch_engines
from trackctl.training.model import SearchGraph, TemplateGraph, TrackerModel

PATCH_CUT = "patch"
# Frames on which each frame cut is compared; its Core is that of the patch cut.
FRAME_CUT_FRAMES = 20


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a precision must keep to; all numbers are [ours].

    Attributes:
        maps: most mixed difference (:class:`trackctl.calibration.drift.Difference`) of ``cls``, ``loc`` and the memory.
        step_iou: least mean IoU of one step on the same inputs.
        auc_loss: most success AUC lost in closed loop, if the footage is annotated.
    """

    maps: float | None = None
    step_iou: float
    auc_loss: float | None = None


BUDGETS: dict[Precision, Budget] = {
    "fp32": Budget(maps=1e-4, step_iou=0.99),
    "fp16": Budget(step_iou=0.98),
    "int8": Budget(step_iou=0.9, auc_loss=0.03),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a bundle's graphs do beside the PyTorch model.

    Attributes:
        precision: of the bundle.
        engine: what computed the graphs.
        footage: name of the clip.
        cuts: drift from the model by cut: ``patch``, ``near``, ``frame.640x512.gray8``.
        failures: what is beyond the precision's budget, one sentence each.
    """

    precision: Precision
    engine: str
    footage: str
    cuts: Mapping[str, Drift]
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values, rounded to four digits; null for what is not finite."""
        values: dict[str, Any] = rounded(asdict(self))
        return values


def verify(
    bundle: Bundle,
    model: TrackerModel,
    footage: Footage,
    *,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """How far the bundle's graphs track from the model they were exported from.

    Args:
        bundle: patch and frame graphs.
        model: in float32, BatchNorm not folded.
        footage: a clip with its target; converted for frame graphs of another format.
        threads: CPU threads of ONNX Runtime; None leaves the number to it.
        progress: told of each cut before it is compared.
    """
    manifest = bundle.manifest
    cuts: dict[str, Drift] = {}
    engine = ""
    for name, keys, form in _cuts(bundle):
        if progress is not None:
            progress(f"comparing the {name} graphs with PyTorch")
        with _opened(bundle, keys, threads) as candidate:
            engine = candidate.search.name
            seen = near_model(model) if name == NEAR else model
            if form is None:
                reference, shown = Engines(*torch_engines(seen)), footage
            else:
                reference, shown = _torch_frame_engines(seen, form), conform(footage, form)
                shown = replace(shown, frames=min(FRAME_CUT_FRAMES, shown.frames or FRAME_CUT_FRAMES))
            cuts[name] = measure_drift(reference, candidate, shown, crop=seen.crop, channels=manifest.channels)
    judged = (*manifest.memory, CLS, LOC)
    failures = tuple(failure for name, drift in cuts.items() for failure in _failures(name, drift, manifest.precision, judged))
    return Report(precision=manifest.precision, engine=engine, footage=footage.name, cuts=cuts, failures=failures)


def _failures(cut: str, drift: Drift, precision: Precision, judged: tuple[str, ...]) -> list[str]:
    budget = BUDGETS[precision]
    differences = {name: drift.tensors[name].mixed for name in judged}
    failures = [
        f"{cut}: {name} differs by {difference:.2g}, {precision} may differ by {budget.maps:g}"
        for name, difference in differences.items()
        if budget.maps is not None and difference > budget.maps
    ]
    if drift.step_iou < budget.step_iou:
        failures.append(f"{cut}: one step agrees to a mean IoU of {drift.step_iou:.4f}, {precision} needs {budget.step_iou:g}")
    if cut == PATCH_CUT and budget.auc_loss is not None and drift.auc is not None and drift.reference_auc is not None:
        lost = drift.reference_auc - drift.auc
        if lost > budget.auc_loss:
            failures.append(f"{cut}: {lost:.3f} of success AUC is lost, {precision} may lose {budget.auc_loss:g}")
    return failures


def _cuts(bundle: Bundle) -> Iterator[tuple[str, tuple[str, str], FrameFormat | None]]:
    """Name, keys of the template and the search graph, and format of the frames that they take; None for patches."""
    yield PATCH_CUT, (TEMPLATE, SEARCH), None
    if NEAR in bundle.manifest.graphs:
        yield NEAR, (TEMPLATE, NEAR), None
    for frame_hw, layout in bundle.frame_graphs():
        template, search = (frame_key(role, frame_hw, layout) for role in (TEMPLATE, SEARCH))
        yield search.removeprefix(f"{SEARCH}."), (template, search), FrameFormat(frame_hw=frame_hw, layout=layout)


@contextmanager
def _opened(bundle: Bundle, keys: tuple[str, str], threads: int | None) -> Iterator[Engines]:
    engines = Engines(
        *(
            OnnxRuntimeEngine.open(
                bundle.graph_path(key),
                expected_inputs=bundle.graph(key).inputs,
                expected_outputs=bundle.graph(key).outputs,
                threads=threads,
                precision=bundle.manifest.precision,
            )
            for key in keys
        )
    )
    try:
        # Of a search for several targets the last one is compared: a row that took another's inputs would show.
        yield engines if bundle.manifest.targets == 1 else Engines(engines.template, Batch(engines.search).slots[-1])
    finally:
        engines.close()


class _TemplateFrameGraph(nn.Module):
    """The template's frame graph in PyTorch."""

    def __init__(self, model: TrackerModel, form: FrameFormat) -> None:
        super().__init__()
        self.cut, self.graph = TemplateCrop(model.crop, form, model.channels), TemplateGraph(model)

        self.cropped = 3 if is_toned(form.layout) else 2

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        state, fill, patch = self.cut(*inputs[: self.cropped])
        return state, fill, *self.graph(patch, *inputs[self.cropped :])


class _SearchFrameGraph(nn.Module):
    """The search's frame graph in PyTorch; with ``toned`` the fourth input is the tone."""

    def __init__(self, model: TrackerModel, form: FrameFormat) -> None:
        super().__init__()
        self.cut, self.graph = SearchCrop(model.crop, form, model.channels), SearchGraph(model)
        self.cropped = 4 if is_toned(form.layout) else 3

    def forward(self, frame: Tensor, state: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        crop_inputs = (frame, state, *rest)[: self.cropped]
        maps: tuple[Tensor, ...] = self.graph(self.cut(*crop_inputs), state, *rest[self.cropped - 2 :])
        return maps


def _torch_frame_engines(model: TrackerModel, form: FrameFormat) -> Engines:
    template, search = example_inputs(model.eval())
    update = {name: tensor for name, tensor in template.items() if name != TEMPLATE_PATCH}
    frame = torch.zeros(graph_frame_spec(form.layout, form.frame_hw).shape, dtype=torch.uint8)
    tone = example_tone(form.layout)
    fill = torch.zeros(1, channels_of(form.layout))
    memory = {name: search[name] for name in model.memory_names}
    template_inputs = {FRAME: frame, BOX: torch.tensor([[8.0, 8.0, 16.0, 16.0]]), **tone, **update}
    search_inputs = {FRAME: frame, STATE_IN: search[STATE_IN], FILL: fill, **tone, **memory}
    template_outputs = (STATE_OUT, FILL, *model.template_outputs)
    return Engines(
        module_engine(_TemplateFrameGraph(model, form).eval(), template_inputs, template_outputs, "pytorch template"),
        module_engine(_SearchFrameGraph(model, form).eval(), search_inputs, SEARCH_OUTPUTS, "pytorch"),
    )


def rounded(value: Any) -> Any:
    """JSON values rounded to four digits; null for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return value
