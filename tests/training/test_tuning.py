"""Tuning: it finds a planted optimum, keeps its seed, and leaves the sequences of reports alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_training_loop import seeded_tiny

from trackctl.cli import main
from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.errors import InputError
from trackctl.training.config import read_toml
from trackctl.training.tuning import Observed, _search, judged, observe, refuse_report_only, set_constants, tune
from trackctl.training.validation import sequences_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two short clips of a bright target."""
    folder = tmp_path_factory.mktemp("set")
    for name in ("left", "right"):
        clip = folder / name
        clip.mkdir()
        lines = []
        for number in range(5):
            pixels = np.random.default_rng(number).normal(90, 10, (120, 160)).clip(0, 255).astype(np.uint8)
            x = 40 + 6 * number if name == "right" else 90 - 6 * number
            pixels[50:74, x : x + 32] = 230
            cv2.imwrite(str(clip / f"{number + 1:04d}.png"), pixels)
            lines.append(f"{x},50,32,24\n")
        (clip / "groundtruth.txt").write_text("".join(lines))
    return f"folder:{folder}"


def test_a_planted_optimum_is_found() -> None:
    def peak(values: dict[str, float]) -> float:
        return -((values["a"] - 0.7) ** 2) - (values["b"] - 0.2) ** 2

    ranges = {"a": (0.0, 1.0), "b": (0.0, 1.0)}
    best, value, before = _search(peak, ranges, {"a": 0.0, "b": 2.0}, 60, 0)  # type: ignore[arg-type]
    assert before == pytest.approx(-0.49 - 0.64)  # what lies outside is brought to the edge
    assert value > -0.02 and best["a"] == pytest.approx(0.7, abs=0.15) and best["b"] == pytest.approx(0.2, abs=0.15)
    assert _search(peak, ranges, {"a": 0.0, "b": 0.0}, 15, 3) == _search(peak, ranges, {"a": 0.0, "b": 0.0}, 15, 3)  # type: ignore[arg-type]


def test_tuning_is_not_worse_than_before_and_repeats(dataset: str) -> None:
    sequences = sequences_of(dataset)
    told: list[tuple[int, int, float]] = []
    found = [tune(seeded_tiny(), sequences, frames=4, trials=3, seed=1, tell=lambda *said: told.append(said)) for _ in range(2)]
    assert found[0].to_toml() == found[1].to_toml()
    assert found[0].auc >= found[0].auc_before and found[0].sequences == ("left", "right")
    assert [done for done, *_ in told] == [1, 2, 3] * 2 and told[2][2] == found[0].auc


def test_constants_reach_the_tracker(dataset: str) -> None:
    model = seeded_tiny()
    still = {"penalty_k": 0.1, "window": 1.0, "lr": 0.0, "context": 0.45}
    set_constants(model, still)
    assert model.crop.context == model.decode.select.crop.context == 0.45 and model.decode.select.spec.window == 1.0
    # With the window alone, and a head that moves no anchor, the box stays in the middle of its search patch.
    for branch in model.rpn.branches[1]:
        torch.nn.init.zeros_(branch.out.weight)
        torch.nn.init.zeros_(branch.out.bias)
    (sequence, _) = sequences_of(dataset)
    seen = observe(model, sequence, 3)
    assert seen.quality.shape == (2, 3) and seen.right.tolist() == [True, False]


def test_thresholds_are_judged_by_what_was_right() -> None:
    quality = np.array([[0.9, 10.0, 20.0]] * 4 + [[0.7, 10.0, 20.0]] * 4)
    seen = [Observed(quality=quality, right=np.array([True] * 4 + [False] * 4))]
    thresholds = {"sure_score": 0.6, "sure_psr": 5.0, "rebound": 3.0}
    assert judged(seen, thresholds, ConfidenceSpec()) == (1.0, 1.0)
    assert judged(seen, {**thresholds, "sure_score": 0.8}, ConfidenceSpec()) == (1.0, 0.0)


def test_sequences_of_reports_are_refused(dataset: str) -> None:
    sequences = sequences_of(dataset)
    refuse_report_only(sequences)
    mark = sequences[1].truth_file.parent / "report-only"
    mark.touch()
    try:
        with pytest.raises(InputError, match=r"got the sequence 'right', which .*report-only keeps for reports: tune on other"):
            tune(seeded_tiny(), sequences, frames=3, trials=1, seed=0)
        refuse_report_only(sequences[:1])
    finally:
        mark.unlink()


def test_the_command_writes_what_it_found(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", "dcfg-edge", "--dataset", dataset, "--sequence", "left", "--frames", "3", "--trials", "2"]
    monkeypatch.setattr("sys.argv", ["trackctl", *arguments, "--out", str(tmp_path / "tuned.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "before" in capsys.readouterr().out
    written = read_toml(tmp_path / "tuned.toml")
    assert written["constants"].keys() == {"penalty_k", "window", "lr", "context"}
    assert written["sequences"] == ["left"] and written["seed"] == 0 and written["auc"] >= written["auc_before"]
