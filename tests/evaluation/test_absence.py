"""Clips without their target, and the judgement of what a tracker says in them."""

from __future__ import annotations

import numpy as np
import pytest

from trackctl.evaluation.absence import KINDS, AbsenceSpec, absence_clips, covered, judge_absence
from trackctl.runtime.confidence import Status
from trackctl.runtime.geometry import Box

SPEC = AbsenceSpec(before=12, away=24, after=12, every=48)


def footage(count: int = 96, dtype: type = np.uint8) -> tuple[list[np.ndarray], np.ndarray]:
    """A bright square that walks over a dim gradient."""
    frames, truth = [], []
    for index in range(count):
        frame = np.tile(np.linspace(10, 60, 200), (160, 1))
        x, y = 60 + index // 2, 70
        frame[y : y + 8, x : x + 10] = 250
        frames.append(frame.astype(dtype))
        truth.append((x, y, 10, 8))
    return frames, np.array(truth, dtype=float)


def test_every_kind_is_made_and_hides_the_target_for_as_long_as_it_says() -> None:
    frames, truth = footage()
    clips = list(absence_clips(frames, truth, SPEC))
    assert [clip.kind for clip in clips] == list(KINDS) * 2
    for clip in clips:
        assert len(clip.frames) == len(clip.truth_ltwh) == SPEC.frames
        assert len({frame.shape for frame in clip.frames}) == 1
        bright = np.array([(frame > 200).any() for frame in clip.frames])
        if clip.kind == "frozen":
            assert all(np.array_equal(frame, clip.frames[SPEC.before - 1]) for frame in clip.frames[SPEC.before : -SPEC.after])
        else:
            assert not bright[clip.away].any()
        present = np.isfinite(clip.truth_ltwh).all(axis=1)
        assert not (present & clip.away).any()
        assert present[: SPEC.before].all()
        assert present[-SPEC.after :].all()
        for frame, box in zip(clip.frames, clip.truth_ltwh, strict=True):
            if np.isfinite(box).all():
                x, y, w, h = box.astype(int)
                assert (frame[y : y + h, x : x + w] == 250).all()
    assert {clip.kind: int(clip.away.sum()) for clip in clips if clip.kind != "left"} == dict.fromkeys(KINDS[:3], 24)
    left = [clip for clip in clips if clip.kind == "left"]
    assert all(10 <= clip.away.sum() < 24 for clip in left)


def test_stretches_in_which_the_target_is_not_annotated_are_left_out() -> None:
    frames, truth = footage()
    truth[10] = np.nan
    assert {clip.truth_ltwh[0, 0] for clip in absence_clips(frames, truth, SPEC, ("black",))} == {84.0}


@pytest.mark.parametrize("box", [Box(0, 0, 10, 8), Box(190, 150, 10, 10), Box(-5, 60, 12, 8), Box(0, 0, 200, 160)])
def test_a_cover_fits_at_every_border(box: Box) -> None:
    frames, _ = footage(1, np.uint16)
    hidden = covered(frames[0], box)
    assert hidden.shape == frames[0].shape
    assert hidden.dtype == np.uint16


def test_the_judgement_counts_what_was_said() -> None:
    frames, truth = footage()
    clip = next(absence_clips(frames, truth, SPEC, ("covered",)))

    def oracle(honest: bool, finds: bool):
        said = []
        for box, away in zip(clip.truth_ltwh[1:], clip.away[1:], strict=True):
            if away:
                said.append((Box(0, 0, 10, 8), Status.LOST if honest else Status.TRACKING))
            else:
                at = len(said) + 1
                good = at < SPEC.before or finds
                said.append((Box(*box) if good else Box(0, 0, 10, 8), Status.TRACKING))
        return judge_absence(clip, SPEC, lambda _: said)

    honest, liar = oracle(True, True), oracle(False, False)
    assert (honest.tracking, honest.false_tracking, honest.found) == (1.0, (0, 24), True)
    assert (liar.tracking, liar.false_tracking, liar.found) == (1.0, (24, 24), False)
