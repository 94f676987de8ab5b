"""An annotated sequence and a data set of them, whatever files they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.sensor import Sensor
from trackctl.runtime.sources import Source
from trackctl.runtime.sources.bands import Sensed
from trackctl.runtime.sources.images import Images, list_images
from trackctl.runtime.sources.pair import PairSource
from trackctl.runtime.sources.video import VideoFile

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where the pixels of a sequence are; nothing is read before they are needed.

    Attributes:
        paths: one video or one folder of images, or the image files themselves.
        frames: how many frames are annotated.
        first: number of the first annotated image of a folder, as its file name has it; None takes the folder's first image.
        spare_ok: the folder may hold more images than are annotated (OTB).
        sensor: which pixel of a hyperspectral frame is which band; None for other cameras.
    """

    paths: tuple[Path, ...]
    frames: int
    first: int | None = None
    spare_ok: bool = False
    sensor: Sensor | None = None

    def images(self) -> list[Path]:
        """The annotated image files in order; empty for a video.

        Raises:
            InputError: there are fewer or more images than annotated frames.
        """
        if len(self.paths) > 1 or not self.paths[0].is_dir():
            return [] if len(self.paths) == 1 and self.paths[0].suffix.lower() in VIDEO_SUFFIXES else list(self.paths)
        folder = self.paths[0]
        files = list_images(folder)
        if self.first is not None:
            files = [path for path in files if _number(path) >= self.first]
        if len(files) < self.frames or (len(files) > self.frames and not self.spare_ok and self.first is None):
            raise InputError(
                f"{folder} holds {len(files)} images, expected {self.frames} as annotated: the copy of the data set is damaged"
            )
        return files[: self.frames]

    def open(self) -> Source:
        """The frames as a source.

        Raises:
            InputError: the number of images differs from that of annotated frames, or they cannot be read.
        """
        images = self.images()
        return self.play(images) if images else VideoFile(self.paths[0])

    def play(self, images: list[Path]) -> Source:
        """Some of the images as a source."""
        source = Images(images)
        return source if self.sensor is None else Sensed(source, self.sensor)


@dataclass(frozen=True, kw_only=True)
class PairClip(Clip):
    """The frames of both cameras of an RGB-T pair; those of the visible camera are the clip's own.

    Attributes:
        thermal: frames of the other camera, as many.
    """

    thermal: Clip

    def open(self) -> Source:
        """The pairs as a source; errors as in :meth:`Clip.open`."""
        images = self.images()
        return self.play(images) if images else PairSource(VideoFile(self.paths[0]), VideoFile(self.thermal.paths[0]))

    def play(self, images: list[Path]) -> Source:
        """Some of the pairs, by the images of the visible camera."""
        partners = dict(zip(self.images(), self.thermal.images(), strict=True))
        return PairSource(super().play(images), self.thermal.play([partners[image] for image in images]))


VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov")


def _number(path: Path) -> int:
    digits = "".join(character for character in path.stem if character.isdigit())
    return int(digits) if digits else -1


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One annotated sequence. Boxes are in trackctl's convention; arrays are read only.

    Attributes:
        name: unique within its data set.
        truth_file: where the annotation came from, for messages.
        truth_ltwh: (N, 4), NaN where the target is absent.
        infrared_ltwh: (N, 4) annotation of the second camera of an RGB-T pair, or None.
        corners_xy: (N, V, 2) annotated polygons (VOT), or None.
        frame_hw: size of the frames, or None when nothing says it.
        clip: the frames, None when there are only annotations.
        infrared: frames of the second camera, or None.
        attributes: what is difficult about the sequence as a whole.
        tags: what is difficult about single frames, (N,) each.
        anchors: (N,) where VOT2020 starts: 1 forwards, -1 backwards, 0 not; or None.
    """

    name: str
    truth_file: Path
    truth_ltwh: Float64Array
    infrared_ltwh: Float64Array | None = None
    corners_xy: Float64Array | None = None
    frame_hw: tuple[int, int] | None = None
    clip: Clip | None = None
    infrared: Clip | None = None
    attributes: tuple[str, ...] = ()
    tags: Mapping[str, Flags] = field(default_factory=dict)
    anchors: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        for array in (self.truth_ltwh, self.infrared_ltwh, self.corners_xy, self.anchors, *self.tags.values()):
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.truth_ltwh)

    def paired(self) -> Sequence:
        """The sequence with pairs as frames, for trackers that want both cameras.

        Raises:
            InputError: it has the frames of one camera only.
        """
        if self.clip is None or self.infrared is None:
            raise InputError(
                f"{self.truth_file}: the sequence {self.name!r} has frames of one camera, expected visible and infrared ones: "
                "take an RGB-T data set, or a tracker for one camera"
            )
        parts = {part.name: getattr(self.clip, part.name) for part in fields(Clip)}
        return replace(self, clip=PairClip(**parts, thermal=self.infrared), infrared=None)

    def box(self, index: int) -> Box:
        """The annotated box of a frame, for ``Tracker.init``."""
        return Box(*self.truth_ltwh[index].tolist()).checked()

    def size_hw(self) -> tuple[int, int]:
        """Height and width of the frames, from the annotation or else from the first frame.

        Raises:
            InputError: neither is there.
        """
        if self.frame_hw is not None:
            return self.frame_hw
        if self.clip is None:
            raise InputError(
                f"{self.truth_file}: the size of the frames of {self.name!r} is unknown and this protocol clips boxes to them: "
                "add the images, or give the data set's json file with width and height"
            )
        with self.clip.open() as source:
            return source.frame_hw


@dataclass(frozen=True, kw_only=True)
class ResultFormat:
    """How the data set's own tools write results.

    Attributes:
        one_based: the first pixel is number 1 (MATLAB), so that left and top are one more than trackctl's.
        folders: results lie in ``<sequence>/<sequence>_001.txt`` (GOT-10k, VOT) rather than in ``<sequence>.txt``.
        delimiter: between the numbers of a line.
        decimals: digits after the point.
    """

    one_based: bool = False
    folders: bool = False
    delimiter: str = ","
    decimals: int = 4

    def path(self, folder: Path, name: str) -> Path:
        """Where the result of a sequence is written."""
        return folder / name / f"{name}_001.txt" if self.folders else folder / f"{name}.txt"

    def line(self, box: Box | Float64Array) -> str:
        """A box in trackctl's convention as a line of a result file."""
        shift = 1.0 if self.one_based else 0.0
        left, top, width, height = (float(value) for value in box)
        return self.delimiter.join(f"{value:.{self.decimals}f}" for value in (left + shift, top + shift, width, height))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """An annotated data set.

    Attributes:
        kind: key of ``datasets.KINDS``.
        path: what the user gave.
        sequences: at least one, names unique.
        results: how its tools write results.
        protocol: how its papers score, a key of ``PROTOCOLS``.
    """

    kind: str
    path: Path
    sequences: tuple[Sequence, ...]
    results: ResultFormat
    protocol: str
