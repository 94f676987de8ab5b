"""Bundles over data sets: files, resuming, settings, restarts."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rendered import make_bundle, make_otb, make_vot

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.follow import follow, initial_box, starts
from trackctl.evaluation.protocol import PROTOCOLS, OpeProtocol, ResetProtocol
from trackctl.evaluation.realtime import Camera
from trackctl.evaluation.report import Entry
from trackctl.evaluation.reset import read_reset_run
from trackctl.evaluation.run import evaluate
from trackctl.evaluation.scoring import score_results
from trackctl.evaluation.sequence import DataSet, ResultFormat
from trackctl.evaluation.workers import work
from trackctl.runtime.confidence import Status
from trackctl.runtime.errors import InputError, TrackctlError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box
from trackctl.runtime.tracker import Result

ENGINE = "onnxruntime"


class Scripted:
    """A tracker whose box on frame ``k`` is ``boxes[k]``, or else the one it was given; remembers what it was asked."""

    def __init__(self, boxes: Mapping[int, Box]) -> None:
        self.boxes, self.asked, self.given = boxes, [], []

    def init(self, frame: Frame, box: Any) -> None:
        self.given.append((frame.index, Box(*box)))

    def update(self, frame: Frame) -> Result:
        self.asked.append(frame.index)
        return Result(self.boxes.get(frame.index, self.given[-1][1]), 1.0, Status.TRACKING, {}, {})


def check_shares(entry: Entry) -> None:
    """The weighted means of the parts are the scores; a score without any part is undefined."""
    for score, shares in entry.shares.items():
        total, weight = sum(share.value * share.weight for share in shares.values()), sum(s.weight for s in shares.values())
        mean = total / weight if weight else np.nan
        assert mean == pytest.approx(entry.scores.overall[score], abs=1e-12, nan_ok=True)
    assert any(entry.shares.values())


@pytest.fixture(scope="module")
def otb(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_otb(tmp_path_factory.mktemp("data") / "otb")


@pytest.fixture(scope="module")
def vot(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_vot(tmp_path_factory.mktemp("data") / "vot")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "made").path


def timeless(out: Path) -> list[dict[str, Any]]:
    """What a report says, without what the machine's speed decides."""
    report = json.loads((out / "scores.json").read_text())
    return [{key: value for key, value in entry.items() if key not in ("speed", "realtime")} for entry in report["bundles"]]


