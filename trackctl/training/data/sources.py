"""Readers of the training sets: each yields annotated grey frames.

* ``ir_video``: thermal clips of drones, birds, airplanes, helicopters (Svanstrom et al. 2021, CC0)
* ``hit_uav``: thermal stills from a drone, of people, cars, bicycles (Suo et al. 2023, CC BY 4.0)
* ``seek``: thermal stills of people, dogs, cheetahs (Roboflow / B. Dwyer, CC BY 4.0; J. Nelson, public domain)
* ``davis``: visible sequences (Perazzi et al. 2016, Pont-Tuset et al. 2017, CC BY 4.0), used as pseudo-thermal

Every reader raises SourceError where a file is missing, damaged or not of its set's form.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.npyio import NpzFile

from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box
from trackctl.training.data.register import Features, features, homography, same_objects
from trackctl.training.data.store import Gray, Shot
from trackctl.training.data.tighten import tighten

SETS = ("ir_video", "hit_uav", "seek", "davis")

SMALLEST_PX = 4.0  # objects with a shorter side show nothing to learn
DONT_CARE = 4  # HIT-UAV's category that is neither target nor background


def read_all(data: Path, *, video_step: int = 3) -> Iterator[Shot]:
    """All shots of the training folder, read as they are asked for.

    Args:
        data: folder with one folder per set.
        video_step: keep every so many-th video frame.

    Raises:
        SourceError: the folder or a set is missing (at once), or a file cannot be read (on the way).
    """
    if not data.is_dir():
        raise SourceError(f"got no folder {data}, expected one with {', '.join(SETS)}: check the data folder")
    if missing := [name for name in SETS if not (data / name).is_dir()]:
        raise SourceError(f"got {data} without {', '.join(missing)}, expected {', '.join(SETS)} in it: check the data folder")
    return chain(
        read_ir_video(data / "ir_video", step=video_step),
        read_hit_uav(data / "hit_uav"),
        read_seek(data / "seek"),
        read_davis(data / "davis"),
    )


@contextmanager
def _reading(table: Path) -> Iterator[None]:
    """Within it what a missing, damaged or foreign table of boxes raises becomes a SourceError."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"got no {table}, expected the boxes of its frames: check the data folder") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise SourceError(f"cannot read the boxes of {table} ({error!r}): get the file again") from error


def read_gray(path: Path) -> Gray:
    """The pixels (H, W) uint8 of an image file."""
    if not path.is_file():
        raise SourceError(f"got no {path}, expected an image: check the data folder")
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise SourceError(f"got {path}, expected an image that OpenCV can read: get the file again")
    gray: Gray = pixels
    return gray


def read_ir_video(folder: Path, *, step: int) -> Iterator[Shot]:
    """Every ``step``-th annotated frame of the clips, boxes tightened."""
    table = folder / "boxes.npz"
    with _reading(table), table.open("rb") as stream, NpzFile(stream, allow_pickle=False) as arrays:
        rows_of = {name: np.asarray(arrays[name], dtype=np.float32).reshape(-1, 4) for name in sorted(arrays.files)}
    for name, rows in rows_of.items():
        clip = folder / f"{name}.mp4"
        frames: list[Gray] = []
        boxes: list[Box | None] = []
        count = 0
        for pixels in _video(clip):
            if count < len(rows) and count % step == 0:
                row = rows[count]
                visible = bool(np.isfinite(row).all()) and row[2:].min() >= SMALLEST_PX
                frames.append(pixels)
                boxes.append(Box(*(float(value) for value in row)) if visible else None)
            count += 1
        if count != len(rows):
            raise SourceError(f"got {count} frames of {clip}, expected {len(rows)} as in {table.name}: get the clip again")
        for pixels, box in zip(frames, tighten(frames, boxes), strict=True):
            if box is not None:
                yield Shot("ir_video", name, pixels, (("target", box),))


def _video(path: Path) -> Iterator[Gray]:
    if not path.is_file():
        raise SourceError(f"got no {path}, expected a video: check the data folder")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(f"got {path}, expected a video that OpenCV can read: get the file again")
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
    table = folder / "train.json"
    boxes: dict[str, list[Box]] = defaultdict(list)
    with _reading(table):
        coco = json.loads(table.read_text(encoding="utf-8"))
        name_of = {image["id"]: str(image["file_name"]) for image in coco["images"]}
        for annotation in coco["annotations"]:
            box = Box(*(float(value) for value in annotation["bbox"]))
            if annotation["category_id"] != DONT_CARE and min(box.width, box.height) >= SMALLEST_PX:
                boxes[name_of[annotation["image_id"]]].append(box)
    last: tuple[str, Features, list[Box], list[str]] | None = None
    for name in sorted(name_of.values()):
        group = name.rpartition("_")[0]
        pixels = read_gray(folder / name)
        here = boxes[name]
        found = features(pixels)
        tracks = [f"{name}#{number}" for number in range(len(here))]
        if last is not None and last[0] == group and (matrix := homography(last[1], found)) is not None:
            for before, now in same_objects(last[2], here, matrix).items():
                tracks[now] = last[3][before]
        last = (group, found, here, tracks)
        yield Shot("hit_uav", group, pixels, tuple(zip(tracks, here, strict=True)))


def read_seek(folder: Path) -> Iterator[Shot]:
    """The stills; each object is a track of one sighting, each still a scene."""
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise SourceError(f"got no *.jpg in {folder}, expected stills: check the data folder")
    for path in paths:
        pixels = read_gray(path)
        height, width = pixels.shape
        objects = []
        table = path.with_suffix(".txt")
        with _reading(table):
            for number, line in enumerate(table.read_text(encoding="utf-8").splitlines()):
                _, x, y, w, h = (float(value) for value in line.split())
                box = Box.from_centre(x * width, y * height, w * width, h * height)
                if min(box.width, box.height) >= SMALLEST_PX:
                    objects.append((str(number), box))
        yield Shot("seek", path.stem, pixels, tuple(objects))


def read_davis(folder: Path) -> Iterator[Shot]:
    """The sequences in grey; one object each."""
    table = folder / "boxes.csv"
    with _reading(table), table.open(encoding="utf-8", newline="") as file:
        sightings = [(row[0], row[1], Box(*(float(value) for value in row[2:6]))) for row in csv.reader(file)]
    for sequence, frame, box in sightings:
        yield Shot("davis", sequence, read_gray(folder / sequence / f"{frame}.jpg"), (("target", box),))
