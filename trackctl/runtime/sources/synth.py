"""A rendered thermal clip with a known target: a camera to try trackctl on without a camera.

    synth:?frames=200&size=640x512&seed=0&depth=8&target=vehicle&black=80-89&freeze=120-129&leave=150-179

Temperatures in degrees Celsius are composed first (sky, ground in perspective, wood, houses, clutter, the target), seen through
a moving camera, blurred by optics and then turned into what a sensor delivers: noise, fixed pattern, dead pixels, 14-bit counts
or the 8 bits of a drifting automatic gain control. Everything here is [ours]; it is a believable scene, not radiometry.

Legend: w, h the frame; the canvas is the part of the world that the camera can turn to; frame = canvas shifted and rolled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.sources import DEFAULT_FPS, Recording
from trackctl.runtime.sources.options import matched, rendered_options
from trackctl.runtime.sources.synth_scene import TARGETS, Float32Array, Sprite, World, draw_target, wander

Span = tuple[int, int]

# Sensor [ours]: counts of an uncooled 14-bit core, about 25 mK per count, noise 75 mK, pattern 50 mK.
COUNTS_AT_0C, COUNTS_PER_C, FULL_SCALE = 7200.0, 40.0, 16383
NOISE_C, PATTERN_C, DEAD_SHARE = 0.075, 0.05, 0.0002
# Frames in which a target that leaves goes from its path to beyond the edge.
LEAVING_FRAMES = 25


@dataclass(frozen=True, kw_only=True)
class SynthSpec:
    """What to render. Spans are (first, last) frame numbers, both included.

    Attributes:
        frames: number of frames.
        size: width and height, pixels.
        seed: another seed is another world and another path.
        depth: 8 (gray8) or 16 (gray16, 14-bit counts).
        target: ``vehicle``, ``person`` or ``drone``.
        black: the feed is black.
        freeze: the feed repeats the frame before.
        leave: the target is outside the frame.
    """

    frames: int = 200
    size: tuple[int, int] = (640, 512)
    seed: int = 0
    depth: int = 8
    target: str = "vehicle"
    black: Span | None = None
    freeze: Span | None = None
    leave: Span | None = None

    def __post_init__(self) -> None:
        width, height = self.size
        if self.frames < 1:
            raise SourceError(f"synth: got frames={self.frames}, expected at least 1")
        if not (64 <= width <= 2048 and 64 <= height <= 2048):
            raise SourceError(f"synth: got size={width}x{height}, expected 64x64 to 2048x2048")
        if self.seed < 0:
            raise SourceError(f"synth: got seed={self.seed}, expected 0 or more")
        if self.depth not in (8, 16):
            raise SourceError(f"synth: got depth={self.depth}, expected 8 or 16")
        if self.target not in TARGETS:
            near = get_close_matches(self.target, TARGETS, n=1, cutoff=0.0)[0]
            raise SourceError(f"synth: got target={self.target}, do you mean {near}? Known: {', '.join(TARGETS)}")
        for name in ("black", "freeze", "leave"):
            span: Span | None = getattr(self, name)
            if span is not None and not 1 <= span[0] <= span[1] < self.frames:
                raise SourceError(
                    f"synth: got {name}={span[0]}-{span[1]}, expected FIRST-LAST within 1-{self.frames - 1}: "
                    "the target must be seen in frame 0"
                )

    @classmethod
    def parse(cls, text: str) -> SynthSpec:
        """The spec written as ``?frames=200&size=640x512``; what is not named keeps its default.

        Raises:
            SourceError: an option is unknown, given twice or malformed.
        """
        options = rendered_options(text, [field.name for field in fields(cls)], "synth:", "?frames=200&size=640x512")
        values = {name: _parse_value(name, value) for name, value in options.items()}
        return cls(**values)  # type: ignore[arg-type]


def _parse_value(name: str, value: str) -> int | str | Span:
    if name == "target":
        return value
    form, example = {"size": (r"(\d+)x(\d+)", "640x512")}.get(
        name, (r"(\d+)-(\d+)", "80-89") if name in ("black", "freeze", "leave") else (r"(\d+)", "8")
    )
    match = matched("synth:", name, value, form, example)
    numbers = tuple(int(group) for group in match.groups())
    return (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]


class Synth(Recording):
    """The rendered clip. Frame k depends on the spec and k alone, so that it can be played again.

    Args:
        spec: what to render.
        fps: None means 25.
        loop: play without end.

    Attributes:
        spec: as given.
        boxes_ltwh: float64 (N, 4), the visible extent of the target, also beyond the frame's edge; NaN where no part of it is
            seen (outside, black feed). A frozen feed repeats its box too.
    """

    def __init__(self, spec: SynthSpec, *, fps: float | None = None, loop: bool = False) -> None:
        self.spec = spec
        width, height = spec.size
        rng = np.random.default_rng([spec.seed, TARGETS.index(spec.target)])
        self._world = World(rng, width, height)
        self._cameras = self._world.camera_path(rng, spec.frames)
        self._sprites = [Sprite(spec.target, phase / 16) for phase in range(16)]
        self._heat = wander(rng, spec.frames, 90.0)
        self._centres_xy, self._heights_px = _target_path(rng, spec)
        self._agc = np.stack((wander(rng, spec.frames, 160.0), wander(rng, spec.frames, 220.0)), axis=1)  # (N, 2)
        self._sensor = _Sensor(rng, width, height, spec.frames)
        self.boxes_ltwh = self._boxes()
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(f"synth:{spec.target}, seed {spec.seed}", self.render(0), count=spec.frames, fps=rate, loop=loop)

    @property
    def initial_box(self) -> Box:
        """The target's box in frame 0."""
        return Box(*self.boxes_ltwh[0].tolist())

    def _pixels(self) -> Iterator[Array]:
        return map(self.render, range(self.spec.frames))

    def render(self, index: int) -> Array:
        """The pixels of one frame: (H, W) uint8 or uint16."""
        spec = self.spec
        if spec.freeze is not None and spec.freeze[0] <= index <= spec.freeze[1]:
            index = spec.freeze[0] - 1
        if spec.black is not None and spec.black[0] <= index <= spec.black[1]:
            return np.zeros((spec.size[1], spec.size[0]), dtype=np.uint8 if spec.depth == 8 else np.uint16)
        celsius = self._world.view(self._cameras[index])
        draw_target(celsius, self._sprite(index), self._centres_xy[index], self._heights_px[index], float(self._heat[index]))
        celsius = cv2.GaussianBlur(celsius, (0, 0), 0.7)
        self._sensor.disturb(celsius, index)
        if spec.depth == 16:
            return self._sensor.counts(celsius + float(self._agc[index, 0]))
        return self._sensor.levels(celsius, self._world.range_c, self._agc[index])

    def target_cover(self, index: int) -> Float32Array:
        """The share (H, W), 0..1, of each pixel that the target covers, in sharp optics."""
        width, height = self.spec.size
        grounds = [np.full((height, width), level, dtype=np.float32) for level in (0.0, 1.0)]
        for ground in grounds:
            draw_target(ground, self._sprite(index), self._centres_xy[index], self._heights_px[index], float(self._heat[index]))
        cover: Float32Array = 1.0 - (grounds[1] - grounds[0])
        return cover

    def _sprite(self, index: int) -> Sprite:
        return self._sprites[index % len(self._sprites)]

    def _boxes(self) -> Float64Array:
        spec = self.spec
        width, height = spec.size
        boxes = np.stack([self._sprite(k).box_ltwh(self._centres_xy[k], self._heights_px[k]) for k in range(spec.frames)])
        gone = (
            (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 0] + boxes[:, 2] <= 0) | (boxes[:, 1] + boxes[:, 3] <= 0)
        )
        boxes[gone] = np.nan
        if spec.black is not None:
            boxes[spec.black[0] : spec.black[1] + 1] = np.nan
        if spec.freeze is not None:
            boxes[spec.freeze[0] : spec.freeze[1] + 1] = boxes[spec.freeze[0] - 1]
        return boxes


