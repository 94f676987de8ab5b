"""Published numbers from published result files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.scoring import Scores, score_results


def scored(shared: Path, dataset: str, results: str) -> Scores:
    oracles = shared / "data" / "oracles"
    kind, _, path = dataset.partition(":")
    return score_results(oracles / results, open_dataset(f"{kind}:{oracles / path}"))


@pytest.mark.parametrize("path", ["antiuav", "antiuav/groundtruth"])
def test_antiuav(shared: Path, path: str) -> None:
    scores = scored(shared, f"antiuav:{path}", "antiuav/result")
    success = scores.plots["success"]
    at = [int(np.flatnonzero(np.isclose(success.x, threshold))[0]) for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)]
    assert [f"{success.y[index]:.4f}" for index in at] == ["0.9282", "0.9198", "0.9000", "0.8611", "0.7837", "0.6527", "0.4735"]
    assert len(scores.sequences) == 45
    assert scores.frames == 32345


@pytest.mark.parametrize(("tracker", "auc", "precision"), [("SEE-Net", "0.6657", "0.9327"), ("MHT", "0.5872", "0.8819")])
def test_hot2020(shared: Path, tracker: str, auc: str, precision: str) -> None:
    scores = scored(shared, "hot:hot2020", f"hot2020/{tracker}")
    assert f"{scores.overall['auc']:.4f}" == auc
    assert f"{scores.overall['precision']:.4f}" == precision
    assert len(scores.sequences) == 35


def test_vot2018_nanotrack(shared: Path) -> None:
    scores = scored(shared, "vot2018:vot2018", "vot2018/results/NanoTrack")
    assert f"{scores.overall['eao']:.3f}" == "0.311"
    assert len(scores.sequences) == 60


def test_vot2018_dasiamrpn(shared: Path) -> None:
    scores = scored(shared, "vot2018:vot2018/VOT2018.json", "vot2018/results/DaSiamRPN")
    overall = {name: f"{scores.overall[name]:.3f}" for name in ("eao", "accuracy", "robustness")}
    assert overall == {"eao": "0.383", "accuracy": "0.586", "robustness": "0.276"}
    assert set(scores.attributes) == {"camera_motion", "illum_change", "motion_change", "size_change", "occlusion", "empty"}
