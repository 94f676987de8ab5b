"""What lowered search graphs are held against: the float32 tracker's answers on clips, and the annotation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from trackctl.calibration.drift import success_auc
from trackctl.calibration.footage import Footage
from trackctl.calibration.record import Recorded, record
from trackctl.calibration.sensitivity import Step, StepDrift, step_drift, steps
from trackctl.export.pipeline import Progress, save_graph
from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.manifest import Precision
from trackctl.runtime.select import OPENERS


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a tracker is calibrated and judged on.

    Attributes:
        clips: the ranges come from these.
        judged: the drift is measured on these; those with an annotation give the AUC. Their names differ.
        frames: most calibration frames, all clips together.
        steps: most steps on which the drift is measured, all clips together.

    Raises:
        InputError: there are no clips, more clips than frames, or two judged clips of one name.
    """

    clips: Sequence[Footage]
    judged: Sequence[Footage]
    frames: int = 64
    steps: int = 32

    def __post_init__(self) -> None:
        for what, clips, most in (("calibration", self.clips, self.frames), ("judged", self.judged, self.steps)):
            if not 1 <= len(clips) <= most:
                raise InputError(f"got {len(clips)} {what} clips for {most} frames, expected a clip or more and a frame of each")
        names = [clip.name for clip in self.judged]
        if len(set(names)) < len(names):
            raise InputError(f"got the judged clips {', '.join(names)}, expected each name once: rename one")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Opens graphs on the engine that measures.

    Attributes:
        folder: for the files.
        kind: key of ``OPENERS``.
        threads: CPU threads; None leaves the number to the library.
        crop: crop constants.
        channels: channels of the patches.
    """

    folder: Path
    kind: str
    threads: int | None
    crop: CropSpec
    channels: int

    def open(self, graph: onnx.ModelProto, precision: Precision) -> Engine:
        """An engine of the graph as it would run in a bundle of that precision; the caller closes it."""
        entry = save_graph(graph, "candidate", self.folder)
        return OPENERS[self.kind](
            self.folder / entry.file,
            expected_inputs=entry.inputs,
            expected_outputs=entry.outputs,
            threads=self.threads,
            precision=precision,
        )

    def record(self, template: Engine, search: Engine, clip: Footage, limit: int) -> Recorded:
        """What the search engine meets on a clip."""
        return record(template, search, clip, crop=self.crop, channels=self.channels, limit=limit)


class Judge:
    """The float32 tracker's way through the clips, and what measures others by it.

    Args:
        bench: opens engines.
        template, search: of float32; stay open.
        material: the clips, which are tracked here.
        progress: told of each clip.

    Attributes:
        calibration, judged: what float32 met on the clips.
        aucs: success AUC of float32 in closed loop, by annotated clip.
        feeds: the judged steps.
    """

    def __init__(self, bench: Bench, template: Engine, search: Engine, material: Material, progress: Progress) -> None:
        self.bench, self._footage = bench, material.judged

        def recorded(clips: Sequence[Footage], limit: int) -> list[Recorded]:
            found = []
            for clip in clips:
                progress(f"tracking {clip.name} in float32")
                found.append(bench.record(template, search, clip, limit // len(clips)))
            return found

        self.calibration = recorded(material.clips, material.frames)
        self.judged = recorded(material.judged, material.steps)
        self.aucs = self._aucs(self.judged)
        self.feeds: list[Mapping[str, Array]] = [feed for clip in self.judged for feed in clip.feeds]
        self._answers: list[Step] = steps(search, self.feeds)

    def step_drift(self, search: Engine) -> StepDrift:
        """How far the engine's steps are from those of float32 on the same inputs."""
        return step_drift(self._answers, steps(search, self.feeds))

    def loop_aucs(self, template: Engine, search: Engine) -> dict[str, float]:
        """Success AUC of other engines in closed loop, by annotated clip."""
        tracked = (
            self.bench.record(template, search, clip, 1) if clip.truth_ltwh is not None else None for clip in self._footage
        )
        return self._aucs(tracked)

    def _aucs(self, tracked: Iterable[Recorded | None]) -> dict[str, float]:
        aucs = {}
        for clip, recorded in zip(self._footage, tracked, strict=True):
            auc = None if recorded is None else success_auc(recorded.boxes_ltwh, clip.truth_ltwh)
            if auc is not None:
                aucs[clip.name] = auc
        return aucs
