"""``trackctl track`` and ``profile`` on bundles for several targets, pairs and bands; and the clip that commands render."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from tiny_tracker import TinyTracker, tiny_tracker
from torch import Tensor

from trackctl.cli.screen import rendered_source
from trackctl.export.pipeline import export_model
from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.sources import open_source
from trackctl.runtime.view import View
from trackctl.training.zoo import DEFAULT_MODEL

Run = Callable[..., tuple[int, str, str]]
CLIP = "synth:?frames=5&size=160x128"
BOXES = ("--init", "60,60,30,20", "--init", "20,30,24,24")


class FirstBands(TinyTracker):
    """Tracks by the first three of its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.load_state_dict(tiny_tracker().state_dict())
        self.channels = channels

    def features(self, patch: Tensor) -> Tensor:
        return super().features(patch[:, :3])


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundles(tiny: TinyTracker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For one target, for two, for pairs and for bands."""
    out = tmp_path_factory.mktemp("out")
    models = {"one": (tiny, 1), "two": (tiny, 2), "pair": (FirstBands(4), 1), "bands": (FirstBands(9), 1)}
    return {name: export_model(model, name, out=out, targets=targets).bundle.path for name, (model, targets) in models.items()}


ENGINE = ("--runtime", "onnxruntime", "--threads", 1)


# Several targets


def test_two_targets_are_followed_written_and_drawn(run: Run, bundles: dict[str, Path], tmp_path: Path) -> None:
    video, lines = tmp_path / "out.avi", tmp_path / "out.jsonl"
    code, out, err = run("track", CLIP, "--bundle", bundles["two"], *BOXES, "--save", video, "--jsonl", lines, *ENGINE)
    assert (code, err) == (0, "")
    assert "5 frames of 2 targets" in out
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(record["frame"], record["target"]) for record in records] == [(i, target) for i in range(5) for target in (0, 1)]
    assert [record["box"] for record in records[:2]] == [[60.0, 60.0, 30.0, 20.0], [20.0, 30.0, 24.0, 24.0]]
    assert int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT)) == 5


def test_fewer_targets_than_there_is_room_for_are_followed_with_a_note(
    run: Run, bundles: dict[str, Path], tmp_path: Path
) -> None:
    lines = tmp_path / "out.jsonl"
    code, _, err = run("track", CLIP, "--bundle", bundles["two"], *BOXES[:2], "--jsonl", lines, *ENGINE)
    assert code == 0
    assert err.startswith("note: got 1 of the 2 boxes that two-fp32-x2.trk has room for, expected an --init for each")
    assert err.count("\n") == 1
    assert [json.loads(line)["target"] for line in lines.read_text().splitlines()] == [0] * 5


@pytest.mark.parametrize(("name", "boxes", "room"), [("one", BOXES, 1), ("two", (*BOXES, "--init", "1,1,9,9"), 2)])
def test_more_boxes_than_there_is_room_for_are_one_line(
    run: Run, bundles: dict[str, Path], tmp_path: Path, name: str, boxes: tuple[str, ...], room: int
) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_text("what was here before")
    code, _, err = run("track", CLIP, "--bundle", bundles[name], *boxes, "--jsonl", kept, *ENGINE)
    assert code == 2
    assert err.startswith(f"trackctl: got {room + 1} boxes for ") and err.count("\n") == 1
    assert f"follows {room} at a time, expected as many or fewer: leave out an --init, or export with --targets {room + 1}" in err
    assert kept.read_text() == "what was here before"


def test_one_target_has_lines_without_a_number(run: Run, bundles: dict[str, Path], tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    code, out, err = run("track", CLIP, "--bundle", bundles["one"], "--jsonl", lines, *ENGINE)
    assert (code, err) == (0, "")
    assert "5 frames (" in out
    keys = ["frame", "t_ns", "box", "score", "status", "quality", "ms"]
    assert [list(json.loads(line)) for line in lines.read_text().splitlines()] == [keys] * 5


def test_several_targets_are_profiled(run: Run, bundles: dict[str, Path]) -> None:
    code, out, _ = run("profile", bundles["two"], "--source", CLIP, *BOXES, "--json", *ENGINE)
    report = json.loads(out)
    assert (code, report["frames"], report["targets"]) == (0, 5, 2)
    assert set(report["stages"]) == {"read", "update", "sinks", "frame"}


# The clip that is rendered when none is given


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 9, 16, 25, 31])
def test_the_rendered_clip_is_of_the_cameras_kind(channels: int) -> None:
    with open_source(rendered_source(channels)) as clip:
        (_, _), layout = View(CropSpec(), channels).form(next(iter(clip)))
    assert layout == {1: "gray8", 3: "gray8", 4: "pair8"}.get(channels, f"cube{channels}u8")


@pytest.mark.parametrize(("name", "shown"), [("one", "synth:vehicle"), ("pair", "synth:pair"), ("bands", "synth:hsi")])
def test_track_and_profile_render_what_the_bundle_sees(run: Run, bundles: dict[str, Path], name: str, shown: str) -> None:
    code, out, _ = run("profile", bundles[name], "--frames", 3, "--json", *ENGINE)
    assert code == 0
    assert json.loads(out)["source"].startswith(shown)
    code, out, _ = run("track", "--bundle", bundles[name], "--frames", 3, *ENGINE)
    assert (code, "3 frames (" in out) == (0, True)


@pytest.mark.parametrize(
    ("model", "wanted"), [(DEFAULT_MODEL, "synth:"), ("dfat-edge", "synth:pair"), ("bcrnet-edge-25", "synth:hsi?bands=25")]
)
@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_export_and_calibrate_render_what_the_model_sees(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, model: str, wanted: str
) -> None:
    monkeypatch.setattr("trackctl.runtime.sources.open_source", asked)
    assert run(command, model)[2] == f"trackctl: asked for {wanted}\n"


@pytest.mark.parametrize(("name", "wanted"), [("one", "synth:"), ("pair", "synth:pair"), ("bands", "synth:hsi?bands=9")])
def test_verify_renders_what_the_bundle_sees(
    run: Run, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    monkeypatch.setattr("trackctl.export.pipeline.model_of", lambda bundle, weights: None)
    monkeypatch.setattr("trackctl.runtime.sources.open_source", asked)
    assert run("verify", bundles[name])[2] == f"trackctl: asked for {wanted}\n"


def asked(uri: str) -> None:
    raise SourceError(f"asked for {uri}")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("one", "synth:pair?frames=3"),
        ("one", "synth:hsi?bands=9&frames=3"),
        ("pair", "synth:?frames=3"),
        ("pair", "synth:hsi?bands=9&frames=3"),
        ("bands", "synth:?frames=3"),
        ("bands", "synth:hsi?bands=16&frames=3"),
    ],
)
def test_a_clip_of_another_camera_is_one_line(run: Run, bundles: dict[str, Path], name: str, source: str) -> None:
    for arguments in (("track", source, "--bundle", bundles[name]), ("profile", bundles[name], "--source", source)):
        code, _, err = run(*arguments, *ENGINE)
        assert code == 2
        assert err.startswith("trackctl: got a ") and err.count("\n") == 1
        assert "expected" in err and "take a bundle made for this camera" in err