def _target_path(rng: np.random.Generator, spec: SynthSpec) -> tuple[Float64Array, Float64Array]:
    """Centres (N, 2) and heights (N,) of the target in frame pixels."""
    width, height = spec.size
    base, low, high = {"vehicle": (0.075, 0.62, 0.80), "person": (0.14, 0.60, 0.78), "drone": (0.045, 0.22, 0.55)}[spec.target]
    share_x = 0.5 + 0.3 * wander(rng, spec.frames, 180.0)
    share_y = (low + high) / 2 + (high - low) / 2 * wander(rng, spec.frames, 170.0)
    heights = base * height * np.exp(0.35 * wander(rng, spec.frames, 180.0))
    # Nearer is lower in the frame.
    if spec.target != "drone":
        heights *= 0.55 + 0.6 * (share_y - low) / (high - low)
    centres = np.stack((share_x * width, share_y * height), axis=1)
    if spec.leave is not None:
        first, last = spec.leave
        frame = np.arange(spec.frames, dtype=np.float64)
        away = np.clip(np.minimum((frame - first) / LEAVING_FRAMES + 1.0, (last - frame) / LEAVING_FRAMES + 1.0), 0.0, 1.0)
        away = away * away * (3.0 - 2.0 * away)
        reach = 3.0 * float(heights.max())
        beyond = width + reach if share_x[first] > 0.5 else -reach
        if away[0] > 0.0:
            raise SourceError(
                f"synth: got leave={first}-{last}, expected a start of at least {LEAVING_FRAMES}: it needs time to leave"
            )
        centres[:, 0] += away * (beyond - centres[:, 0])
    return centres, heights


