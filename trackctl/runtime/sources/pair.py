"""A visible and a thermal source as one source of registered pairs.

    pair:VISIBLE,THERMAL?rig=rig.json&tolerance_ms=20&offset_ms=0

VISIBLE and THERMAL are sources of their own: paths, or URIs of cameras. ``rig`` is a file of ``trackctl rig``; without one the
pictures must be registered already. ``tolerance_ms`` is the largest difference in time within a pair (half a period if not
given), ``offset_ms`` what the thermal camera's clock shows more than the visible one's. Write %2C for a comma within a path.
"""

from __future__ import annotations

import heapq
import math
import queue
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic_ns
from typing import cast
from urllib.parse import parse_qsl

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import BLANK_CONTRAST, Array
from trackctl.runtime.errors import FrameError, SourceError
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, Frame, layout_of
from trackctl.runtime.pairing import PLANES, THERMAL, VISIBLE, Pairing, Side, Together
from trackctl.runtime.rig import Rig
from trackctl.runtime.sources import Source, open_source
from trackctl.runtime.sources.options import read_options
from trackctl.runtime.tone import ToneMapper

OPTIONS = ("rig", "tolerance_ms", "offset_ms")
SIDES: tuple[Side, Side] = (VISIBLE, THERMAL)
# Frames of live cameras that may wait to be paired; more would only be old.
WAITING_FRAMES = 8

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """What to pair, and how.

    Attributes:
        visible, thermal: sources.
        rig: file of the rig; None for pictures that are registered already.
        tolerance_ms: largest difference in time within a pair; None for half a period of the slower camera.
        offset_ms: what the thermal clock shows more than the visible one.
    """

    visible: str
    thermal: str
    rig: Path | None = None
    tolerance_ms: float | None = None
    offset_ms: float = 0.0

    @classmethod
    def parse(cls, text: str) -> PairSpec:
        """The spec written as ``VISIBLE,THERMAL?rig=rig.json``.

        Raises:
            SourceError: there are not two sources, or an option is malformed.
        """
        sources, _, query = text.rpartition("?")
        # A question mark may belong to the second source: synth:?frames=10.
        if not sources or not any(name in OPTIONS for name, _ in parse_qsl(query)):
            sources, query = text, ""
        values = read_options(query, OPTIONS, "pair")
        parts = [part.strip() for part in sources.split(",")]
        if len(parts) != 2 or not all(parts):
            raise SourceError(
                f"got pair:{text}, expected a visible and a thermal source, a comma between: pair:VISIBLE,THERMAL?rig=rig.json"
            )
        visible, thermal = (re.sub("%2c", ",", part, flags=re.IGNORECASE) for part in parts)
        return cls(
            visible=visible,
            thermal=thermal,
            rig=Path(values["rig"]).expanduser() if "rig" in values else None,
            tolerance_ms=_milliseconds("tolerance_ms", values["tolerance_ms"]) if "tolerance_ms" in values else None,
            offset_ms=_milliseconds("offset_ms", values.get("offset_ms", "0")),
        )


def _milliseconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "tolerance_ms" and value < 0.0):
        raise SourceError(f"pair: got {name}={text}, expected milliseconds such as {name}=20")
    return value


def open_pair(spec: PairSpec, *, fps: float | None = None, loop: bool = False) -> PairSource:
    """The source of a spec; ``fps`` and ``loop`` go to both cameras.

    Raises:
        SourceError, FrameError, InputError: a source or the rig cannot be read, or they do not fit.
    """
    visible = open_source(spec.visible, fps=fps, loop=loop)
    try:
        thermal = open_source(spec.thermal, fps=fps, loop=loop)
        rig = None if spec.rig is None else Rig.load(spec.rig)
        return PairSource(visible, thermal, rig=rig, tolerance_ms=spec.tolerance_ms, offset_ms=spec.offset_ms)
    except BaseException:
        visible.close()
        raise


