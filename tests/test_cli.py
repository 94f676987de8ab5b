"""The command line as a user meets it: each command on the shipped model, and each mistake as one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl import __version__
from trackctl.cli import main

Run = Callable[..., tuple[int, str, str]]
CLIP = "synth:?frames=12&size=320x256"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, exported by the command itself."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv",
            [
                "trackctl",
                "export",
                "--engine",
                "fp16",
                "--out",
                str(out),
                "--calibration",
                CLIP,
                "--frames",
                "4",
                "--no-tensorrt",
            ],
        )
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out / "dcfg-edge-fp16.trk"


@pytest.fixture(autouse=True)
def no_machine_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))


def one_line(text: str) -> str:
    assert text.startswith("trackctl: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def test_version_and_help(run: Run) -> None:
    assert run("--version")[:2] == (0, f"trackctl {__version__}\n")
    _, out, _ = run("--help")
    for command in ("export", "track", "profile", "verify", "models", "doctor"):
        assert command in out


def test_models_and_doctor(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    for name in ("dcfg-edge", "dcfg-r50", "siamrpn-r50", "nanotrack-v1", "nanotrack-v2", "nanotrack-v3"):
        assert name in out
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert {"name", "state", "detail", "advice"} <= set(json.loads(out)[0])


@pytest.mark.slow
def test_track_writes_a_line_and_a_picture_for_each_frame(run: Run, bundle: Path, tmp_path: Path) -> None:
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    code, out, _ = run(
        "track", CLIP, "--bundle", bundle, "--save", video, "--jsonl", lines, "--threads", 1, "--runtime", "openvino"
    )
    assert code == 0
    assert "12 frames" in out
    assert len([json.loads(line) for line in lines.read_text().splitlines()]) == 12
    capture = cv2.VideoCapture(str(video))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 12


@pytest.mark.slow
def test_profile_and_verify(run: Run, bundle: Path) -> None:
    code, out, _ = run("profile", bundle, "--source", CLIP, "--json", "--threads", 1, "--runtime", "onnxruntime")
    assert code == 0
    report = json.loads(out)
    assert report["frames"] == 12
    assert report["stages"]["update"]["p50_ms"] >= report["stages"]["engine"]["p50_ms"] > 0
    code, out, _ = run("verify", bundle, "--source", CLIP, "--frames", 4)
    assert code == 0
    assert "beyond the budget" not in out


@pytest.mark.slow
def test_a_clip_that_breaks_midway_leaves_complete_files(run: Run, bundle: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(6):
        size = (80, 100) if index < 4 else (60, 100)
        cv2.imwrite(str(frames / f"{index:04d}.png"), np.random.default_rng(index).integers(0, 255, size, dtype=np.uint8))
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    arguments = ("--init", "20,20,30,30", "--save", video, "--jsonl", lines, "--threads", 1, "--runtime", "onnxruntime")
    code, _, err = run("track", frames, "--bundle", bundle, *arguments)
    assert code == 2
    assert "0004.png" in one_line(err)
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 1, 2, 3]
    assert int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("init", ["1,2,3", "10,10,-5,5", "10,10,0,5", "900,10,5,5", "a,b,c,d"])
def test_a_wrong_box_ends_in_one_line(run: Run, bundle: Path, init: str) -> None:
    code, _, err = run("track", CLIP, "--bundle", bundle, "--init", init, "--threads", 1, "--runtime", "onnxruntime")
    assert code == 2
    assert "expected" in one_line(err)


@pytest.mark.slow
def test_a_damaged_bundle_ends_in_one_line(run: Run, bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.trk"
    shutil.copytree(bundle, damaged)
    graph = damaged / "search.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    code, _, err = run("track", CLIP, "--bundle", damaged)
    assert code == 2
    assert "search.onnx" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("track", CLIP, "--bundle", "nowhere.trk"), "nowhere.trk"),
        (("track", "nowhere.avi", "--bundle", "nowhere.trk"), "nowhere.avi"),
        (("track", "http:nowhere", "--bundle", "nowhere.trk"), "http"),
        (("export", "dcfg-egde"), "dcfg-edge"),
        (("export", "--engine", "int4"), "int8"),
        (("export", "--frame", "640"), "WIDTHxHEIGHT"),
        (("export", "nanotrack-v2", "--weights", "nowhere.npz"), "nowhere.npz"),
        (("verify", "nowhere.trk"), "nowhere.trk"),
        (("profile", "nowhere.trk"), "nowhere.trk"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert says in one_line(err)


def test_a_video_without_a_first_box_says_what_to_add(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((3, 40, 50), np.uint8))
    code, _, err = run("export", "--calibration", tmp_path / "clip.npy", "--out", tmp_path)
    assert code == 2
    assert "--init" in one_line(err)