class _Sensor:
    """Noise, fixed pattern and dead pixels; the same for every run of a seed."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, frames: int) -> None:
        columns = rng.standard_normal((1, width), dtype=np.float32)
        self._pattern: Float32Array = PATTERN_C * (columns + rng.standard_normal((height, width), dtype=np.float32))
        # One noise field twice the frame, entered at another place each frame, is 20 times cheaper than new noise.
        self._noise: Float32Array = NOISE_C * rng.standard_normal((2 * height, 2 * width), dtype=np.float32)
        self._entries = np.stack((rng.integers(0, height, frames), rng.integers(0, width, frames)), axis=1)
        stuck = rng.random((height, width))
        self._dead, self._hot = stuck < DEAD_SHARE / 2, stuck > 1.0 - DEAD_SHARE / 2

    def disturb(self, celsius: Float32Array, index: int) -> None:
        """Add noise and pattern in place."""
        height, width = celsius.shape
        row, column = self._entries[index]
        celsius += self._noise[row : row + height, column : column + width]
        celsius += self._pattern

    def counts(self, celsius: Float32Array) -> NDArray[np.uint16]:
        """Raw 14-bit counts in uint16, dead and hot pixels included."""
        counts: NDArray[np.uint16] = np.clip(np.rint(COUNTS_AT_0C + COUNTS_PER_C * celsius), 0, FULL_SCALE).astype(np.uint16)
        counts[self._dead], counts[self._hot] = 0, FULL_SCALE
        return counts

    def levels(self, celsius: Float32Array, range_c: tuple[float, float], drift: Float64Array) -> NDArray[np.uint8]:
        """Grey levels of a camera that mends its dead pixels and whose gain control drifts by up to 6 % of the range."""
        span = range_c[1] - range_c[0]
        low, high = range_c[0] + 0.06 * span * drift[0], range_c[1] + 0.06 * span * drift[1]
        levels = (celsius - np.float32(low)) * np.float32(255.0 / (high - low))
        gray: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return gray
