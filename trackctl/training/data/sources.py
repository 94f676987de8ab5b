"""Readers of the training sets: each yields annotated grey frames.

ir_video   thermal clips of drones, birds, airplanes, helicopters (Svanstrom et al. 2021, CC0)
hit_uav    thermal stills from a drone: people, cars, bicycles (Suo et al. 2023, CC BY 4.0)
seek       thermal stills of people, dogs, cheetahs (Roboflow / B. Dwyer, CC BY 4.0; J. Nelson, public domain)
davis      visible sequences (Perazzi et al. 2016, Pont-Tuset et al. 2017, CC BY 4.0), used as pseudo-thermal
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box
from trackctl.training.data.register import Features, features, homography, same_objects
from trackctl.training.data.store import Gray, Shot
from trackctl.training.data.tighten import tighten

SMALLEST_PX = 4.0  # objects with a shorter side show nothing to learn
DONT_CARE = 4  # HIT-UAV's category that is neither target nor background


def read_all(data: Path, *, video_step: int = 3) -> Iterator[Shot]:
    """All shots of the training folder.

    Args:
        data: folder with ir_video, hit_uav, seek, davis.
        video_step: keep every so many-th video frame.

    Raises:
        SourceError: a set is missing or a file cannot be read.
    """
    yield from read_ir_video(data / "ir_video", step=video_step)
    yield from read_hit_uav(data / "hit_uav")
    yield from read_seek(data / "seek")
    yield from read_davis(data / "davis")


def read_gray(path: Path) -> Gray:
    """The pixels (H, W) uint8 of an image file.

    Raises:
        SourceError: it is missing or no image.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise SourceError(f"got {path}, expected an image that OpenCV can read: check the data folder")
    gray: Gray = pixels
    return gray


def read_ir_video(folder: Path, *, step: int) -> Iterator[Shot]:
    """Every ``step``-th annotated frame of the clips, boxes tightened."""
    boxes_file = folder / "boxes.npz"
    if not boxes_file.is_file():
        raise SourceError(f"got no {boxes_file}, expected the boxes of the clips: check the data folder")
    with np.load(boxes_file) as tables:
        for name in sorted(tables.files):
            frames: list[Gray] = []
            boxes: list[Box | None] = []
            for number, (pixels, row) in enumerate(zip(_video(folder / f"{name}.mp4"), tables[name], strict=False)):
                if number % step == 0:
                    frames.append(pixels)
                    visible = bool(np.isfinite(row).all()) and row[2:].min() >= SMALLEST_PX
                    boxes.append(Box(*(float(value) for value in row)) if visible else None)
            for pixels, box in zip(frames, tighten(frames, boxes), strict=True):
                if box is not None:
                    yield Shot("ir_video", name, pixels, (("target", box),))


def _video(path: Path) -> Iterator[Gray]:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(f"got {path}, expected a video that OpenCV can read: check the data folder")
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    finally:
        capture.release()


def read_hit_uav(folder: Path) -> Iterator[Shot]:
    """The stills, ordered by scene; objects found again in the next still of a scene keep their track."""
    table_file = folder / "train.json"
    if not table_file.is_file():
        raise SourceError(f"got no {table_file}, expected the boxes of the stills: check the data folder")
    table = json.loads(table_file.read_text(encoding="utf-8"))
    boxes: dict[int, list[Box]] = defaultdict(list)
    for annotation in table["annotations"]:
        box = Box(*(float(value) for value in annotation["bbox"]))
        if annotation["category_id"] != DONT_CARE and min(box.width, box.height) >= SMALLEST_PX:
            boxes[annotation["image_id"]].append(box)
    last: tuple[str, Features, list[Box], list[str]] | None = None
    for image in sorted(table["images"], key=lambda entry: entry["file_name"]):
        group, _ = image["file_name"].rsplit("_", 1)
        pixels = read_gray(folder / image["file_name"])
        here = boxes[image["id"]]
        found = features(pixels)
        names = [f"{image['file_name']}#{number}" for number in range(len(here))]
        if last is not None and last[0] == group and (matrix := homography(last[1], found)) is not None:
            for before, now in same_objects(last[2], here, matrix).items():
                names[now] = last[3][before]
        last = (group, found, here, names)
        yield Shot("hit_uav", group, pixels, tuple(zip(names, here, strict=True)))


def read_seek(folder: Path) -> Iterator[Shot]:
    """The stills; each object is a track of one sighting, each still a scene."""
    for path in sorted(folder.glob("*.jpg")):
        pixels = read_gray(path)
        height, width = pixels.shape
        objects = []
        for number, line in enumerate(path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()):
            _, x, y, w, h = (float(value) for value in line.split())
            box = Box.from_centre(x * width, y * height, w * width, h * height)
            if min(box.width, box.height) >= SMALLEST_PX:
                objects.append((str(number), box))
        yield Shot("seek", path.stem, pixels, tuple(objects))


def read_davis(folder: Path) -> Iterator[Shot]:
    """The sequences in grey; one object each."""
    table_file = folder / "boxes.csv"
    if not table_file.is_file():
        raise SourceError(f"got no {table_file}, expected the boxes of the sequences: check the data folder")
    with table_file.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            box = Box(*(float(value) for value in row[2:6]))
            yield Shot("davis", row[0], read_gray(folder / row[0] / f"{row[1]}.jpg"), (("target", box),))
