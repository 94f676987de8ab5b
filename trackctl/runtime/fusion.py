"""An infrared and a visible picture fused on the device, tile by tile.

Only the one-channel parts of the network look at neighbours, eleven pixels far in all, so tiles that overlap by twice that give
exactly what the whole picture would, in memory that does not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine
from trackctl.runtime.errors import FrameError, InputError, MissingDependency
from trackctl.runtime.frame import BGR8, GRAY16, layout_of
from trackctl.runtime.fusion_bundle import COLUMNS, FUSED, GRAPH_FILE, IR, ROWS, VI, FusionBundle
from trackctl.runtime.processor import Processor
from trackctl.runtime.select import AUTO, OPENERS, installed
from trackctl.runtime.tone import ToneMapper

Float32Array = NDArray[np.float32]
Uint8Array = NDArray[np.uint8]

# Keeps the normalisation of a constant picture finite (LRRNet's public code).
EPSILON = np.float32(1e-5)
# Reflection needs a neighbour.
LEAST_SIDE_PX = 2


class Fuser:
    """Fuses registered pairs of pictures of any size. A context manager.

    Args:
        engine: computes one tile.
        tile_hw: the tile's height and width, pixels.
        halo_px: how far a fused pixel sees.

    Raises:
        InputError: a tile is all halo.
    """

    def __init__(self, engine: Engine, *, tile_hw: tuple[int, int], halo_px: int) -> None:
        if min(tile_hw) <= 2 * halo_px:
            raise InputError(f"got a tile of {tile_hw} with a halo of {halo_px} px, expected sides above {2 * halo_px}")
        self.engine = engine
        self._tile_hw = tile_hw
        self._halo = halo_px
        self._ir, self._vi = (np.zeros((1, 1, *tile_hw), np.float32) for _ in range(2))
        self._bound_hw: tuple[int, int] | None = None
        self._tones = (ToneMapper(), ToneMapper())

    @classmethod
    def open(cls, path: str | Path, *, engine: str = AUTO, threads: int | None = None) -> Fuser:
        """The fuser of an exported folder.

        Args:
            path: the folder.
            engine: ``openvino``, ``onnxruntime``, or ``auto`` for the first of these that is installed (the faster one).
            threads: CPU threads; None for one per core.

        Raises:
            BundleError: the folder is damaged.
            InputError: an unknown engine, or a number of threads below 1.
            MissingDependency: the engine's package is not installed.
            EngineError: the engine cannot load the graph.
        """
        if engine not in (AUTO, *OPENERS):
            raise InputError(f"got the engine {engine!r}, expected one of {', '.join((AUTO, *OPENERS))}")
        if threads is not None and threads < 1:
            raise InputError(f"got {threads} threads, expected 1 or more")
        folder = Path(path)
        bundle = FusionBundle.open(folder)
        kind = engine if engine != AUTO else next((name for name in OPENERS if installed(name)), None)
        if kind is None:
            raise MissingDependency("openvino", "fusing on the CPU", "openvino")
        opened = OPENERS[kind](
            folder / GRAPH_FILE,
            expected_inputs=bundle.inputs,
            expected_outputs=bundle.outputs,
            threads=threads or Processor.read().cores,
            precision=bundle.precision,
        )
        return cls(opened, tile_hw=bundle.tile_hw, halo_px=bundle.halo_px)

    def fuse(self, ir: Array, visible: Array) -> Uint8Array:
        """The fused picture: (H, W), or (H, W, 3) BGR with the chroma of a visible picture in colour.

        Colour is fused in its luma alone (BT.601). 16-bit pictures are brought to 8 bit first, steadily from call to call.

        Args:
            ir: (H, W) uint8 or uint16, or (H, W, 3) uint8 BGR, of which the luma counts.
            visible: the same; registered to ``ir``.

        Raises:
            FrameError: a picture is of no known layout, below 2 px, or the two differ in size.
            EngineError: the engine failed.
        """
        luma, chroma = _split(visible, self._tones[1])
        heat, _ = _split(ir, self._tones[0])
        if heat.shape != luma.shape or min(heat.shape) < LEAST_SIDE_PX:
            raise FrameError(
                f"got an infrared picture {heat.shape} and a visible one {luma.shape}, "
                f"expected two of one size, {LEAST_SIDE_PX} px or more: register them first"
            )
        fused = np.float32(255.0) * min_max(self._tiles(min_max(heat.astype(np.float32)), min_max(luma.astype(np.float32))))
        levels: Uint8Array = fused.astype(np.uint8)  # cut off, not rounded, as the authors do
        if chroma is None:
            return levels
        colour: Uint8Array = cv2.cvtColor(cv2.merge((levels, *chroma)), cv2.COLOR_YCrCb2BGR)
        return colour

    def _tiles(self, ir: Float32Array, vi: Float32Array) -> Float32Array:
        """The network's output (H, W) for normalised pictures (H, W)."""
        height, width = ir.shape
        shown_hw = min(height, self._tile_hw[0]), min(width, self._tile_hw[1])
        if self._bound_hw != shown_hw:
            rows, columns = (padding_map(*sizes) for sizes in zip(shown_hw, self._tile_hw, strict=True))
            self.engine.bind({ROWS: rows, COLUMNS: columns})
            self._bound_hw = shown_hw
        fused = np.empty_like(ir)
        for top, below in tile_spans(height, self._tile_hw[0], self._halo):
            for left, right in tile_spans(width, self._tile_hw[1], self._halo):
                part = slice(top, top + shown_hw[0]), slice(left, left + shown_hw[1])
                self._ir[0, 0, : shown_hw[0], : shown_hw[1]] = ir[part]
                self._vi[0, 0, : shown_hw[0], : shown_hw[1]] = vi[part]
                tile = self.engine.run({IR: self._ir, VI: self._vi})[FUSED]
                fused[below, right] = tile[0, 0, below.start - top : below.stop - top, right.start - left : right.stop - left]
        return fused

    def close(self) -> None:
        """Release the engine. May be called twice."""
        self.engine.close()

    def __enter__(self) -> Fuser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def min_max(image: Float32Array) -> Float32Array:
    """The image brought to 0..1 by its extremes, float32: ``(x - min) / (max - min + 1e-5)``; a constant one becomes 0."""
    low, high = image.min(), image.max()
    scaled: Float32Array = (image - low) / (high - low + EPSILON)
    return scaled


