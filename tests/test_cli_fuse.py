"""``trackctl fuse`` as a user meets it: images, folders, videos, scores, and each mistake as one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from trackctl.runtime.sources import open_source
from trackctl.training.lrrnet import LRRNet
from trackctl.training.weights import save_weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LRRNet().eval()
    path = tmp_path_factory.mktemp("weights") / "lrrnet.safetensors"
    save_weights(model, path, {"system": "lrrnet"})
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ir (grey) and vi (colour) of two pairs each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind, channels in (("ir", 1), ("vi", 3)):
        (folder / kind).mkdir()
        for name in ("a", "b"):
            noise = cv2.GaussianBlur(rng.uniform(0, 255, (44, 50, channels)), (0, 0), 2.0)
            picture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            cv2.imwrite(str(folder / kind / f"{name}.png"), picture)
    return folder


def test_fusing_everything_with_one_export(
    run: Run, weights: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))
    with_weights = ("--weights", weights, "--threads", 1)
    code, out, err = run("fuse", pictures / "ir/a.png", pictures / "vi/a.png", "-o", tmp_path / "a.png", *with_weights)
    assert (code, err) == (0, "")
    assert out.startswith("wrote ")
    one = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert one.shape == (44, 50, 3)

    # The same weights again: what was exported is found, also without them. A second export would need this.
    monkeypatch.setattr("trackctl.export.fusion.write_fusion", lambda *_, **__: pytest.fail("exported twice"))
    (tmp_path / "all").mkdir()
    assert run("fuse", pictures / "ir", pictures / "vi", "-o", tmp_path / "all", *with_weights)[0] == 0
    assert [path.name for path in sorted((tmp_path / "all").iterdir())] == ["a.png", "b.png"]
    assert np.array_equal(cv2.imread(str(tmp_path / "all/a.png"), cv2.IMREAD_UNCHANGED), one)

    (graph,) = (tmp_path / "cache/fusion").iterdir()
    video = tmp_path / "pairs.avi"
    code, out, _ = run("fuse", pictures / "ir", pictures / "vi", "-o", video, "--graph", graph, "--threads", 1)
    assert code == 0
    assert out.startswith("2 pairs, ")
    with open_source(str(video)) as clip:
        frames = [frame.pixels for frame in clip]
    assert len(frames) == 2
    assert np.abs(frames[0].astype(int) - one).mean() < 12  # of a lossy codec on noise

    for kind in ("ir", "vi"):
        (tmp_path / "scored" / kind).mkdir(parents=True)
        for path in (pictures / kind).iterdir():
            (tmp_path / "scored" / kind / path.name).write_bytes(path.read_bytes())
    (tmp_path / "all").rename(tmp_path / "scored/ours")
    code, out, _ = run("fuse", "--eval", tmp_path / "scored", "--json")
    assert code == 0
    scores = json.loads(out)
    assert list(scores) == ["a", "b", "mean"]
    assert scores["mean"]["textbook"]["EN"] == pytest.approx((scores["a"]["textbook"]["EN"] + scores["b"]["textbook"]["EN"]) / 2)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("fuse", "--eval", tmp_path / "scored")
    assert code == 0
    for word in ("by definition", "as published tables compute them", "Nabf", f"{scores['mean']['textbook']['SSIM']:.4f}"):
        assert word in out


def test_one_graph_of_whole_pictures(run: Run, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "lrrnet.onnx"
    assert run("export-fusion", out, "--weights", weights, "--size", "24x16", "--engine", "fp16")[0] == 0
    (shape,) = ([d.dim_value for d in v.type.tensor_type.shape.dim] for v in onnx.load(out).graph.output)
    assert shape == [1, 1, 16, 24]


def test_mistakes_are_one_line(run: Run, pictures: Path, tmp_path: Path) -> None:
    ir, vi = pictures / "ir", pictures / "vi"
    for arguments, message in (
        ((), "expected IR VI -o OUT, or --eval DIR"),
        ((ir, vi), "expected IR VI -o OUT"),
        ((ir, vi, "-o", tmp_path / "out"), "none are shipped"),
        ((ir, tmp_path, "-o", tmp_path / "out"), "share no image name"),
        ((ir, vi, "-o", tmp_path / "out", "--graph", tmp_path), "is no fusion bundle"),
        (("--eval", pictures), "expected the folders ir, vi and one of fused images"),
    ):
        code, out, err = run("fuse", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
