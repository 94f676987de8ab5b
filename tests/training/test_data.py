"""The readers of the training sets, on small copies of each set's layout and on the real sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box, iou
from trackctl.training.data.sources import (
    DONT_CARE,
    SETS,
    read_all,
    read_davis,
    read_hit_uav,
    read_ir_video,
    read_seek,
)
from trackctl.training.data.store import FRAMES_FILE, INDEX_FILE, FrameStore, Gray, write_store
from trackctl.training.pairs import HELD_OUT

CLIP_FRAMES = 7


def noise(height: int, width: int, seed: int, level: float = 100.0, spread: float = 3.0) -> Gray:
    generator = np.random.default_rng(seed)
    return np.clip(generator.normal(level, spread, (height, width)), 0, 255).astype(np.uint8)


def texture(height: int, width: int, seed: int) -> Gray:
    """Corners to register by."""
    generator = np.random.default_rng(seed)
    pixels = np.full((height, width), 90, np.uint8)
    for _ in range(160):
        x, y = int(generator.integers(width)), int(generator.integers(height))
        w, h = (int(side) for side in generator.integers(4, 24, 2))
        cv2.rectangle(pixels, (x, y), (x + w, y + h), int(generator.integers(255)), -1)
    return pixels


def write_ir_video(folder: Path) -> None:
    """One clip of a bright target in a loose box; absent in frame 3, too small to train in frame 6."""
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(str(folder / "IR_DRONE_001.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (160, 120))
    assert writer.isOpened()
    boxes = np.full((CLIP_FRAMES, 4), np.nan, np.float32)
    for number in range(CLIP_FRAMES):
        pixels = noise(120, 160, number)
        if number != 3:
            left, top = 40 + 4 * number, 50
            pixels[top : top + 12, left : left + 20] = 230
            boxes[number] = left - 5, top - 3, 30, 18
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
    writer.release()
    boxes[6, 2] = 3.0
    np.savez(folder / "boxes.npz", IR_DRONE_001=boxes)


def write_hit_uav(folder: Path) -> None:
    """Two stills of one place, moved by 6 px, and one of another."""
    folder.mkdir(parents=True)
    place = texture(200, 260, 0)
    stills = {
        "0_60_30_0_00001.jpg": place[:192, :240],
        "0_60_30_0_00002.jpg": place[:192, 6:246],
        "1_90_30_0_00001.jpg": texture(192, 240, 1),
    }
    for name, pixels in stills.items():
        cv2.imwrite(str(folder / name), pixels)
    # Out of order on purpose: the reader sorts.
    images = [{"id": number, "file_name": name} for number, name in enumerate(sorted(stills, reverse=True))]
    annotations = [
        {"image_id": 2, "category_id": 1, "bbox": [100, 80, 30, 16]},
        {"image_id": 2, "category_id": 0, "bbox": [30, 30, 8, 14]},
        {"image_id": 1, "category_id": 0, "bbox": [24, 30, 8, 14]},
        {"image_id": 1, "category_id": 1, "bbox": [95, 80, 30, 16]},
        {"image_id": 1, "category_id": DONT_CARE, "bbox": [150, 150, 30, 30]},
        {"image_id": 0, "category_id": 2, "bbox": [24, 30, 8, 14]},
        {"image_id": 0, "category_id": 2, "bbox": [60, 60, 3, 14]},
    ]
    (folder / "train.json").write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


def write_seek(folder: Path) -> None:
    """Two stills, one in false colour; YOLO boxes."""
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "cheetah_1.jpg"), noise(80, 60, 0))
    (folder / "cheetah_1.txt").write_text("0 0.5 0.25 0.4 0.2\n1 0.5 0.75 0.5 0.5\n0 0.1 0.1 0.01 0.01\n", encoding="utf-8")
    cv2.imwrite(str(folder / "dogs_1.jpg"), cv2.applyColorMap(noise(60, 80, 1), cv2.COLORMAP_JET))
    (folder / "dogs_1.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")


def write_davis(folder: Path) -> None:
    """Two sequences of two frames."""
    folder.mkdir(parents=True)
    with (folder / "boxes.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        for sequence in ("cows", "dog"):
            (folder / sequence).mkdir()
            for number, frame in enumerate(("00000", "00004")):
                cv2.imwrite(str(folder / sequence / f"{frame}.jpg"), texture(90, 160, number))
                rows.writerow((sequence, frame, 20.5 + number, 30.0, 40.0, 25.5))


def write_training_folder(data: Path) -> None:
    """A small copy of the training folder."""
    write_ir_video(data / "ir_video")
    write_hit_uav(data / "hit_uav")
    write_seek(data / "seek")
    write_davis(data / "davis")


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    folder = tmp_path_factory.mktemp("training")
    write_training_folder(folder)
    return folder


# Readers


def test_video_frames_are_thinned_and_their_boxes_tightened(small_data: Path) -> None:
    read = list(read_ir_video(small_data / "ir_video", step=1))
    # Frame 3 lacks the target, in frame 6 its box is too narrow.
    assert len(read) == CLIP_FRAMES - 2
    assert {(shot.source, shot.scene) for shot in read} == {("ir_video", "IR_DRONE_001")}
    for number, shot in zip((0, 1, 2, 4, 5), read, strict=True):
        ((name, box),) = shot.objects
        assert name == "target" and shot.pixels.shape == (120, 160) and shot.pixels.dtype == np.uint8
        true, loose = (40 + 4 * number, 50, 20, 12), (35 + 4 * number, 47, 30, 18)
        assert float(iou(box, true)) > 0.75 > float(iou(loose, true))
    thinned = list(read_ir_video(small_data / "ir_video", step=2))
    assert [shot.pixels.tobytes() for shot in thinned] == [read[k].pixels.tobytes() for k in (0, 2, 3)]


def test_stills_are_sorted_and_their_objects_followed(small_data: Path) -> None:
    first, second, other = read_hit_uav(small_data / "hit_uav")
    assert (first.scene, second.scene, other.scene) == ("0_60_30_0", "0_60_30_0", "1_90_30_0")
    car, person = first.objects
    assert car == ("0_60_30_0_00001.jpg#0", Box(100.0, 80.0, 30.0, 16.0))
    # Listed the other way round, without the object to be ignored, and under the first still's names.
    assert second.objects == ((person[0], Box(24.0, 30.0, 8.0, 14.0)), (car[0], Box(95.0, 80.0, 30.0, 16.0)))
    # Another place starts anew; the object of 3 px is left out.
    assert other.objects == (("1_90_30_0_00001.jpg#0", Box(24.0, 30.0, 8.0, 14.0)),)


def test_yolo_boxes_are_pixels(small_data: Path) -> None:
    cheetah, dogs = read_seek(small_data / "seek")
    assert cheetah.scene == "cheetah_1" and cheetah.pixels.shape == (80, 60)
    # The third object is smaller than 4 px.
    assert [name for name, _ in cheetah.objects] == ["0", "1"]
    assert cheetah.objects[0][1] == pytest.approx((18.0, 12.0, 24.0, 16.0))
    assert cheetah.objects[1][1] == pytest.approx((15.0, 40.0, 30.0, 40.0))
    assert dogs.pixels.shape == (60, 80) and dogs.objects[0][1] == pytest.approx((20.0, 15.0, 40.0, 30.0))


def test_visible_sequences_become_grey(small_data: Path) -> None:
    read = list(read_davis(small_data / "davis"))
    assert [shot.scene for shot in read] == ["cows", "cows", "dog", "dog"]
    assert read[1].objects == (("target", Box(21.5, 30.0, 40.0, 25.5)),)
    assert all(shot.pixels.shape == (90, 160) for shot in read)


def test_a_training_folder_becomes_a_store(small_data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / name, read_all(small_data))
    index = FrameStore(tmp_path / "a").index
    # Of the clip frame 0 only: 3 lacks the target, 6 is too small.
    assert [int((index.track_source == name).sum()) for name in SETS] == [1, 3, 3, 2]
    assert len(index.frame_offset) == 1 + 3 + 2 + 4 and len(index.box_frame) == 1 + 5 + 3 + 4
    for file in (FRAMES_FILE, INDEX_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_missing_folder_or_set_is_named_before_anything_is_read(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"got no folder .*nowhere, expected one with ir_video, hit_uav, seek, davis"):
        read_all(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"without ir_video, hit_uav, seek, davis, expected"):
        read_all(tmp_path)
    with pytest.raises(SourceError, match="got no folder"):
        read_all(small_data / "davis" / "boxes.csv")


READERS: dict[str, Callable[[Path], object]] = {
    "ir_video": lambda folder: list(read_ir_video(folder, step=3)),
    "hit_uav": lambda folder: list(read_hit_uav(folder)),
    "seek": lambda folder: list(read_seek(folder)),
    "davis": lambda folder: list(read_davis(folder)),
}


@pytest.mark.parametrize("name", SETS)
def test_an_empty_set_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"got no .*check the data folder"):
        READERS[name](tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("ir_video", "IR_DRONE_001.mp4", "got no .*IR_DRONE_001.mp4, expected a video"),
        ("hit_uav", "0_60_30_0_00002.jpg", "got no .*00002.jpg, expected an image"),
        ("seek", "cheetah_1.txt", "got no .*cheetah_1.txt, expected the boxes"),
        ("davis", "dog/00004.jpg", "got no .*00004.jpg, expected an image"),
    ],
)
def test_a_missing_file_is_named(name: str, file: str, message: str, tmp_path: Path) -> None:
    write_training_folder(tmp_path)
    (tmp_path / name / file).unlink()
    with pytest.raises(SourceError, match=message):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("ir_video", "boxes.npz", b""),
        ("ir_video", "boxes.npz", b"PK no zip"),
        ("ir_video", "IR_DRONE_001.mp4", b"no video"),
        ("hit_uav", "train.json", b"{"),
        ("hit_uav", "train.json", b"[]"),
        ("hit_uav", "train.json", b'{"images": [], "annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 2, 9, 9]}]}'),
        ("hit_uav", "train.json", b'{"images": [{"id": 0}], "annotations": []}'),
        ("hit_uav", "1_90_30_0_00001.jpg", b"no image"),
        ("seek", "dogs_1.txt", b"0 0.5 0.5 0.5\n"),
        ("seek", "dogs_1.txt", b"dog 0.5 0.5 0.5 0.5\n"),
        ("davis", "boxes.csv", b"cows,00000,1,2,3\n"),
        ("davis", "boxes.csv", b"cows,00000,1,2,3,wide\n"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    write_training_folder(tmp_path)
    (tmp_path / name / file).write_bytes(content)
    with pytest.raises(SourceError, match=file) as caught:
        READERS[name](tmp_path / name)
    assert "\n" not in str(caught.value) and "get the file again" in str(caught.value)


@pytest.mark.parametrize("frames", [CLIP_FRAMES - 1, CLIP_FRAMES + 1])
def test_a_clip_of_another_length_than_its_boxes_is_refused(frames: int, tmp_path: Path) -> None:
    write_ir_video(tmp_path / "set")
    np.savez(tmp_path / "set" / "boxes.npz", IR_DRONE_001=np.full((frames, 4), 20.0, np.float32))
    with pytest.raises(SourceError, match=f"got {CLIP_FRAMES} frames of .*IR_DRONE_001.mp4, expected {frames}"):
        list(read_ir_video(tmp_path / "set", step=3))


# The real sets


def test_the_real_clips(shared: Path) -> None:
    folder = shared / "data" / "train" / "ir_video"
    with np.load(folder / "boxes.npz") as tables:
        rows = {name: tables[name] for name in tables.files}
    assert len(rows) == 303 and sum(int(np.isfinite(boxes).all(axis=1).sum()) for boxes in rows.values()) == 92_065
    assert {f"ir_video/{name}" for name in rows} >= {name for name in HELD_OUT if name.startswith("ir_video/")}
    lengths = {}
    for name in rows:
        capture = cv2.VideoCapture(str(folder / f"{name}.mp4"))
        lengths[name] = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
    assert lengths == {name: len(boxes) for name, boxes in rows.items()}


def test_a_real_clip_is_read_to_its_end(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "train" / "ir_video"
    with np.load(folder / "boxes.npz") as tables:
        name = min(tables.files, key=lambda each: len(tables[each]))
        np.savez(tmp_path / "boxes.npz", **{name: tables[name]})
        annotated = int(np.isfinite(tables[name][::3]).all(axis=1).sum())
    (tmp_path / f"{name}.mp4").symlink_to(folder / f"{name}.mp4")
    read = list(read_ir_video(tmp_path, step=3))
    assert 0 < len(read) <= annotated and all(shot.pixels.shape == (256, 320) for shot in read)


def test_the_real_stills(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "train" / "hit_uav"
    coco = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    names = {image["file_name"]: image["id"] for image in coco["images"]}
    assert len(names) == len(coco["images"]) == 2_029 and len(coco["annotations"]) == 17_628
    assert all((folder / name).is_file() for name in names)
    # One place of several stills, read whole: people and cars are found again from still to still.
    place = sorted(name for name in names if name.startswith("0_60_30_0_"))[:8]
    chosen = {names[name] for name in place}
    part = {
        "images": [image for image in coco["images"] if image["id"] in chosen],
        "annotations": [annotation for annotation in coco["annotations"] if annotation["image_id"] in chosen],
    }
    (tmp_path / "train.json").write_text(json.dumps(part), encoding="utf-8")
    for name in place:
        (tmp_path / name).symlink_to(folder / name)
    read = list(read_hit_uav(tmp_path))
    sightings = [name for shot in read for name, _ in shot.objects]
    assert len(read) == 8 and len(sightings) > 8
    assert 1 < len(set(sightings)) < len(sightings)


def test_the_real_seek_and_davis(shared: Path) -> None:
    data = shared / "data" / "train"
    assert len(list((data / "seek").glob("*.jpg"))) == 129 + 203
    assert sum(len(shot.objects) for shot in read_seek(data / "seek")) == 488
    davis = list(read_davis(data / "davis"))
    assert len(davis) == 267
    scenes = {f"davis/{shot.scene}" for shot in davis}
    assert len(scenes) == 15 and scenes >= {name for name in HELD_OUT if name.startswith("davis/")}
    for shot in davis:
        assert shot.pixels.shape == (270, 480)
        shot.objects[0][1].checked((270, 480))