def padding_map(shown: int, tile: int) -> NDArray[np.int32]:
    """Which line of a tile each line of the padded tile shows, (tile + 2,): the lines in order, reflected about the outermost.

    Args:
        shown: lines that hold the picture, from the first on; those after it are never seen by it.
        tile: lines of the tile.
    """
    lines = np.zeros(tile + 2, np.int32)
    lines[1 : shown + 1] = np.arange(shown)
    lines[0], lines[shown + 1] = 1, shown - 2
    return lines


def tile_spans(size: int, tile: int, halo: int) -> Iterator[tuple[int, slice]]:
    """Where each tile along one axis begins, and which lines of the picture are taken from it.

    Tiles are evenly spread and overlap by ``2 * halo`` or more; the lines taken cover the picture once.

    Args:
        size: lines of the picture.
        tile: lines of a tile.
        halo: lines at an inner edge of a tile that are not right.
    """
    count = 1 + math.ceil(max(size - tile, 0) / (tile - 2 * halo))
    taken = 0
    for index in range(count):
        start = (size - tile) * index // (count - 1) if count > 1 else 0
        end = size if index == count - 1 else start + tile - halo
        yield start, slice(taken, end)
        taken = end


def _split(pixels: Array, tone: ToneMapper) -> tuple[Uint8Array, tuple[Uint8Array, Uint8Array] | None]:
    """Luma (H, W) and, of a picture in colour, the two planes of chroma."""
    layout = layout_of(pixels)
    if layout == BGR8:
        luma, red, blue = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb))
        return luma, (red, blue)
    plane = pixels.reshape(pixels.shape[:2])
    if layout == GRAY16:
        return tone.apply(plane, *tone.update(plane)), None
    return plane.view(np.uint8), None
