"""Decoded frames with their annotated objects, in one flat file that pairs are cut from.

Whole frames are kept instead of one crop per object: small thermal frames are cheaper than enlarged crops of them, any shift
and scale can be cut later, and every patch is resampled once, by the runtime's own geometry.

A store is a folder of two files:

* ``frames.u8``: grey pixels of all frames, row-major, one after the other
* ``index.npz``: where each frame lies, and which objects it shows
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box

Gray = NDArray[np.uint8]

FRAMES_FILE, INDEX_FILE = "frames.u8", "index.npz"


@dataclass(frozen=True)
class Shot:
    """One annotated frame, as readers deliver it.

    Attributes:
        source: name of the set, such as ``ir_video``.
        scene: clip or place; objects of one scene are each other's distractors.
        pixels: (H, W) uint8.
        objects: name of the track, unique in its scene, and box of each object, frame px.
    """

    source: str
    scene: str
    pixels: Gray
    objects: tuple[tuple[str, Box], ...]


@dataclass(frozen=True)
class Index:
    """Columns of the store. F frames, M sightings (one object in one frame), T tracks.

    Attributes:
        frame_offset: int64 (F,) first byte.
        frame_hw: int32 (F, 2).
        frame_fill: uint8 (F,) mean level, which fills the outside.
        box_ltwh: float32 (M, 4) frame px. Sightings of one track are consecutive, in time order.
        box_frame, box_track: int32 (M,) numbers of frame and track.
        track_first: int64 (T + 1,): track t has the sightings ``track_first[t]`` to ``track_first[t + 1] - 1``.
        track_source, track_scene: names (T,); a scene is named ``source/scene``.
    """

    frame_offset: NDArray[np.int64]
    frame_hw: NDArray[np.int32]
    frame_fill: NDArray[np.uint8]
    box_ltwh: NDArray[np.float32]
    box_frame: NDArray[np.int32]
    box_track: NDArray[np.int32]
    track_first: NDArray[np.int64]
    track_source: NDArray[np.str_]
    track_scene: NDArray[np.str_]


def write_store(folder: Path, shots: Iterable[Shot]) -> None:
    """Write a store; frames without objects are left out. The index comes last, so that an interrupted write is no store.

    Raises:
        InputError: there is no annotated frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    offset = 0
    frames: list[tuple[int, int, int, int]] = []
    tracks: dict[tuple[str, str, str], list[tuple[int, Box]]] = {}
    with (folder / FRAMES_FILE).open("wb") as file:
        for shot in shots:
            if not shot.objects:
                continue
            height, width = shot.pixels.shape
            for name, box in shot.objects:
                tracks.setdefault((shot.source, shot.scene, name), []).append((len(frames), box))
            frames.append((offset, height, width, int(np.rint(shot.pixels.mean()))))
            offset += file.write(np.ascontiguousarray(shot.pixels).tobytes())
    if not frames:
        raise InputError(f"got no annotated frame for {folder}, expected at least one: check the data folder")
    table = np.array(frames, dtype=np.int64)
    sightings = [sighting for track in tracks.values() for sighting in track]
    lengths = [len(track) for track in tracks.values()]
    partial = folder / f"partial-{INDEX_FILE}"
    np.savez(
        partial,
        frame_offset=table[:, 0],
        frame_hw=table[:, 1:3].astype(np.int32),
        frame_fill=table[:, 3].astype(np.uint8),
        box_ltwh=np.array([box for _, box in sightings], dtype=np.float32),
        box_frame=np.array([frame for frame, _ in sightings], dtype=np.int32),
        box_track=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        track_first=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        track_source=np.array([source for source, _, _ in tracks]),
        track_scene=np.array([f"{source}/{scene}" for source, scene, _ in tracks]),
    )
    partial.replace(folder / INDEX_FILE)


class FrameStore:
    """A store opened for reading; the frames are mapped, not loaded.

    Raises:
        InputError: the folder holds no store, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX_FILE).is_file():
            raise InputError(f"got no {INDEX_FILE} in {folder}, expected a frame store: build it from the data folder first")
        try:
            with (folder / INDEX_FILE).open("rb") as stream, NpzFile(stream, allow_pickle=False) as columns:
                self.index = Index(**{name: columns[name] for name in columns.files})
            self._bytes = np.memmap(folder / FRAMES_FILE, dtype=np.uint8, mode="r")
            last_h, last_w = (int(side) for side in self.index.frame_hw[-1])
            size = int(self.index.frame_offset[-1]) + last_h * last_w
        except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read the frame store {folder} ({error!r}): delete the folder and build it again") from error
        if self._bytes.size != size:
            raise InputError(
                f"got {self._bytes.size} bytes in {folder / FRAMES_FILE}, expected {size}: delete the folder and build it again"
            )

    def frame(self, number: int) -> Gray:
        """The pixels (H, W) uint8 of a frame, read-only."""
        start = int(self.index.frame_offset[number])
        height, width = (int(side) for side in self.index.frame_hw[number])
        pixels: Gray = self._bytes[start : start + height * width].reshape(height, width)
        return pixels

    def box(self, sighting: int) -> Box:
        """The box of a sighting, frame px."""
        return Box(*(float(value) for value in self.index.box_ltwh[sighting]))
