from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackctl.runtime.confidence import MOST_LOG_ODDS, Confidence, ConfidenceSpec, Status, log_odds
from trackctl.runtime.errors import InputError

GOOD = {"score": 0.9, "psr": 20.0, "contrast": 30.0}


def test_a_sharp_peak_is_tracking() -> None:
    assert Confidence(ConfidenceSpec()).judge(**GOOD, repeated=False) is Status.TRACKING


@pytest.mark.parametrize("change", [{"score": 0.5}, {"psr": 2.0}, {"contrast": 0.0}, {"repeated": True}])
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


def test_something_else_in_its_place_is_doubted_and_in_the_end_the_target_is_lost() -> None:
    judge = Confidence(ConfidenceSpec(sure_score=0.6, rebound=1.0, forget=0.0, doubted_after=4))
    for _ in range(10):
        judge.judge(**{**GOOD, "score": 0.99}, repeated=False)
    assert judge.judge(**{**GOOD, "score": 0.4}, repeated=False) is Status.UNCERTAIN
    # 0.9 would be sure enough for a target that was never missed, but this one scores 0.99.
    said = [judge.judge(**GOOD, repeated=False) for _ in range(5)]
    assert said == [Status.UNCERTAIN] * 2 + [Status.LOST] * 3
    assert not judge.usual(0.9)
    assert judge.usual(0.98)
    assert [judge.judge(**{**GOOD, "score": 0.98}, repeated=False) for _ in range(2)] == [Status.LOST, Status.TRACKING]


def test_a_target_that_changed_for_good_is_found_in_time() -> None:
    judge = Confidence(ConfidenceSpec(rebound=1.0, forget=0.01))
    for _ in range(10):
        judge.judge(**{**GOOD, "score": 0.99}, repeated=False)
    judge.judge(**{**GOOD, "score": 0.4}, repeated=False)
    said = [judge.judge(**GOOD, repeated=False) for _ in range(120)]
    assert said[0] is not Status.TRACKING
    assert said[-1] is Status.TRACKING


@given(st.floats(0.0, 1.0))
def test_log_odds_are_bounded_and_odd(score: float) -> None:
    assert abs(log_odds(score)) <= MOST_LOG_ODDS
    assert log_odds(score) == pytest.approx(-log_odds(1.0 - score), abs=1e-6)


def test_manifest_thresholds() -> None:
    assert ConfidenceSpec.from_mapping({"sure_score": 0.7}).sure_score == 0.7
    with pytest.raises(InputError, match="sure_scor"):
        ConfidenceSpec.from_mapping({"sure_scor": 0.7})
