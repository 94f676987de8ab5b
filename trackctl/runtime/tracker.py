"""The whole method: a template once, then crop, search and judge each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.bundle import Bundle
from trackctl.runtime.confidence import Confidence, ConfidenceSpec, Status
from trackctl.runtime.contract import (
    BOX,
    FILL,
    FRAME,
    PREVIOUS,
    QUALITY,
    QUALITY_OUT,
    RATE,
    SCORE,
    SEARCH_PATCH,
    STATE_IN,
    STATE_OUT,
    TEMPLATE_PATCH,
    TONE,
    Array,
)
from trackctl.runtime.crop import HostCrop, frame_fill
from trackctl.runtime.engine import Engine
from trackctl.runtime.errors import FrameError, InputError
from trackctl.runtime.frame import CHANNELS, GRAY16, PAIR8, Frame, graph_frame, graph_frame_spec, layout_of
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.select import open_engines
from trackctl.runtime.tone import ToneMapper

Cut = Literal["patch", "frame"]


@dataclass(frozen=True)
class Result:
    """What one frame showed.

    Attributes:
        box: left, top, width, height in frame pixels, float64, continuous edges.
        score: foreground probability at the chosen cell, 0..1; 0 for a blank or repeated frame or a box that is not finite.
        status: how far the box can be believed.
        quality: ``psr``, ``second``, ``contrast`` (runtime/contract.py).
        stages_ns: time spent per stage of ``update``, nanoseconds.
    """

    box: Box
    score: float
    status: Status
    quality: Mapping[str, float]
    stages_ns: Mapping[str, int]


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


class Tracker:
    """Follows one target through the frames of one camera.

    Used like ``cv2.TrackerNano``: ``init(frame, box)`` on the first frame, ``update(frame)`` on each further one.

    Args:
        template: engine of the template graph.
        search: engine of the search graph.
        crop: crop constants.
        channels: channels of the patches.
        cut: ``patch`` when the graphs take patches that the host crops, ``frame`` when they take whole frames.
        confidence: thresholds of the status.
        template_update: when the template is updated; None: never.

    Raises:
        InputError: an update is asked for, but the template graph cannot take the previous template back.
    """

    def __init__(
        self,
        template: Engine,
        search: Engine,
        *,
        crop: CropSpec,
        channels: int = 3,
        cut: Cut = "patch",
        confidence: ConfidenceSpec | None = None,
        template_update: TemplateUpdate | None = None,
    ) -> None:
        self._template, self._search = template, search
        self._crop = crop
        self._cut = cut
        self._confidence_spec = confidence or ConfidenceSpec()
        self._confidence = Confidence(self._confidence_spec)
        self._template_crop = HostCrop(crop.template_size, channels)
        self._search_crop = HostCrop(crop.search_size, channels)
        self._state = np.zeros((1, 6), dtype=np.float32)
        self._tone_bounds = np.zeros((1, 2), dtype=np.float32)
        self._tone = ToneMapper()
        self._channels = channels
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
        self._fill: tuple[float, ...] = ()
        self._layout = ""
        self._last: Array | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: str = "auto",
        threads: int | None = None,
        template_update: TemplateUpdate | None = None,
    ) -> Tracker:
        """The tracker of a bundle folder.

        Args:
            path: the bundle, such as ``out/dcfg-edge-fp16.trk``.
            engine: ``auto`` measures what the machine has; or ``onnxruntime``, ``openvino``.
            threads: CPU threads of the engine; None lets ``auto`` measure.
            template_update: when the template is updated; None: never.

        Raises:
            BundleError, EngineError, MissingDependency: with what to do.
        """
        bundle = Bundle.open(path)
        template, search, _ = open_engines(bundle, engine, threads)
        manifest = bundle.manifest
        return cls(
            template,
            search,
            crop=manifest.crop,
            channels=manifest.channels,
            confidence=ConfidenceSpec.from_mapping(manifest.confidence),
            template_update=template_update,
        )

    @property
    def engine_name(self) -> str:
        """What computes the search graph."""
        return self._search.name

    def init(self, frame: Array | Frame, box: Sequence[float]) -> None:
        """Learn the target.

        Args:
            frame: (H, W) uint8 or uint16, (H, W, 3) uint8 BGR or (H, W, 4) uint8 BGR and thermal.
            box: left, top, width, height in frame pixels.

        Raises:
            FrameError: the frame has another form.
            BoxError: the box is empty, not finite or outside the frame.
        """
        pixels = _pixels(frame)
        layout = layout_of(pixels)
        self._check_channels(layout)
        target = _box(box).checked(pixels.shape[:2])
        self._check_graph_frame(pixels, layout)
        self._tone = ToneMapper()
        self._layout = layout
        self._last = pixels.copy()
        self._confidence = Confidence(self._confidence_spec)
        self._frames = 0
        self._fill = frame_fill(pixels)
        self._state[0] = (*target.centre_xy, target.width, target.height, pixels.shape[1], pixels.shape[0])
        made = self._learn(pixels, target, self._update_tone(pixels), 1.0)
        self._search.bind({name: tensor for name, tensor in made.items() if name in self._search.inputs})

    def _learn(self, pixels: Array, target: Box, tone: tuple[float, float] | None, rate: float) -> Mapping[str, Array]:
        """What the template graph makes of a target; remembers what it wants back."""
        feeds: dict[str, Array] = {}
        if self._kept:
            feeds = {RATE: np.array([[rate]], dtype=np.float32), **{PREVIOUS + name: kept for name, kept in self._kept.items()}}
        if self._cut == "frame":
            feeds |= {FRAME: graph_frame(pixels), BOX: np.array([target], dtype=np.float32), **self._tone_feed()}
        else:
            side = self._crop.template_side_px(target.width, target.height)
            patch = self._template_crop(pixels, self._layout, target.centre_xy, side, frame_fill(pixels), tone)
            feeds[TEMPLATE_PATCH] = patch
        made = self._template.run(feeds)
        for name, kept in self._kept.items():
            kept[:] = made[name]
        return made

    def update(self, frame: Array | Frame) -> Result:
        """Find the target in the next frame.

        Raises:
            InputError: ``init`` was not called.
            FrameError: the frame's size, layout or dtype differs from the first one's.
        """
        started = perf_counter_ns()
        pixels = _pixels(frame)
        last = self._last
        if last is None:
            raise InputError("got update() before init(), expected a target first: call init(frame, box)")
        if pixels.shape != last.shape or pixels.dtype != last.dtype:
            raise FrameError(
                f"got a frame {pixels.shape} {pixels.dtype}, expected {last.shape} {last.dtype} as in init(): "
                "call init(frame, box) again when the camera's mode changes"
            )
        repeated = cv2.norm(pixels, last, cv2.NORM_INF) == 0.0
        np.copyto(last, pixels)
        checked = perf_counter_ns()
        tone = self._update_tone(pixels)
        if self._cut == "frame":
            feeds: dict[str, Array] = {FRAME: graph_frame(pixels), STATE_IN: self._state, **self._tone_feed()}
        else:
            centre_x, centre_y, width, height = self._state[0, :4].tolist()
            side = self._crop.search_side_px(width, height)
            patch = self._search_crop(pixels, self._layout, (centre_x, centre_y), side, self._fill, tone)
            feeds = {SEARCH_PATCH: patch, STATE_IN: self._state}
        cropped = perf_counter_ns()
        outputs = self._search.run(feeds)
        searched = perf_counter_ns()
        quality = dict(zip(QUALITY, outputs[QUALITY_OUT][0].tolist(), strict=True))
        score = float(outputs[SCORE][0, 0])
        moved = outputs[STATE_OUT]
        if repeated or not np.isfinite(moved).all():
            # Nothing was learnt: the box stands. A NaN kept here would never leave the state again.
            score = 0.0
        else:
            self._state[:] = moved
        status = self._confidence.judge(score, quality["psr"], quality["second"], quality["contrast"], repeated=repeated)
        box = Box.from_centre(*self._state[0, :4].tolist())
        judged = perf_counter_ns()
        self._frames += 1
        renewal = self._template_update
        if renewal is not None and self._frames % renewal.every == 0 and status is Status.TRACKING and score >= renewal.above:
            made = self._learn(pixels, box, tone, renewal.rate)
            # What fills the outside stays the first frame's.
            self._search.bind({name: tensor for name, tensor in made.items() if name in self._search.inputs and name != FILL})
        renewed = perf_counter_ns()
        stages = {
            "check": checked - started,
            "crop": cropped - checked,
            "engine": searched - cropped,
            "judge": judged - searched,
            "update": renewed - started,
        }
        if renewal is not None:
            stages["template"] = renewed - judged
        return Result(box, score, status, quality, stages)

    def close(self) -> None:
        """Release both engines."""
        self._template.close()
        self._search.close()
        self._last = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _update_tone(self, pixels: Array) -> tuple[float, float] | None:
        if self._layout != GRAY16:
            return None
        tone = self._tone.update(pixels.reshape(pixels.shape[:2]))
        self._tone_bounds[0] = tone
        return tone

    def _tone_feed(self) -> dict[str, NDArray[np.float32]]:
        return {TONE: self._tone_bounds} if self._layout == GRAY16 else {}

    def _check_channels(self, layout: str) -> None:
        if (layout == PAIR8) != (self._channels == CHANNELS[PAIR8]):
            wanted = "pairs (H, W, 4) uint8 of BGR and thermal" if self._channels == CHANNELS[PAIR8] else "gray or BGR frames"
            raise FrameError(f"got a {layout} frame, expected {wanted} for this tracker: take a bundle made for this camera")

    def _check_graph_frame(self, pixels: Array, layout: str) -> None:
        if self._cut != "frame":
            return
        frame_hw = (pixels.shape[0], pixels.shape[1])
        expected, got = self._search.inputs[FRAME], graph_frame_spec(layout, frame_hw)
        if expected != got:
            raise FrameError(
                f"got a frame {frame_hw[1]}x{frame_hw[0]} {layout}, expected {list(expected.shape)} as the graph was made for: "
                f"export with --frame {frame_hw[1]}x{frame_hw[0]}:{layout}"
            )


def _pixels(frame: Array | Frame) -> Array:
    pixels = frame.pixels if isinstance(frame, Frame) else frame
    return np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels


def _box(values: Sequence[float]) -> Box:
    if len(values) != 4:
        raise InputError(f"got a box of {len(values)} numbers, expected four: left, top, width, height")
    return Box(*(float(value) for value in values))
