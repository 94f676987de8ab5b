"""The inputs that a search graph really meets, recorded while the tracker runs over a clip.

Random crops would not do: the memory, the state and the search window that follows the target are part of what the ranges
depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trackctl.calibration.coverage import Coverage, situation
from trackctl.calibration.footage import Footage
from trackctl.runtime.contract import QUALITY, QUALITY_OUT, SCORE, STATE_IN, Array
from trackctl.runtime.engine import Engine, EngineContext
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec, Float64Array, boxes_array
from trackctl.runtime.tracker import Tracker

# Called after each run with the inputs that were not bound and with the outputs; neither may be kept without a copy.
Seen = Callable[[Mapping[str, Array], Mapping[str, Array]], None]


class Tap(EngineContext):
    """An engine that lets somebody look at each run.

    Attributes:
        bound: copies of the tensors bound last.
    """

    def __init__(self, engine: Engine, seen: Seen) -> None:
        self.name = engine.name
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.bound: dict[str, Array] = {}
        self._engine = engine
        self._seen = seen

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Bind the engine's inputs."""
        self.bound = {name: tensor.copy() for name, tensor in tensors.items()}
        self._engine.bind(tensors)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The engine's outputs."""
        outputs = self._engine.run(feeds)
        self._seen(feeds, outputs)
        return outputs

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Inputs of a search patch graph, and where the tracker went.

    Attributes:
        source: name of the recording.
        frames: positions in the recording, from 0.
        reasons: why each of these frames was chosen (:mod:`trackctl.calibration.coverage`).
        feeds: per frame all inputs of the graph.
        boxes_ltwh: (N, 4) box of every frame of the recording, the given one first.
    """

    source: str
    frames: tuple[int, ...]
    reasons: tuple[str, ...]
    feeds: tuple[dict[str, Array], ...]
    boxes_ltwh: Float64Array


def record(template: Engine, search: Engine, footage: Footage, *, crop: CropSpec, channels: int = 3, limit: int = 64) -> Recorded:
    """What the search graph meets while the tracker follows the target through the footage, as few frames that cover it.

    Args:
        template, search: engines of the patch graphs; stay open.
        footage: frames and first box.
        crop: crop constants.
        channels: channels of the patches.
        limit: most frames to keep.

    Raises:
        InputError: the footage has fewer than two frames.
    """
    coverage = Coverage(limit)
    boxes: list[Box] = []

    def keep(feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        score = float(outputs[SCORE][0, 0])
        contrast = float(outputs[QUALITY_OUT][0, QUALITY.index("contrast")])
        labels = situation(feeds[STATE_IN], score=score, contrast=contrast, crop=crop)
        coverage.add(len(boxes), labels, lambda: tap.bound | {name: tensor.copy() for name, tensor in feeds.items()})

    tap = Tap(search, keep)
    tracker = Tracker(template, tap, crop=crop, channels=channels)
    for frame in footage:
        if not boxes:
            tracker.init(frame, footage.box)
            boxes.append(footage.box)
        else:
            boxes.append(tracker.update(frame).box)
    if not coverage.held:
        raise InputError(f"{footage.name} has fewer than two frames, expected a clip to calibrate on: give a longer one")
    return Recorded(
        source=footage.name,
        frames=tuple(coverage.held),
        reasons=coverage.reasons(),
        feeds=tuple(held.feeds for held in coverage.held.values()),
        boxes_ltwh=boxes_array(boxes),
    )
