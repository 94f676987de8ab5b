from __future__ import annotations

import pytest

from trackctl.runtime.confidence import Confidence, ConfidenceSpec, Status
from trackctl.runtime.errors import InputError

GOOD = {"score": 0.9, "psr": 20.0, "second": 0.1, "contrast": 30.0}


def test_a_sharp_peak_is_tracking() -> None:
    assert Confidence(ConfidenceSpec()).judge(**GOOD, repeated=False) is Status.TRACKING


@pytest.mark.parametrize("change", [{"score": 0.5}, {"psr": 2.0}, {"second": 0.89}, {"contrast": 0.0}, {"repeated": True}])
def test_each_witness_alone_can_deny_tracking(change: dict[str, float]) -> None:
    judge = Confidence(ConfidenceSpec())
    assert judge.judge(**{**GOOD, "repeated": False, **change}) is Status.UNCERTAIN  # type: ignore[arg-type]


def test_a_target_that_stays_away_is_lost_and_found_again_only_after_several_sure_frames() -> None:
    spec = ConfidenceSpec(lost_after=3, found_after=2)
    judge = Confidence(spec)
    gone = {**GOOD, "score": 0.05}
    assert [judge.judge(**gone, repeated=False) for _ in range(4)] == [
        Status.UNCERTAIN,
        Status.UNCERTAIN,
        Status.LOST,
        Status.LOST,
    ]
    assert judge.judge(**GOOD, repeated=False) is Status.LOST
    assert judge.judge(**GOOD, repeated=False) is Status.TRACKING


def test_manifest_thresholds() -> None:
    assert ConfidenceSpec.from_mapping({"sure_score": 0.7}).sure_score == 0.7
    with pytest.raises(InputError, match="sure_scor"):
        ConfidenceSpec.from_mapping({"sure_scor": 0.7})
