"""What the graphs get to see of one camera: whole frames, or patches cut out on the host."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.appearance import Appearance
from trackctl.runtime.contract import BOX, FRAME, SEARCH_PATCH, STATE_IN, TEMPLATE_PATCH, TONE, Array, TensorSpec
from trackctl.runtime.crop import HostCrop, band_fill, band_tone, frame_fill
from trackctl.runtime.device_frame import DeviceFrame, device_frame
from trackctl.runtime.engine import Engine, FrameBuffered
from trackctl.runtime.errors import FrameError
from trackctl.runtime.frame import (
    BGR8,
    CHANNELS,
    GRAY16,
    PAIR8,
    BandLayout,
    Frame,
    graph_frame,
    graph_frame_spec,
    is_toned,
    layout_of,
)
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.pairing import flattened
from trackctl.runtime.sensor import LEAST_BANDS, Sensor
from trackctl.runtime.tone import ToneMapper


class View:
    """The frames of one camera from the first on.

    Args:
        crop: crop constants.
        channels: channels of the patches.
        near_size: side of the middle of the search patch that a near search sees, px; None: as much as any search.

    Attributes:
        layout: sensor layout of the frames.
        frame_hw: height and width of the frames, px; of a mosaic in cells.
        missing: cameras of a pair that the newest frame lacks.
    """

    def __init__(self, crop: CropSpec, channels: int, near_size: int | None = None) -> None:
        self.layout = ""
        self.frame_hw = (0, 0)
        self.missing: tuple[str, ...] = ()
        self._crop, self._channels = crop, channels
        self._template_crop = HostCrop(crop.template_size, channels)
        self._search_crop = HostCrop(crop.search_size, channels)
        self._near_crop = HostCrop(near_size, channels, whole=crop.search_size) if near_size else self._search_crop
        self._sensor: Sensor | None = None
        self._engine = ""
        self._graph: TensorSpec | None = None
        self._tone = ToneMapper()
        self._tone_now: tuple[float, float] | None = None
        self._tone_bounds = np.zeros((1, 2), dtype=np.float32)
        self._tone_of_bands: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._fill: tuple[float, ...] = ()
        self._on_gpu = False
        self._last: Array = np.zeros(0, dtype=np.uint8)
        self._shown: Array | DeviceFrame = self._last

    def form(self, frame: Any) -> tuple[tuple[int, int], str]:
        """Height, width and layout of a first frame, if this view can show it.

        Raises:
            FrameError: it is no frame, or one of another kind of camera.
        """
        pixels = _pixels(frame)
        sensor = _sensor_of(frame, pixels)
        layout = layout_of(pixels, sensor)
        self._check_channels(layout)
        hw = (pixels.shape[0], pixels.shape[1]) if sensor is None else sensor.hw(_on_host(pixels))
        return hw, layout

    def start(self, frame: Any, search: Engine) -> None:
        """Take the first frame of a camera.

        Args:
            frame: as checked by :meth:`form`.
            search: whom the frames are shown to.

        Raises:
            FrameError: the graphs are made for other frames, or cannot read frames on the GPU.
        """
        pixels = _pixels(frame)
        self.frame_hw, self.layout = self.form(frame)
        self._sensor = _sensor_of(frame, pixels)
        self._engine, self._graph = search.name, search.inputs.get(FRAME)
        self._on_gpu = isinstance(search, FrameBuffered)
        self._check_graph_frame(pixels)
        self._last = self._remember(pixels, search)
        self._tone = ToneMapper()
        self._tone_of_bands, self._tone_bounds = None, np.zeros((1, 2), dtype=np.float32)
        if isinstance(pixels, np.ndarray):
            self._fill = self._mean(pixels)
            if self._sensor is not None:
                self._tone_of_bands = band_tone(self._sensor.planes(pixels), self._sensor.band_dark, self._sensor.band_gain)
                self._tone_bounds = np.concatenate(self._tone_of_bands)[None]
        self._show(frame, pixels)

    def advance(self, frame: Any) -> bool:
        """Take the next frame; whether it repeats the one before bit for bit.

        Raises:
            FrameError: its size, layout or dtype differs from the first one's.
        """
        pixels, last = _pixels(frame), self._last
        if pixels.shape != last.shape or pixels.dtype != last.dtype or _sensor_of(frame, pixels) != self._sensor:
            raise FrameError(
                f"got a frame {pixels.shape} {pixels.dtype}, expected {last.shape} {last.dtype} as in init(): "
                "call init(frame, box) again when the camera's mode changes"
            )
        repeated = False
        if isinstance(pixels, np.ndarray):
            repeated = _equal(pixels, last)
            np.copyto(last, pixels)
        else:
            self._check_graph_frame(pixels)
        self._show(frame, last if isinstance(pixels, np.ndarray) else pixels)
        return repeated

    def template_feeds(self, target: Box) -> dict[str, Array]:
        """What the template graph wants to see of a target in the newest frame."""
        if self._graph is not None:
            return {FRAME: self._whole(), BOX: np.array([target], dtype=np.float32), **self._tone_feed()}
        side = self._crop.template_side_px(target.width, target.height)
        fill = self._mean(_on_host(self._shown))
        return {TEMPLATE_PATCH: self._patch(self._template_crop, target.centre_xy, side, fill)}

    def search_feeds(self, state: NDArray[np.float32], near: bool = False) -> dict[str, Array]:
        """What the search graph, or the near graph, wants to see around a state (1, 6) in the newest frame."""
        if self._graph is not None:
            return {FRAME: self._whole(), STATE_IN: state, **self._tone_feed()}
        centre_x, centre_y, width, height = state[0, :4].tolist()
        side = self._crop.search_side_px(width, height)
        crop = self._near_crop if near else self._search_crop
        return {SEARCH_PATCH: self._patch(crop, (centre_x, centre_y), side, self._fill), STATE_IN: state}

    def appearance(self, target: Box) -> Appearance | None:
        """How a target looks in the newest frame; None if that lies on a GPU."""
        if isinstance(self._shown, DeviceFrame):
            return None
        side = self._crop.template_side_px(target.width, target.height)
        patch = self._patch(self._template_crop, target.centre_xy, side, self._fill)[0]
        return Appearance(patch[-1] if self.layout == PAIR8 else patch.mean(axis=0), side)

    def places_like(
        self, appearance: Appearance | None, count: int, around_xy: tuple[float, float], within_px: float
    ) -> list[tuple[float, float]]:
        """Where the newest frame looks most like that, see :meth:`Appearance.places`; nowhere if it lies on a GPU."""
        if appearance is None or isinstance(self._shown, DeviceFrame):
            return []
        return appearance.places(self._picture(self._shown), count, around_xy, within_px)

    def _picture(self, pixels: Array) -> Array:
        """(H, W) of what a frame shows: thermal of a pair, the mean of bands."""
        if self._sensor is not None:
            return np.asarray(np.stack(self._sensor.planes(pixels)).mean(axis=0, dtype=np.float32))
        if self.layout == BGR8:
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
        return np.ascontiguousarray(pixels[:, :, -1]) if pixels.ndim == 3 else pixels

    def _show(self, frame: Any, pixels: Array | DeviceFrame) -> None:
        self.missing = frame.missing if isinstance(frame, Frame) else ()
        flat = bool(self.missing) and isinstance(pixels, np.ndarray)
        self._shown = flattened(_on_host(pixels), self.missing, self._fill) if flat else pixels
        if self.layout == GRAY16:
            self._tone_now = self._tone.update(_on_host(pixels).reshape(pixels.shape[:2]))
            self._tone_bounds[0] = self._tone_now

    def _tone_feed(self) -> dict[str, Array]:
        return {TONE: self._tone_bounds} if is_toned(self.layout) else {}

    def _mean(self, pixels: Array) -> tuple[float, ...]:
        return frame_fill(pixels) if self._sensor is None else band_fill(self._sensor.planes(pixels))

    def _patch(
        self, crop: HostCrop, centre_xy: tuple[float, float], side_px: float, fill: tuple[float, ...]
    ) -> NDArray[np.float32]:
        pixels = _on_host(self._shown)
        if self._sensor is None or self._tone_of_bands is None:
            return crop(pixels, self.layout, centre_xy, side_px, fill, self._tone_now if self.layout == GRAY16 else None)
        return crop.bands(self._sensor.planes(pixels), centre_xy, side_px, fill, self._tone_of_bands)

    def _whole(self) -> Any:
        return self._shown if isinstance(self._shown, DeviceFrame) else graph_frame(self._shown)

    def _remember(self, pixels: Array | DeviceFrame, search: Engine) -> Array:
        """A copy of the frame, if possible where the engine sends it from; for a frame on the GPU only the room for one."""
        # A pair may lack a picture; what is sent then is not what was seen.
        buffer = getattr(search, "frame_buffer", None) if self._on_gpu and self.layout != PAIR8 else None
        if buffer is None:
            buffer = np.zeros(math.prod(pixels.shape) * pixels.dtype.itemsize, dtype=np.uint8)
        last: Array = buffer.reshape(-1).view(pixels.dtype).reshape(pixels.shape)
        if isinstance(pixels, np.ndarray):
            np.copyto(last, pixels)
        return last

    def _check_channels(self, layout: str) -> None:
        banded = BandLayout.parse(layout)
        bands, wanted_bands = 0 if banded is None else banded.bands, self._channels if self._channels >= LEAST_BANDS else 0
        if bands != wanted_bands:
            raise FrameError(
                f"got a {layout} frame of {bands or 'no'} bands, expected {wanted_bands or 'none'} for this tracker: "
                "take a bundle made for this camera, or describe its sensor"
            )
        if (layout == PAIR8) != (self._channels == CHANNELS[PAIR8]):
            wanted = "pairs (H, W, 4) uint8 of BGR and thermal" if self._channels == CHANNELS[PAIR8] else "gray or BGR frames"
            raise FrameError(f"got a {layout} frame, expected {wanted} for this tracker: take a bundle made for this camera")

    def _check_graph_frame(self, pixels: Array | DeviceFrame) -> None:
        if isinstance(pixels, DeviceFrame) and (self._graph is None or not self._on_gpu):
            raise FrameError(
                f"got a frame on the GPU, expected one in the host's memory, where {self._engine} takes it from: "
                "copy it, or open a GPU engine on a bundle that has the graph of these frames (export with --frame)"
            )
        if self._graph is None:
            return
        if self._sensor is not None and not self._sensor.in_order:
            raise FrameError(
                f"got a sensor whose bands are the positions {list(self._sensor.bands)}, expected the first ones in their order, "
                "as frame graphs read them: open the patch graphs"
            )
        height, width = self.frame_hw
        if graph_frame_spec(self.layout, self.frame_hw) != self._graph:
            raise FrameError(
                f"got a frame {width}x{height} {self.layout}, expected {list(self._graph.shape)} as the graph was made for: "
                f"export with --frame {width}x{height}:{self.layout}"
            )


def _equal(pixels: Array, last: Array) -> bool:
    """Whether two frames are the same bit for bit; the middle row alone tells those of a live sensor apart."""
    middle = len(pixels) // 2
    # By rows, because OpenCV knows no more than 128 channels.
    return (
        cv2.norm(pixels[middle].reshape(-1), last[middle].reshape(-1), cv2.NORM_INF) == 0.0
        and cv2.norm(pixels.reshape(len(pixels), -1), last.reshape(len(last), -1), cv2.NORM_INF) == 0.0
    )


def _pixels(frame: Any) -> Array | DeviceFrame:
    pixels = frame.pixels if isinstance(frame, Frame) else frame
    if isinstance(pixels, np.ndarray):
        return np.ascontiguousarray(pixels)
    on_gpu = device_frame(pixels)
    return pixels if on_gpu is None else on_gpu


def _sensor_of(frame: Any, pixels: Array | DeviceFrame) -> Sensor | None:
    sensor: Sensor | None = getattr(frame, "sensor", None)
    bare_cube = sensor is None and isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] >= LEAST_BANDS
    return Sensor(positions=pixels.shape[2]) if bare_cube else sensor


def _on_host(pixels: Array | DeviceFrame) -> Array:
    if isinstance(pixels, DeviceFrame):
        raise FrameError("got a frame on the GPU, expected one in the host's memory as in init(): copy it")
    return pixels