class PairSource(Source):
    """Registered pairs in the visible camera's geometry: (H, W, 4) uint8, blue, green, red, thermal.

    A camera that gives no frame near enough, or a flat one (a covered lens), is missing: its planes are flat and
    ``Frame.missing`` names it. Recordings are paired by their own timestamps, live cameras, which seldom share a clock, by the
    time their frames arrive.

    Args:
        visible, thermal: two recordings or two live sources; closed with this one.
        rig: how thermal pixels lie in the visible picture; None for pictures of one size that are registered already.
        tolerance_ms, offset_ms: see :class:`PairSpec`.

    Raises:
        SourceError: one is live and the other is not, or there is no rig for pictures of different sizes.
        InputError: the rig is not one for these pictures.
    """

    def __init__(
        self,
        visible: Source,
        thermal: Source,
        *,
        rig: Rig | None = None,
        tolerance_ms: float | None = None,
        offset_ms: float = 0.0,
    ) -> None:
        self._sources: dict[Side, Source] = {VISIBLE: visible, THERMAL: thermal}
        if visible.live != thermal.live:
            raise SourceError(
                f"got {visible.name} and {thermal.name}, expected two recordings or two live cameras: take alike ones"
            )
        sizes = [(source.frame_hw[1], source.frame_hw[0]) for source in (visible, thermal)]
        if rig is None:
            if sizes[0] != sizes[1]:
                raise SourceError(
                    f"got visible {sizes[0][0]}x{sizes[0][1]} and thermal {sizes[1][0]}x{sizes[1][1]} pictures without a rig, "
                    "expected registered pictures of one size: make a rig with trackctl rig and add ?rig=FILE"
                )
        else:
            rig = rig.scaled(visible_wh=sizes[0], thermal_wh=sizes[1])
        self._rig = rig
        self._lead: Side = THERMAL if thermal.fps < visible.fps else VISIBLE
        leading = self._sources[self._lead]
        self.name = f"{visible.name} with {thermal.name}"
        self.fps, self.count, self.frame_hw, self.live = leading.fps, leading.count, visible.frame_hw, visible.live
        period_ns = round(1e9 / self.fps)
        self._period_ns = period_ns
        self._tolerance_ns = period_ns // 2 if tolerance_ms is None else round(1e6 * tolerance_ms)
        self._offset_ns = round(1e6 * offset_ms)
        self._stopped = Event()
        self._failed: Exception | None = None

    def __iter__(self) -> Iterator[Frame]:
        pairing = Pairing(lead=self._lead, period_ns=self._period_ns, tolerance_ns=self._tolerance_ns, offset_ns=self._offset_ns)
        register = Register(self.frame_hw, self._rig)
        index = 0
        for side, frame in self._live() if self.live else self._recorded():
            for together in pairing.add(side, frame):
                yield register(together, index)
                index += 1
        for together in pairing.end():
            yield register(together, index)
            index += 1
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Close both sources."""
        self._stopped.set()
        for source in self._sources.values():
            source.close()

    def _recorded(self) -> Iterator[tuple[Side, Frame]]:
        """The frames of both in the order of their time; the leading camera's first when they are equal."""

        def stamped(side: Side) -> Iterator[tuple[int, bool, Side, Frame]]:
            shift_ns = self._offset_ns if side == THERMAL else 0
            for frame in self._sources[side]:
                yield frame.timestamp_ns - shift_ns, side != self._lead, side, frame

        for _, _, side, frame in heapq.merge(*map(stamped, SIDES), key=lambda item: item[:2]):
            yield side, frame

    def _live(self) -> Iterator[tuple[Side, Frame]]:
        """The frames of both as they arrive. One that fails is missing from then on; the error is raised when both have ended."""
        arrived: queue.Queue[tuple[Side, Frame | Exception | None]] = queue.Queue()
        for side in SIDES:
            Thread(target=self._read, args=(side, arrived), name=f"trackctl {side} camera", daemon=True).start()
        running = len(SIDES)
        while running:
            side, item = arrived.get()
            if isinstance(item, Frame):
                yield side, item
            else:
                running, self._failed = running - 1, item or self._failed

    def _read(self, side: Side, arrived: queue.Queue[tuple[Side, Frame | Exception | None]]) -> None:
        source = self._sources[side]
        try:
            for frame in source:
                if self._stopped.is_set():
                    break
                if arrived.qsize() >= WAITING_FRAMES:
                    self.skipped += 1  # whoever takes the pairs is busy
                    continue
                arrived.put((side, Frame(frame.pixels, monotonic_ns(), frame.index)))
            arrived.put((side, None))
        except Exception as error:  # raised again in the thread that iterates
            arrived.put((side, error))


class Register:
    """Makes one frame of two.

    Args:
        frame_hw: of the visible camera.
        rig: see :class:`PairSource`.
    """

    def __init__(self, frame_hw: tuple[int, int], rig: Rig | None) -> None:
        self._frame_hw, self._rig = frame_hw, rig
        self._tone = ToneMapper()
        # What stands for a camera that is missing: the levels it had last.
        self._levels = np.zeros(4, dtype=np.uint8)

    def __call__(self, together: Together, index: int) -> Frame:
        """The pair (H, W, 4) uint8 with the cameras that it lacks.

        Raises:
            FrameError: a frame has a form that no camera of a pair has.
        """
        pixels = np.empty((*self._frame_hw, 4), dtype=np.uint8)
        missing = []
        parts = {
            VISIBLE: None if together.visible is None else _colour(together.visible.pixels),
            THERMAL: None if together.thermal is None else self._warped(self._grey(together.thermal.pixels)),
        }
        for side, part in parts.items():
            planes = PLANES[side]
            if part is None or is_flat(part):
                missing.append(side)
                pixels[:, :, planes] = self._levels[planes]
            else:
                pixels[:, :, planes] = part.reshape(*self._frame_hw, -1)
                self._levels[planes] = np.rint(cv2.mean(part)[: pixels[:, :, planes].shape[2]])
        return Frame(pixels, together.timestamp_ns, index, missing=tuple(missing))

    def _grey(self, pixels: Array) -> Uint8Array:
        layout = layout_of(pixels)
        if layout == GRAY16:
            return self._tone.apply(pixels, *self._tone.update(pixels))
        if layout not in (GRAY8, BGR8):
            raise FrameError(f"got a thermal frame {pixels.shape} {pixels.dtype}, expected grey of 8 or 16 bits")
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if layout == BGR8 else pixels.reshape(pixels.shape[:2])
        return cast(Uint8Array, grey)

    def _warped(self, grey: Uint8Array) -> Uint8Array:
        if self._rig is None:
            return grey
        warped: Uint8Array = self._rig.warp(grey, float(np.rint(grey.mean()))).astype(np.uint8)
        return warped


def _colour(pixels: Array) -> Uint8Array:
    layout = layout_of(pixels)
    if layout not in (GRAY8, BGR8):
        raise FrameError(f"got a visible frame {pixels.shape} {pixels.dtype}, expected BGR or grey of 8 bits")
    return cast(Uint8Array, pixels if layout == BGR8 else cv2.cvtColor(pixels.reshape(pixels.shape[:2]), cv2.COLOR_GRAY2BGR))


def is_flat(picture: Uint8Array) -> bool:
    """Whether a camera's picture shows nothing, by every fourth pixel of its first channel."""
    sample = picture[::4, ::4] if picture.ndim == 2 else picture[::4, ::4, 0]
    return float(sample.std()) <= BLANK_CONTRAST
