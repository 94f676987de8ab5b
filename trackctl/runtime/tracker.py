"""The whole method: a template once, then crop, search and judge each frame."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import NamedTuple

import numpy as np

from trackctl.runtime.bundle import Bundle
from trackctl.runtime.confidence import Confidence, ConfidenceSpec, Status
from trackctl.runtime.contract import FILL, PREVIOUS, QUALITY, QUALITY_OUT, RATE, SCORE, SEARCH_PATCH, STATE_OUT, Array
from trackctl.runtime.engine import Engine, Engines
from trackctl.runtime.engines.tensorrt import Progress
from trackctl.runtime.errors import BundleError, InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.redetect import Redetection, Redetector
from trackctl.runtime.select import CutChooser, open_engines
from trackctl.runtime.view import View

DEFAULT_REDETECTION = Redetection()


@dataclass(frozen=True)
class Result:
    """What one frame showed.

    Attributes:
        box: left, top, width, height in frame pixels, float64, continuous edges.
        score: foreground probability at the chosen cell, 0..1; 0 for a blank or repeated frame or a box that is not finite.
        status: how far the box can be believed.
        quality: ``psr``, ``second``, ``contrast`` (runtime/contract.py).
        stages_ns: time spent per stage of ``update``, nanoseconds.
        missing: cameras of a pair without which this was found, ``visible`` or ``thermal``.
    """

    box: Box
    score: float
    status: Status
    quality: Mapping[str, float]
    stages_ns: Mapping[str, int]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TemplateUpdate:
    """When the template takes in what the target looks like now. All numbers are [ours].

    Attributes:
        every: frames between two updates.
        above: least score of a frame that is learnt from; it must be TRACKING as well.
        rate: weight of the new features, 0..1.

    Raises:
        InputError: a value is out of range.
    """

    every: int = 25
    above: float = 0.8
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1 or not 0.0 < self.rate <= 1.0:
            raise InputError(f"got every {self.every} and rate {self.rate}, expected 1 or more and 0 < rate <= 1")


class Ask(NamedTuple):
    """What a tracker wants to know of a frame.

    Attributes:
        engine: who knows.
        feeds: its inputs beside the memory of the target.
    """

    engine: Engine
    feeds: dict[str, Array]


class Tracker:
    """Follows one target through the frames of one camera.

    Used like ``cv2.TrackerNano``: ``init(frame, box)`` on the first frame, ``update(frame)`` on each further one.

    A target that was found moves little to the next frame: with a near graph, one that is TRACKING is looked for in the middle
    of the search window first. What is found there counts if it is sure; else the whole window is searched in the same frame, so
    that nothing is lost but time. While the target is not TRACKING the whole window is all that is searched.

    Args:
        template: engine of the template graph.
        search: engine of the search graph.
        near: engine of the near graph, the search graph of the patch's middle; None: the whole window is searched always.
        crop: crop constants.
        channels: channels of the patches.
        cuts: asked at ``init`` for other graphs where these do not fit the camera's frames; None: there are no others.
        confidence: thresholds of the status.
        template_update: when the template is updated; None: never.
        redetection: how a target that was missed is looked for in the whole frame; None: only where it was.

    Raises:
        InputError: an update is asked for, but the template graph cannot take the previous template back.
    """

    def __init__(
        self,
        template: Engine,
        search: Engine,
        near: Engine | None = None,
        *,
        crop: CropSpec,
        channels: int = 3,
        cuts: CutChooser | None = None,
        confidence: ConfidenceSpec | None = None,
        template_update: TemplateUpdate | None = None,
        redetection: Redetection | None = None,
    ) -> None:
        self._engines = Engines(template, search, near)
        self._crop = crop
        self._cuts = cuts
        self._view = View(crop, channels, None if near is None else near.inputs[SEARCH_PATCH].shape[-1])
        self._confidence_spec = confidence or ConfidenceSpec()
        self._confidence = Confidence(self._confidence_spec)
        self._state = np.zeros((1, 6), dtype=np.float32)
        self._kept = {
            name.removeprefix(PREVIOUS): np.zeros(spec.shape, dtype=np.float32)
            for name, spec in template.inputs.items()
            if name.startswith(PREVIOUS)
        }
        if template_update is not None and not self._kept:
            raise InputError(
                "got a template update, but the template of this tracker cannot be updated: leave it out or take another model"
            )
        self._template_update = template_update
        self._frames = 0
        self._redetector = None if redetection is None else Redetector(redetection, crop, self._view)
        self._started = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: str = "auto",
        threads: int | None = None,
        template_update: TemplateUpdate | None = None,
        redetection: Redetection | None = DEFAULT_REDETECTION,
        progress: Progress | None = None,
    ) -> Tracker:
        """The tracker of a bundle folder.

        Args:
            path: the bundle, such as ``out/dcfg-edge-fp16.trk``.
            engine: ``auto`` measures what the machine has; or ``onnxruntime``, ``openvino``; or on an NVIDIA GPU ``tensorrt``,
                ``tensorrt_rtx``, ``onnxruntime_cuda``.
            threads: CPU threads of the engine; None lets ``auto`` measure.
            template_update: when the template is updated; None: never.
            redetection: how a target that was missed is looked for in the whole frame; None: only where it was.
            progress: told of the steps when an engine must be built first (TensorRT), from the builder's threads.

        Raises:
            BundleError, EngineError, MissingDependency: with what to do.
        """
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        if manifest.targets > 1:
            raise BundleError(f"{path} was made for {manifest.targets} targets at a time: open it with MultiTracker")
        engines, choice = open_engines(bundle, engine, threads, progress)
        return cls(
            *engines,
            crop=manifest.crop,
            channels=manifest.channels,
            cuts=CutChooser(bundle, choice, progress),
            confidence=ConfidenceSpec.from_mapping(manifest.confidence),
            template_update=template_update,
            redetection=redetection,
        )

    @property
    def engine_name(self) -> str:
        """What computes the search graph."""
        return self._engines.search.name

    def init(self, frame: Array | Frame, box: Sequence[float]) -> None:
        """Learn the target.

        Args:
            frame: (H, W) uint8 or uint16, (H, W, 3) uint8 BGR or (H, W, 4) uint8 BGR and thermal. On a GPU engine with a frame
                graph also uint8 pixels that lie on the GPU: a torch tensor, a pycuda GPUArray, anything with
                ``__cuda_array_interface__`` or DLPack. They are not compared with the frame before.
                For a tracker of bands a cube (H, W, bands), or a mosaic as a :class:`Frame` with its ``sensor``; uint8 or uint16.
            box: left, top, width, height in frame pixels.

        Raises:
            FrameError: the frame has another form.
            BoxError: the box is empty, not finite or outside the frame.
        """
        frame_hw, layout = self._view.form(frame)
        target = _box(box).checked(frame_hw)
        engines = None if self._cuts is None else self._cuts.engines_for((frame_hw, layout))
        if engines is not None:
            self.close()
            self._engines = engines
        self._view.start(frame, self._engines.search)
        self._confidence = Confidence(self._confidence_spec)
        self._frames = 0
        if self._redetector is not None:
            self._redetector.start(target)
        self._state[0] = (*target.centre_xy, target.width, target.height, frame_hw[1], frame_hw[0])
        self._bind(self._learn(target, 1.0))
        self._started = True

    def _learn(self, target: Box, rate: float) -> Mapping[str, Array]:
        """What the template graph makes of a target; remembers what it wants back."""
        feeds = self._view.template_feeds(target)
        if self._kept:
            feeds[RATE] = np.array([[rate]], dtype=np.float32)
            feeds |= {PREVIOUS + name: kept for name, kept in self._kept.items()}
        made = self._engines.template.run(feeds)
        for name, kept in self._kept.items():
            kept[:] = made[name]
        return made

    def _bind(self, made: Mapping[str, Array]) -> None:
        """Let whoever searches remember the target."""
        for engine in filter(None, (self._engines.search, self._engines.near)):
            engine.bind({name: tensor for name, tensor in made.items() if name in engine.inputs})

    def update(self, frame: Array | Frame) -> Result:
        """Find the target in the next frame.

        Raises:
            InputError: ``init`` was not called.
            FrameError: the frame's size, layout or dtype differs from the first one's.
        """
        steps = self.steps(frame)
        said: Ask | Result = next(steps)
        while isinstance(said, Ask):
            said = told(steps, said.engine.run(said.feeds))
        return said

    def steps(self, frame: Array | Frame) -> Generator[Ask, Mapping[str, Array], Result]:
        """An update in steps: asks the near engine, the search engine or one after the other, and returns the result.

        So that one search can serve several targets. Arguments and errors as for ``update``.
        """
        if not self._started:
            raise InputError("got update() before init(), expected a target first: call init(frame, box)")
        started = perf_counter_ns()
        repeated = self._view.advance(frame)
        checked = perf_counter_ns()
        crop_ns, searched = 0, checked
        near = self._engines.near if self._confidence.status is Status.TRACKING else None
        for engine in filter(None, (near, self._engines.search)):
            feeds = self._view.search_feeds(self._state, near=engine is near)
            cropped = perf_counter_ns()
            crop_ns += cropped - searched
            outputs = yield Ask(engine, feeds)
            searched = perf_counter_ns()
            quality = dict(zip(QUALITY, outputs[QUALITY_OUT][0].tolist(), strict=True))
            score = float(outputs[SCORE][0, 0])
            if engine is near and self._confidence.sure_near(score, quality["psr"]):
                break
        moved = outputs[STATE_OUT]
        if repeated or not np.isfinite(moved).all():
            # Nothing was learnt. A NaN kept here would never leave the state again.
            score = 0.0
        if score >= self._confidence_spec.lost_score:
            # What may be something else says nothing about the target's size.
            known = 4 if score >= self._confidence_spec.sure_score else 2
            self._state[0, :known] = moved[0, :known]
        status = self._confidence.judge(score, quality["psr"], quality["contrast"], repeated=repeated)
        decided = perf_counter_ns()
        if self._redetector is not None:
            self._look_elsewhere(self._redetector, status, score, repeated)
        searched_on = perf_counter_ns()
        box = Box.from_centre(*self._state[0, :4].tolist())
        judged = perf_counter_ns()
        self._frames += 1
        renewal = self._template_update
        if renewal is not None and self._frames % renewal.every == 0 and status is Status.TRACKING and score >= renewal.above:
            made = self._learn(box, renewal.rate)
            # What fills the outside stays the first frame's.
            self._bind({name: tensor for name, tensor in made.items() if name != FILL})
        renewed = perf_counter_ns()
        stages = {
            "check": checked - started,
            "crop": crop_ns,
            "engine": searched - checked - crop_ns,
            "judge": judged - searched - (searched_on - decided),
            "update": renewed - started,
        }
        if self._redetector is not None:
            stages["redetect"] = searched_on - decided
        if renewal is not None:
            stages["template"] = renewed - judged
        return Result(box, score, status, quality, stages, self._view.missing)

    def _look_elsewhere(self, redetector: Redetector, status: Status, score: float, repeated: bool) -> None:
        """After an absence move the state to where the target shows again; the next frames must confirm it."""
        if status is Status.TRACKING:
            redetector.sight(Box.from_centre(*self._state[0, :4].tolist()))
            return
        redetector.miss(empty=not repeated and score < self._confidence_spec.lost_score)
        # What looks like the target may be it, back in its place; and until it is LOST, what does not may be it, changed.
        if repeated or status is not Status.LOST or self._confidence.usual(score):
            return
        width, height = redetector.last.width, redetector.last.height
        for centre_xy in redetector.places():
            state = np.array([[*centre_xy, width, height, *self._state[0, 4:]]], dtype=np.float32)
            found = self._engines.search.run(self._view.search_feeds(state))
            psr, rival = float(found[QUALITY_OUT][0, 0]), float(found[SCORE][0, 0])
            like = self._confidence.believable(rival, psr, None if redetector.gone else 0.0)
            if rival > score and like and np.isfinite(found[STATE_OUT]).all():
                score = rival
                self._state[0, :4] = (*found[STATE_OUT][0, :2], width, height)

    def close(self) -> None:
        """Release all engines."""
        self._engines.close()
        self._started = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def told(steps: Generator[Ask, Mapping[str, Array], Result], outputs: Mapping[str, Array]) -> Ask | Result:
    """What an update says to the outputs it asked for: its next question, or its result."""
    try:
        return steps.send(outputs)
    except StopIteration as end:
        result: Result = end.value
        return result


def _box(values: Sequence[float]) -> Box:
    if len(values) != 4:
        raise InputError(f"got a box of {len(values)} numbers, expected four: left, top, width, height")
    return Box(*(float(value) for value in values))
