"""Each data set in a tiny copy of its published layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.evaluation.datasets import KINDS, open_dataset
from trackctl.evaluation.follow import play
from trackctl.evaluation.sequence import Sequence
from trackctl.runtime.errors import InputError, SourceError

HW = (24, 32)


def images(folder: Path, count: int, pattern: str = "{:04d}.jpg", first: int = 1, dtype: str = "uint8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        # Each frame has its number as gray level, so that a test sees which ones are read.
        cv2.imwrite(str(folder / pattern.format(number)), np.full(HW, number, dtype=dtype))
    return folder


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def video(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (HW[1], HW[0]))
    for number in range(count):
        writer.write(np.full((*HW, 3), 40 * number, dtype=np.uint8))
    writer.release()
    return path


def only(kind: str, path: Path) -> Sequence:
    (sequence,) = open_dataset(f"{kind}:{path}").sequences
    return sequence


def levels(sequence: Sequence) -> list[int]:
    """The gray level of each frame, which is its number."""
    assert sequence.clip is not None
    with sequence.clip.open() as source:
        return [round(float(frame.pixels.mean())) for frame in source]


BOXES = ("11,6,8,10", "12,6,8,10", "13,6,8,10")


def test_otb(tmp_path: Path) -> None:
    images(tmp_path / "Crossing" / "img", 3)
    text(tmp_path / "Crossing" / "groundtruth_rect.txt", "11,6,8,10", "12\t6\t8\t10", "13 6 8 10")
    text(tmp_path / "Crossing" / "attrs.txt", "SV, DEF, FM")
    images(tmp_path / "Jogging" / "img", 3)
    for number in (1, 2):
        text(tmp_path / "Jogging" / f"groundtruth_rect.{number}.txt", *BOXES)
    text(tmp_path / "att" / "Jogging-1.txt", "0,1,0,1,0,0,0,0,0,0,0")
    images(tmp_path / "Human4" / "img", 3)
    text(tmp_path / "Human4" / "groundtruth_rect.2.txt", *BOXES)
    (tmp_path / "Human4" / "groundtruth_rect.1.txt").touch()
    dataset = open_dataset(f"otb:{tmp_path}")
    by_name = {sequence.name: sequence for sequence in dataset.sequences}
    assert sorted(by_name) == ["Crossing", "Human4-2", "Jogging-1", "Jogging-2"]
    assert by_name["Crossing"].truth_ltwh.tolist() == [[10, 5, 8, 10], [11, 5, 8, 10], [12, 5, 8, 10]]
    assert by_name["Crossing"].attributes == ("SV", "DEF", "FM")
    assert by_name["Jogging-1"].attributes == ("OPR", "OCC")
    assert levels(by_name["Human4-2"]) == [1, 2, 3]
    assert dataset.protocol == "otb"
    assert dataset.results.one_based


def test_otb_images_before_and_after_the_annotation(tmp_path: Path) -> None:
    images(tmp_path / "Diving" / "img", 5)
    text(tmp_path / "Diving" / "groundtruth_rect.txt", *BOXES)
    (tmp_path / "David" / "img").mkdir(parents=True)
    for number in (1, 299, 300, 301, 302):
        cv2.imwrite(str(tmp_path / "David" / "img" / f"{number:04d}.jpg"), np.full(HW, number % 250, dtype=np.uint8))
    text(tmp_path / "David" / "groundtruth_rect.txt", *BOXES)
    david, diving = open_dataset(f"otb:{tmp_path}").sequences
    assert (levels(david), levels(diving)) == ([50, 51, 52], [1, 2, 3])


@pytest.mark.parametrize(("kind", "count", "marked"), [("lsotb", 16, "thermal crossover"), ("ptb", 10, "thermal crossover")])
def test_thermal_descendants_of_otb(tmp_path: Path, kind: str, count: int, marked: str) -> None:
    images(tmp_path / "eval" / "airplane" / "img", 3, "{:08d}.jpg")
    text(tmp_path / "eval" / "airplane" / "groundtruth_rect.txt", *BOXES)
    at = {"lsotb": 8, "ptb": 9}[kind]
    text(tmp_path / "anno" / "att" / "airplane.txt", ",".join("1" if index == at else "0" for index in range(count)))
    sequence = only(kind, tmp_path)
    assert sequence.attributes == (marked,)
    assert levels(sequence) == [1, 2, 3]
    text(tmp_path / "anno" / "att" / "airplane.txt", "0,1")
    with pytest.raises(InputError, match=rf"airplane\.txt has 2 attributes, expected {count}"):
        open_dataset(f"{kind}:{tmp_path}")


def test_lasot(tmp_path: Path) -> None:
    folder = tmp_path / "airplane" / "airplane-1"
    images(folder / "img", 4, "{:08d}.jpg")
    text(folder / "groundtruth.txt", *BOXES, "0,0,0,0")
    text(folder / "full_occlusion.txt", "1,0,0,0")
    text(folder / "out_of_view.txt", "0,1,0,0")
    sequence = only("lasot", tmp_path)
    assert sequence.name == "airplane-1"
    # The first box is kept whatever its label says; the others are absent by label or have no area.
    assert np.isnan(sequence.truth_ltwh).all(axis=1).tolist() == [False, True, False, True]
    assert levels(sequence) == [1, 2, 3, 4]


def test_lasot_annotations_of_the_evaluation_toolkit(tmp_path: Path) -> None:
    text(tmp_path / "annos" / "airplane-1.txt", *BOXES)
    text(tmp_path / "annos" / "absent" / "airplane-1.txt", "0", "0", "1")
    text(tmp_path / "annos" / "att" / "airplane-1.txt", ",".join(["1"] + ["0"] * 12 + ["1"]))
    sequence = only("lasot", tmp_path)
    assert sequence.attributes == ("IV", "ARC")
    assert np.isnan(sequence.truth_ltwh[:, 0]).tolist() == [False, False, True]
    assert sequence.clip is None


def test_got10k(tmp_path: Path) -> None:
    folder = images(tmp_path / "val" / "GOT-10k_Val_000001", 3, "{:08d}.jpg")
    text(tmp_path / "val" / "list.txt", "GOT-10k_Val_000001")
    text(folder / "groundtruth.txt", "11.0000,6.0000,8.0000,10.0000", *BOXES[1:])
    text(folder / "cover.label", "8", "0", "8")
    text(folder / "meta_info.ini", "[METAINFO]", "url: x", "resolution: (32, 24)")
    dataset = open_dataset(f"got10k:{tmp_path}")
    (sequence,) = dataset.sequences
    assert sequence.frame_hw == HW
    assert np.isnan(sequence.truth_ltwh[:, 0]).tolist() == [False, True, False]
    assert levels(sequence) == [1, 2, 3]
    assert dataset.results.path(Path("out"), sequence.name) == Path("out/GOT-10k_Val_000001/GOT-10k_Val_000001_001.txt")
    text(folder / "groundtruth.txt", BOXES[0])
    with pytest.raises(InputError, match="only the first box: the annotation of the test set is kept by its server"):
        open_dataset(f"got10k:{tmp_path}")


def test_uav123(tmp_path: Path) -> None:
    annotations = tmp_path / "anno" / "UAV123"
    images(tmp_path / "data_seq" / "UAV123" / "bike1", 3, "{:06d}.jpg")
    text(annotations / "bike1.txt", BOXES[0], "NaN,NaN,NaN,NaN", BOXES[2])
    text(annotations / "att" / "bike1.txt", "1,0,0,0,0,0,0,0,0,0,0,1")
    folder = images(tmp_path / "data_seq" / "UAV123" / "truck4", 4, "{:06d}.jpg")
    for number in (577, 578, 579, 580):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), np.full(HW, number - 500, dtype=np.uint8))
    text(annotations / "truck4_1.txt", *BOXES)
    text(annotations / "truck4_2.txt", *BOXES)
    bike, first, second = open_dataset(f"uav123:{tmp_path}").sequences
    assert bike.attributes == ("SV", "SOB")
    assert np.isnan(bike.truth_ltwh[:, 0]).tolist() == [False, True, False]
    assert (levels(bike), levels(first), levels(second)) == ([1, 2, 3], [1, 2, 3], [77, 78, 79])


POLYGONS = ("10,5,20,5,20,15,10,15", "11,5,21,6,20,16,10,15", "12,5,22,6,21,16,11,15")


@pytest.mark.parametrize(("kind", "inside"), [("vot2015", ""), ("vot2018", "color"), ("vottir2017", "")])
def test_vot(tmp_path: Path, kind: str, inside: str) -> None:
    folder = tmp_path / "bag"
    images(folder / inside, 3, "{:08d}.jpg")
    text(folder / "groundtruth.txt", *POLYGONS)
    text(folder / "occlusion.tag", "0", "1")
    text(folder / "camera_motion.label", "1", "0", "0")
    text(tmp_path / "list.txt", "bag")
    dataset = open_dataset(f"{kind}:{tmp_path}")
    (sequence,) = dataset.sequences
    assert sequence.corners_xy is not None
    assert sequence.corners_xy[1].tolist() == [[11, 5], [21, 6], [20, 16], [10, 15]]
    assert sequence.truth_ltwh[1].tolist() == [10, 5, 11, 11]
    assert {name: flags.tolist() for name, flags in sequence.tags.items()} == {
        "occlusion": [False, True, False],
        "camera_motion": [True, False, False],
    }
    assert sequence.size_hw() == HW
    assert levels(sequence) == [1, 2, 3]
    text(tmp_path / "list.txt", "bag", "ball")
    with pytest.raises(InputError, match=r"list\.txt line 2: there is no .*ball"):
        open_dataset(f"{kind}:{tmp_path}")


def test_vot_with_masks_says_what_to_use_instead(tmp_path: Path) -> None:
    text(tmp_path / "bag" / "groundtruth.txt", "m10,5,3,3,0,9")
    with pytest.raises(InputError, match="official vot-toolkit"):
        open_dataset(f"vot2019:{tmp_path}")


def test_vot2020_rgbt(tmp_path: Path) -> None:
    folder = tmp_path / "car10"
    images(folder / "color", 3, "{:08d}.jpg")
    images(folder / "ir", 3, "{:08d}i.jpg", first=1)
    text(folder / "groundtruth.txt", "10,5,10,10", "11,5,10,10", "12,5,10,10")
    text(folder / "anchor.value", "1", "0", "-1")
    text(tmp_path / "list.txt", "car10")
    sequence = only("votrgbt2020", tmp_path)
    assert sequence.anchors is not None
    assert sequence.anchors.tolist() == [1, 0, -1]
    assert sequence.corners_xy is None
    assert sequence.infrared is not None
    assert len(sequence.infrared.images()) == 3


def test_gtot(tmp_path: Path) -> None:
    folder = tmp_path / "BlackCar"
    for camera in ("v", "i"):
        images(folder / camera, 3, "{:05d}.png")
    text(folder / "groundTruth_v.txt", "11 6 19 16", "20 16 12 6", "13 6 21 16")
    text(folder / "groundTruth_i.txt", "12 6 20 16", "13 6 21 16", "14 6 22 16")
    sequence = only("gtot", tmp_path)
    assert sequence.truth_ltwh.tolist() == [[10, 5, 8, 10], [11, 5, 8, 10], [12, 5, 8, 10]]
    assert sequence.infrared_ltwh is not None
    assert sequence.infrared_ltwh[0].tolist() == [11, 5, 8, 10]
    assert levels(sequence) == [1, 2, 3]


def test_rgbt234(tmp_path: Path) -> None:
    folder = tmp_path / "afterrain"
    images(folder / "visible", 3, "{:05d}v.jpg")
    images(folder / "infrared", 3, "{:05d}i.jpg")
    text(folder / "visible.txt", *BOXES)
    text(folder / "infrared.txt", *BOXES)
    text(tmp_path / "attr_txt" / "SequencesName.txt", "other", "afterrain")
    text(tmp_path / "attr_txt" / "BC.txt", "0", "1")
    text(tmp_path / "attr_txt" / "TC.txt", "1", "0")
    sequence = only("rgbt234", tmp_path)
    assert sequence.attributes == ("BC",)
    assert levels(sequence) == [1, 2, 3]
    text(folder / "infrared.txt", *BOXES[:2])
    with pytest.raises(InputError, match=r"has 3 lines and the infrared annotation beside it 2"):
        open_dataset(f"rgbt234:{tmp_path}")


def test_lasher(tmp_path: Path) -> None:
    folder = tmp_path / "testingset" / "10runone"
    images(folder / "visible", 3, "v{:06d}.jpg")
    images(folder / "infrared", 3, "i{:06d}.jpg")
    text(folder / "init.txt", *BOXES)
    text(tmp_path / "AttriSeqsTxt" / "10runone.txt", "1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1")
    sequence = only("lasher", tmp_path)
    assert sequence.attributes == ("NO", "ARC")
    assert sequence.infrared is not None
    assert levels(sequence) == [1, 2, 3]


@pytest.mark.parametrize("inside", ["HSI", ""])
def test_hot(tmp_path: Path, inside: str) -> None:
    folder = images(tmp_path / "ball" / inside, 3, "{:04d}.png", dtype="uint16")
    text(folder / "groundtruth_rect.txt", "10\t5\t8\t10\t", "11\t5\t8\t10\t", "12\t5\t8\t10\t")
    if inside:
        images(tmp_path / "ball" / "HSI-FalseColor", 3)
        text(tmp_path / "ball" / "HSI-FalseColor" / "groundtruth_rect.txt", *BOXES)
    sequence = only("hot", tmp_path)
    assert sequence.name == "ball"
    assert sequence.truth_ltwh[0].tolist() == [10, 5, 8, 10]
    assert levels(sequence) == [1, 2, 3]


@pytest.mark.parametrize(("inside", "bands"), [("HSI", 16), ("HSI-NIR", 25), ("HSI-RedNIR", 15), ("HSI-FalseColor", 0)])
@pytest.mark.parametrize("described", ["", "sensor.toml", "../sensor.toml"])
def test_hot_frames_carry_their_sensor(tmp_path: Path, inside: str, bands: int, described: str) -> None:
    folder = tmp_path / "set" / "ball" / inside
    folder.mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 80), number + 1, np.uint16))
    text(folder / "groundtruth_rect.txt", *BOXES)
    if described:
        text(folder / described, "pattern = 4", "dead = [3, 4]")
    sequence = only("hot", tmp_path / "set" / "ball")
    frames = list(play(sequence, np.array([2, 0])))
    assert [int(frame.pixels[0, 0]) for frame in frames] == [3, 1]
    found = frames[0].sensor
    assert (0 if found is None else found.count) == (14 if described else bands)
    assert sequence.clip is not None
    assert next(iter(sequence.clip.open())).sensor == found


def test_antiuav_video_and_text(tmp_path: Path) -> None:
    video(tmp_path / "video_5" / "video.avi", 3)
    text(tmp_path / "video_5" / "groundtruth.txt", "10.5 5 8 10", "11 5 8 10", "12 5 8 10")
    sequence = only("antiuav", tmp_path)
    assert sequence.truth_ltwh[0].tolist() == [10.5, 5, 8, 10]
    assert [round(level / 40) for level in levels(sequence)] == [0, 1, 2]


def test_antiuav_label_files(tmp_path: Path) -> None:
    folder = tmp_path / "01_2323_0001-1500"
    images(folder, 3, "{:06d}.jpg")
    label = {"exist": [1, 0, 1], "gt_rect": [[10, 5, 8, 10], [], [12, 5, 8, 10]]}
    (folder / "IR_label.json").write_text(json.dumps(label))
    sequence = only("antiuav", tmp_path)
    assert np.isnan(sequence.truth_ltwh[:, 0]).tolist() == [False, True, False]
    assert levels(sequence) == [1, 2, 3]
    (folder / "IR_label.json").write_text(json.dumps({"exist": [1]}))
    with pytest.raises(InputError, match=r"IR_label\.json"):
        open_dataset(f"antiuav:{tmp_path}")


def test_a_folder_of_images_or_a_video_with_boxes(tmp_path: Path) -> None:
    images(tmp_path / "walk", 3, "{:04d}.png")
    text(tmp_path / "walk" / "groundtruth.txt", *BOXES)
    sequence = only("folder", tmp_path / "walk")
    assert sequence.name == "walk"
    assert sequence.truth_ltwh[0].tolist() == [11, 6, 8, 10]
    assert levels(sequence) == [1, 2, 3]
    clip = video(tmp_path / "drone.avi", 3)
    text(tmp_path / "drone.txt", *BOXES)
    assert [round(level / 40) for level in levels(only("folder", clip))] == [0, 1, 2]
    with pytest.raises(InputError, match="found no boxes for"):
        open_dataset(f"folder:{video(tmp_path / 'other.avi', 3)}")


def test_the_json_form_of_pysot(tmp_path: Path) -> None:
    images(tmp_path / "Crossing" / "img", 2)
    entry = {
        "video_dir": "Crossing",
        "init_rect": [11, 6, 8, 10],
        "img_names": ["Crossing/img/0001.jpg", "Crossing/img/0002.jpg"],
        "gt_rect": [[11, 6, 8, 10], [12, 6, 8, 10]],
        "attr": ["SV", "BC"],
    }
    (tmp_path / "OTB100.json").write_text(json.dumps({"Crossing": entry}))
    for path in (tmp_path, tmp_path / "OTB100.json"):
        sequence = only("otb", path)
        assert sequence.truth_ltwh.tolist() == [[10, 5, 8, 10], [11, 5, 8, 10]]
        assert sequence.attributes == ("SV", "BC")
        assert levels(sequence) == [1, 2]
    (tmp_path / "OTB100.json").write_text(json.dumps({"Crossing": {**entry, "img_names": ["one.jpg"]}}))
    with pytest.raises(InputError, match="'Crossing' has 1 images and 2 boxes"):
        open_dataset(f"otb:{tmp_path}")


def damage_otb(folder: Path) -> None:
    images(folder / "Car" / "img", 3)
    text(folder / "Car" / "groundtruth_rect.txt", *BOXES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda car: text(car / "groundtruth_rect.txt", "0,0,0,0", *BOXES),
            r"groundtruth_rect\.txt line 1: got .*a box with area",
        ),
        (lambda car: text(car / "groundtruth_rect.txt", *BOXES, "a,b,c,d"), r"groundtruth_rect\.txt line 4: got 'a'"),
        (lambda car: text(car / "groundtruth_rect.txt", *BOXES, "1,2,3"), r"groundtruth_rect\.txt line 4: got 3 numbers"),
        (lambda car: text(car / "groundtruth_rect.txt", BOXES[0], "nan,1,2,3"), r"groundtruth_rect\.txt line 2: .*finite"),
        (lambda car: (car / "groundtruth_rect.txt").write_text(""), r"groundtruth_rect\.txt is empty"),
        (lambda car: (car / "groundtruth_rect.txt").unlink(), "found no OTB annotation in"),
    ],
)
def test_damaged_annotations(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    damage_otb(tmp_path)
    change(tmp_path / "Car")
    with pytest.raises(InputError, match=words):
        open_dataset(f"otb:{tmp_path}")


def test_a_missing_image_is_found_when_the_frames_are_read(tmp_path: Path) -> None:
    damage_otb(tmp_path)
    sequence = only("otb", tmp_path)
    (tmp_path / "Car" / "img" / "0002.jpg").unlink()
    assert sequence.clip is not None
    with pytest.raises(InputError, match="holds 2 images, expected 3 as annotated"):
        sequence.clip.open()
    (tmp_path / "Car" / "img" / "0002.jpg").write_bytes(b"no image")
    with sequence.clip.open() as source, pytest.raises(SourceError, match=r"0002\.jpg"):
        list(source)


def test_more_images_than_boxes_are_an_error_where_the_data_set_has_none(tmp_path: Path) -> None:
    images(tmp_path / "walk", 4)
    text(tmp_path / "walk" / "groundtruth.txt", *BOXES)
    sequence = only("folder", tmp_path / "walk")
    assert sequence.clip is not None
    with pytest.raises(InputError, match="holds 4 images, expected 3"):
        sequence.clip.open()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("otb", "expected KIND:PATH such as otb:data"),
        ("obt:/tmp", "expected KIND:PATH such as otb:data"),
        ("otb:nowhere", "there is no nowhere"),
    ],
)
def test_wrong_names(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_dataset(name)


def test_two_sequences_of_one_name_are_an_error(tmp_path: Path) -> None:
    for subset in ("train", "val"):
        damage_otb(tmp_path / subset)
    with pytest.raises(InputError, match="several sequences called 'Car'"):
        open_dataset(f"ptb:{tmp_path}")


def test_annotations_are_read_only(tmp_path: Path) -> None:
    damage_otb(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        only("otb", tmp_path).truth_ltwh[0] = 0.0


def test_every_kind_has_a_protocol() -> None:
    from trackctl.evaluation.protocol import PROTOCOLS

    assert {kind.protocol for kind in KINDS.values()} <= set(PROTOCOLS)