def results(out: Path) -> dict[str, bytes]:
    """The plain result files below a folder."""
    files = sorted(path for path in out.rglob("plain/**/*.txt") if not path.stem.endswith("_time"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_writes_results_in_the_format_of_the_data_set(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = evaluate([bundle], otb, tmp_path, engine=ENGINE, on_progress=lambda *what: told.append(what))
    assert [done for _, done, _ in told] == [1, 2, 3, 4] and {total for *_, total in told} == {4}
    (entry,) = report.entries
    assert (entry.name, entry.system, entry.precision, entry.engine) == ("tiny.trk", "tiny", "fp32", ENGINE)
    plain = tmp_path / "tiny.trk/plain"
    first = (plain / "clip00.txt").read_text().splitlines()
    truth = (otb.path / "clip00/groundtruth_rect.txt").read_text().splitlines()
    assert len(first) == 12 and [float(v) for v in first[0].split(",")] == [float(v) for v in truth[0].split(",")]
    times = np.loadtxt(plain / "clip00_time.txt")
    assert np.isnan(times[0]) and (times[1:] > 0).all()
    # The same numbers as scoring the folder alone.
    assert score_results(plain, otb).to_json() == entry.scores.to_json()
    assert entry.speed.updates == 4 * 11 and 0 < entry.speed.p50_ms <= entry.speed.p99_ms
    # The parts of each mean give the mean.
    check_shares(entry)


def test_a_second_run_runs_nothing_and_says_the_same(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    evaluate([bundle], otb, tmp_path, engine=ENGINE, realtime_fps=1e-3)
    before = (tmp_path / "scores.json").read_bytes(), (tmp_path / "report.html").read_bytes()
    told: list[object] = []
    evaluate([bundle], otb, tmp_path, engine=ENGINE, realtime_fps=1e-3, on_progress=lambda *what: told.append(what))
    assert told == []
    assert before == ((tmp_path / "scores.json").read_bytes(), (tmp_path / "report.html").read_bytes())


def test_processes_give_the_same_bits(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    evaluate([bundle], otb, tmp_path / "one", engine=ENGINE)
    evaluate([bundle], otb, tmp_path / "two", engine=ENGINE, jobs=2)
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert timeless(tmp_path / "one") == timeless(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"engine": "openvino"}, "engine was"),
        ({"threads": 2}, "threads was 1, is 2"),
        ({"realtime_fps": 30.0}, "realtime_fps was null, is 30.0"),
        ({"protocol": PROTOCOLS["lasot"]}, "protocol was"),
    ],
)
def test_other_settings_in_the_same_folder(otb: DataSet, bundle: Path, tmp_path: Path, change: dict[str, Any], what: str) -> None:
    evaluate([bundle], otb, tmp_path, engine=ENGINE)
    before = results(tmp_path)
    with pytest.raises(InputError, match=what):
        evaluate([bundle], otb, tmp_path, **{"engine": ENGINE, **change})
    assert results(tmp_path) == before


def test_another_data_set_or_another_bundle_in_the_same_folder(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    evaluate([bundle], otb, tmp_path / "out", engine=ENGINE)
    with pytest.raises(InputError, match="data set was"):
        evaluate([bundle], make_otb(tmp_path / "other", sequences=1), tmp_path / "out", engine=ENGINE)
    changed = tmp_path / "changed/tiny.trk"
    shutil.copytree(bundle, changed)
    manifest = json.loads((changed / "manifest.json").read_text())
    template = onnx.load(changed / "template.onnx")
    template.doc_string = "another export"
    onnx.save(template, changed / "template.onnx")
    manifest["graphs"]["template"]["sha256"] = hashlib.sha256((changed / "template.onnx").read_bytes()).hexdigest()
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="graphs was"):
        evaluate([changed], otb, tmp_path / "out", engine=ENGINE)


def test_results_that_no_run_explains(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    evaluate([bundle], otb, tmp_path, engine=ENGINE)
    (tmp_path / "tiny.trk/run.json").unlink()
    with pytest.raises(InputError, match=r"holds results but no run\.json"):
        evaluate([bundle], otb, tmp_path, engine=ENGINE)
    (tmp_path / "tiny.trk/run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        evaluate([bundle], otb, tmp_path, engine=ENGINE)


def test_two_runs_at_once_are_an_error(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    def again(*_: object) -> None:
        evaluate([bundle], otb, tmp_path, engine=ENGINE)

    with pytest.raises(InputError, match="another run is writing to"):
        evaluate([bundle], otb, tmp_path, engine=ENGINE, on_progress=again)


def test_bundles_and_data_that_do_not_do(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with different names"):
        evaluate([bundle, bundle], otb, tmp_path)
    with pytest.raises(InputError, match="got the bundles none"):
        evaluate([], otb, tmp_path)
    with pytest.raises(InputError, match="frames per second"):
        evaluate([bundle], otb, tmp_path, realtime_fps=0.0)
    with pytest.raises(InputError, match="got 0 jobs"):
        evaluate([bundle], otb, tmp_path, engine=ENGINE, jobs=0)
    (tmp_path / "gt").mkdir()
    shutil.copy(otb.path / "clip00/groundtruth_rect.txt", tmp_path / "gt/clip00.txt")
    with pytest.raises(InputError, match="an annotation but no images"):
        evaluate([bundle], open_dataset(f"otb:{tmp_path / 'gt'}"), tmp_path / "out", engine=ENGINE)


def test_real_time_with_a_slow_camera_is_the_plain_run(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    (entry,) = evaluate([bundle], otb, tmp_path, engine=ENGINE, realtime_fps=1e-3).entries
    assert entry.realtime is not None and entry.realtime.late == 0.0
    assert entry.realtime.scores.overall == entry.scores.overall


def test_real_time_with_a_camera_too_fast_sees_one_update(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    (entry,) = evaluate([bundle], otb, tmp_path, engine=ENGINE, realtime_fps=1e7).entries
    assert entry.realtime is not None and entry.realtime.late == pytest.approx(10 / 11)
    lines = (tmp_path / "tiny.trk/realtime/clip01.txt").read_text().splitlines()
    plain = (tmp_path / "tiny.trk/plain/clip01.txt").read_text().splitlines()
    assert lines[:2] == plain[:2] and set(lines[1:]) == {plain[1]}
    # A run that was killed before its real-time part takes the durations of its plain part, and comes to the same.
    before = (tmp_path / "scores.json").read_bytes()
    shutil.rmtree(tmp_path / "tiny.trk/realtime")
    evaluate([bundle], otb, tmp_path, engine=ENGINE, realtime_fps=1e7)
    assert (tmp_path / "scores.json").read_bytes() == before


def test_late_frames_keep_the_last_box(otb: DataSet) -> None:
    sequence = otb.sequences[0]
    tracker = Scripted({index: Box(index, index, 5, 5) for index in range(12)})
    camera = Camera(fps=10.0, seconds=np.array([np.nan, 0.25, 0.1, 0.1, 0.1, 0.35, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    (frames,) = starts(sequence, OpeProtocol()).values()
    run = follow(tracker, sequence, frames, OpeProtocol(), ResultFormat(), camera)
    assert tracker.asked == [1, 4, 5, 9, 10, 11]
    assert [line.split(".")[0] for line in run.lines[1:]] == ["1", "1", "1", "4", "5", "5", "5", "5", "9", "10", "11"]
    assert run.seconds[1:].tolist() == [0.25, 0.0, 0.0, 0.1, 0.35, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1]


def test_restarts_five_frames_after_a_failure(vot: DataSet, tmp_path: Path) -> None:
    sequence = vot.sequences[0]
    # Stays where it was put: the target jumps away at frame 15 and from then on stands still.
    tracker = Scripted({})
    (frames,) = starts(sequence, ResetProtocol()).values()
    run = follow(tracker, sequence, frames, ResetProtocol(), vot.results)
    codes = [line if "," not in line else "box" for line in run.lines]
    assert codes == ["1", *["box"] * 14, "2", "0", "0", "0", "0", "1", *["box"] * 9]
    assert [index for index, _ in tracker.given] == [0, 20]
    assert tracker.asked == [*range(1, 16), *range(21, 30)]
    (tmp_path / "jump0.txt").write_text(run.result_text())
    read = read_reset_run(tmp_path / "jump0.txt", sequence)
    assert np.isfinite(read.overlap).sum() == 23 and (read.overlap[np.isfinite(read.overlap)] > 0).all()


def test_a_restart_waits_for_the_target(vot: DataSet) -> None:
    assert vot.sequences[0].corners_xy is not None
    corners, boxes = vot.sequences[0].corners_xy.copy(), vot.sequences[0].truth_ltwh.copy()
    corners[18:23], boxes[18:23] = np.nan, np.nan
    sequence = replace(vot.sequences[0], corners_xy=corners, truth_ltwh=boxes)
    (frames,) = starts(sequence, ResetProtocol()).values()
    run = follow(Scripted({}), sequence, frames, ResetProtocol(), vot.results)
    assert run.lines[15:24] == ("2", *["0"] * 7, "1")


def test_a_polygon_starts_a_box_of_its_area(vot: DataSet) -> None:
    sequence = vot.sequences[0]
    box = initial_box(sequence, 0)
    assert sequence.corners_xy is not None
    sides = np.diff(sequence.corners_xy[0, :3], axis=0)
    assert box.width * box.height == pytest.approx(np.prod(np.hypot(*sides.T)))
    assert box.centre_xy == pytest.approx(sequence.corners_xy[0].mean(axis=0))


def test_the_reset_protocol_end_to_end(vot: DataSet, bundle: Path, tmp_path: Path) -> None:
    (entry,) = evaluate([bundle], vot, tmp_path, engine=ENGINE, realtime_fps=25.0).entries
    assert (tmp_path / "tiny.trk/plain/jump0/jump0_001.txt").is_file()
    assert entry.scores.overall["failures"] >= 2 and entry.realtime is not None
    check_shares(entry)
    assert "Failures" in (tmp_path / "report.html").read_text()


def test_anchors_end_to_end(bundle: Path, tmp_path: Path) -> None:
    make_vot(tmp_path / "data")
    for name in ("jump0", "jump1"):
        place = tmp_path / "data" / name
        (place / "color").rename(place / "ir")
        shutil.copytree(place / "ir", place / "color")
        np.savetxt(place / "groundtruth.txt", np.tile([20.0, 30.0, 24.0, 20.0], (30, 1)), fmt="%.1f", delimiter=",")
        values = np.zeros(30)
        values[[0, 20]] = 1, -1
        np.savetxt(place / "anchor.value", values, fmt="%d")
    dataset = open_dataset(f"votrgbt2020:{tmp_path / 'data'}")
    (entry,) = evaluate([bundle], dataset, tmp_path / "out", engine=ENGINE, realtime_fps=1e-3).entries
    folder = tmp_path / "out/tiny.trk/plain/jump1"
    assert len((folder / "jump1_00000000.txt").read_text().splitlines()) == 30
    assert len((folder / "jump1_00000020.txt").read_text().splitlines()) == 21
    assert entry.realtime is not None and entry.realtime.scores.overall == entry.scores.overall
    check_shares(entry)


def _double(number: int) -> int:
    if number < 0:
        raise InputError(f"got {number}")
    return 2 * number


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_is_done_once_and_errors_come_back(jobs: int) -> None:
    assert sorted(work(_double, [3, 1, 2], jobs=jobs)) == [(1, 2), (2, 4), (3, 6)]
    with pytest.raises(InputError, match="got -1"):
        list(work(_double, [-1], jobs=jobs))


def test_clusters_that_are_none() -> None:
    with pytest.raises(InputError, match="expected local or ray://"):
        list(work(_double, [1], jobs=1, cluster="somewhere"))


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_bits(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    evaluate([bundle], otb, tmp_path / "one", engine=ENGINE)
    evaluate([bundle], otb, tmp_path / "ray", engine=ENGINE, cluster="local", jobs=0)
    assert results(tmp_path / "one") == results(tmp_path / "ray")
    assert timeless(tmp_path / "one") == timeless(tmp_path / "ray")
    with pytest.raises(InputError, match=r"^\S+groundtruth_rect\.txt frame 0: got the box [^\n]+$"):
        evaluate([bundle], outside(otb, tmp_path / "otb"), tmp_path / "out", engine=ENGINE, cluster="local")


def wait_until(met: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.02)
    return met()


def _reached(out: Path, goal: int, process: BaseProcess) -> bool:
    return len(results(out)) >= goal or not process.is_alive()


@pytest.mark.slow
def test_killed_twenty_times_it_comes_to_the_same_report(bundle: Path, tmp_path: Path) -> None:
    dataset = make_otb(tmp_path / "otb", sequences=12, frames=8)
    evaluate([bundle], dataset, tmp_path / "whole", engine=ENGINE)
    expected = timeless(tmp_path / "whole"), results(tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trackctl.evaluation.run", ENGINE])
    random_ = random.Random(20)
    out, kills, left = tmp_path / "out", 0, set()
    while kills < 20:
        process = context.Process(target=evaluate, args=([bundle], dataset, out), kwargs={"engine": ENGINE})
        before = len(results(out))
        process.start()
        # From before the first sequence is finished to after the report is begun.
        goal, delay = random_.randint(before, before + 4), random_.uniform(0.0, 0.02)
        wait_until(partial(_reached, out, goal, process), 20.0)
        time.sleep(delay)
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert (timeless(out), results(out)) == expected
            shutil.rmtree(out)
            continue
        assert process.exitcode == -9
        kills += 1
        left.add(len(results(out)))
    evaluate([bundle], dataset, out, engine=ENGINE)
    assert (timeless(out), results(out)) == expected
    assert len(left) >= 4, "the kills fell on too few different places to show anything"
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(bundle: Path, tmp_path: Path) -> None:
    dataset = make_otb(tmp_path / "otb", sequences=30, frames=8)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=evaluate, args=([bundle], dataset, tmp_path / "out"), kwargs={"engine": ENGINE, "jobs": 2})
    process.start()
    assert wait_until(lambda: len(results(tmp_path / "out")) > 0, 60.0)
    children = _children(process.pid)
    process.kill()
    process.join()
    assert len(children) >= 2
    assert wait_until(lambda: not any(_alive(child) for child in children), 20.0)
    (entry,) = evaluate([bundle], dataset, tmp_path / "out", engine=ENGINE).entries
    assert len(entry.scores.sequences) == 30


def _children(pid: int | None) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def outside(otb: DataSet, folder: Path) -> DataSet:
    """A sequence whose target is annotated far outside the frame."""
    shutil.copytree(otb.path / "clip00", folder / "clip00")
    np.savetxt(folder / "clip00/groundtruth_rect.txt", np.tile([500.0, 500.0, 9.0, 9.0], (12, 1)), delimiter=",")
    return open_dataset(f"otb:{folder}")


def test_errors_name_the_frame(otb: DataSet, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackctlError, match=r"groundtruth_rect\.txt frame 0: got the box"):
        evaluate([bundle], outside(otb, tmp_path / "otb"), tmp_path / "out", engine=ENGINE)
