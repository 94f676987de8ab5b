"""Decode against an independent implementation in numpy, float64, cell by cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trackctl.runtime.geometry import CropSpec
from trackctl.training.decode import MAX_LOG_SIZE, AnchorDecode, DecodeSpec, PointDecode, Select, anchor_sizes, hanning

CROP = CropSpec()
SPECS = st.builds(
    DecodeSpec,
    penalty_k=st.floats(0.0, 0.3),
    window=st.floats(0.0, 0.6),
    lr=st.floats(0.0, 1.0),
    min_side_px=st.sampled_from([4.0, 10.0]),
)
# Centre, size and frame size; the centre may lie anywhere in the frame, as after clipping.
STATES = st.tuples(
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(10.0, 300.0),
    st.floats(10.0, 300.0),
    st.integers(8, 2000),
    st.integers(8, 2000),
).map(lambda t: (t[0] * t[4], t[1] * t[5], min(t[2], t[4]), min(t[3], t[5]), t[4], t[5]))
SEEDS = st.integers(0, 2**32 - 1)


@dataclass
class Reference:
    """What one frame should give, and by how much the best candidate beats the next."""

    state: list[float]
    score: float
    psr: float
    second: float
    margin: float


def reference(p, boxes, cells, state, spec) -> Reference:
    """The formulas of SiamRPN's public tracker for candidates (anchor, row, column)."""
    cx, cy, width, height, frame_width, frame_height = state

    def change(r):
        return max(r, 1 / r)

    def size(w, h):
        return math.sqrt((w + (w + h) / 2) * (h + (w + h) / 2))

    scale = CROP.template_size / size(width, height)
    window = np.hanning(cells)
    ranked, penalties = np.empty(p.shape), np.empty(p.shape)
    for anchor, row, column in np.ndindex(p.shape):
        _, _, w, h = boxes[anchor, row, column]
        s = change(size(w, h) / size(width * scale, height * scale))
        r = change((width / height) / (w / h))
        penalties[anchor, row, column] = math.exp(-(r * s - 1) * spec.penalty_k)
        hann = window[row] * window[column]
        ranked[anchor, row, column] = (
            penalties[anchor, row, column] * p[anchor, row, column] * (1 - spec.window) + hann * spec.window
        )
    best = np.unravel_index(np.argmax(ranked), ranked.shape)
    x, y, w, h = boxes[best] / scale
    rate = penalties[best] * p[best] * spec.lr
    new_state = [
        min(max(cx + x, 0.0), frame_width),
        min(max(cy + y, 0.0), frame_height),
        min(max((1 - rate) * width + rate * w, spec.min_side_px), frame_width),
        min(max((1 - rate) * height + rate * h, spec.min_side_px), frame_height),
        frame_width,
        frame_height,
    ]
    response = p.max(axis=0)
    rows, columns = np.mgrid[:cells, :cells]
    far = response[np.maximum(abs(rows - best[1]), abs(columns - best[2])) > spec.sidelobe]
    psr = (response[best[1], best[2]] - far.mean()) / math.sqrt(far.var() + 1e-6)
    runner_up = np.partition(ranked.ravel(), -2)[-2]
    return Reference(new_state, float(p[best]), float(psr), float(far.max()), float(ranked[best] - runner_up))


def softmax_foreground(cls):
    """(2, ...) logits -> foreground probability."""
    return 1 / (1 + np.exp(cls[0] - cls[1]))


def random_maps(seed, shape, spread):
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def check(decode, cls, loc, state, want: Reference) -> None:
    tensor = torch.tensor([state], dtype=torch.float32)
    moved, score, psr, second = decode(torch.from_numpy(cls)[None], torch.from_numpy(loc)[None], tensor)
    assert moved.shape == (1, 6)
    assert score.shape == psr.shape == second.shape == (1, 1)
    np.testing.assert_allclose(moved[0].numpy(), want.state, rtol=2e-5, atol=2e-3)
    assert score.item() == pytest.approx(want.score, abs=1e-5)
    assert second.item() == pytest.approx(want.second, abs=1e-5)
    assert psr.item() == pytest.approx(want.psr, rel=1e-3, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS, cells=st.integers(11, 17), stride=st.sampled_from([8, 16]), spread=st.floats(0.5, 4.0), state=STATES, spec=SPECS
)
def test_points_equal_the_reference(seed, cells, stride, spread, state, spec) -> None:
    cls = random_maps(seed, (2, cells, cells), spread)
    # Distances of e^-6 to e^14 px: beyond both clamps.
    loc = np.exp(random_maps(seed + 1, (4, cells, cells), spread) * 2 + 4).astype(np.float32)
    left, top, right, bottom = np.clip(loc.astype(np.float64), math.exp(-MAX_LOG_SIZE), math.exp(MAX_LOG_SIZE))
    grid = (np.arange(cells) - cells // 2) * stride
    x, y = grid[None, :] + (right - left) / 2, grid[:, None] + (bottom - top) / 2
    boxes = np.stack((x, y, left + right, top + bottom), axis=-1)[None]
    want = reference(softmax_foreground(cls.astype(np.float64))[None], boxes, cells, state, spec)
    assume(want.margin > 1e-5)
    check(PointDecode(CROP, spec, cells=cells, stride=stride), cls, loc, state, want)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, cells=st.sampled_from([11, 12, 17]), spread=st.floats(0.2, 3.0), state=STATES, spec=SPECS)
def test_anchors_equal_the_reference(seed, cells, spread, state, spec) -> None:
    stride, sizes = 8, np.array([(104, 32), (88, 40), (64, 64), (40, 80), (32, 96)], dtype=np.float64)
    anchors = len(sizes)
    cls = random_maps(seed, (2 * anchors, cells, cells), spread)
    loc = random_maps(seed + 1, (4 * anchors, cells, cells), spread)
    p = softmax_foreground(cls.astype(np.float64).reshape(2, anchors, cells, cells))
    dx, dy, dw, dh = loc.astype(np.float64).reshape(4, anchors, cells, cells)
    grid = (np.arange(cells) - cells // 2) * stride
    width, height = sizes[:, 0, None, None], sizes[:, 1, None, None]
    w, h = (np.exp(np.clip(d, -MAX_LOG_SIZE, MAX_LOG_SIZE)) for d in (dw, dh))
    boxes = np.stack((dx * width + grid[None, None, :], dy * height + grid[None, :, None], w * width, h * height), axis=-1)
    want = reference(p, boxes, cells, state, spec)
    assume(want.margin > 1e-5)
    check(AnchorDecode(CROP, spec, cells=cells), cls, loc, state, want)


def test_anchor_sizes_are_those_of_the_public_code() -> None:
    assert anchor_sizes(8, 8, (0.33, 0.5, 1, 2, 3)) == [(104, 32), (88, 40), (64, 64), (40, 80), (32, 96)]


@pytest.mark.parametrize("cells", [15, 16, 25])
def test_the_window_is_numpys(cells: int) -> None:
    np.testing.assert_allclose(hanning(cells).numpy(), np.hanning(cells), atol=1e-7)


@pytest.mark.parametrize("tied", [(3, 200), (0, 255), (17, 18)])
def test_the_first_of_equal_candidates_wins(tied: tuple[int, int]) -> None:
    spec = DecodeSpec(penalty_k=0.1, window=0.0, lr=0.5)
    p = torch.full((1, 256), 0.25)
    p[0, list(tied)] = 0.75
    boxes = torch.stack((torch.arange(256.0), torch.arange(256.0), torch.full((256,), 60.0), torch.full((256,), 60.0)))[None]
    state = torch.tensor([[500.0, 500.0, 40.0, 40.0, 2000.0, 2000.0]])
    moved, score, _, _ = Select(CROP, spec, 16, 1)(p, boxes, state)
    scale = CROP.template_size / CROP.template_side_px(40, 40)
    assert score.item() == 0.75
    assert moved[0, 0].item() == pytest.approx(500 + min(tied) / scale, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, spread=st.floats(0.0, 60.0), state=STATES)
def test_the_state_stays_finite_and_in_the_frame(seed, spread, state) -> None:
    """Whatever the network says, overflow and underflow of exp included."""
    spec = DecodeSpec(penalty_k=0.05, window=0.42, lr=0.38)
    with np.errstate(over="ignore"):
        loc = np.exp(random_maps(seed, (4, 16, 16), spread) * 2)
    cls = random_maps(seed + 1, (2, 16, 16), spread)
    anchor_cls, anchor_loc = random_maps(seed, (10, 25, 25), spread), random_maps(seed + 1, (20, 25, 25), spread)
    point, anchor = PointDecode(CROP, spec, cells=16, stride=16), AnchorDecode(CROP, spec, cells=25)
    for decode, maps in ((point, (cls, loc)), (anchor, (anchor_cls, anchor_loc))):
        tensors = [torch.from_numpy(array)[None] for array in maps]
        moved, score, psr, second = decode(*tensors, torch.tensor([state], dtype=torch.float32))
        cx, cy, width, height, frame_width, frame_height = moved[0].tolist()
        assert 0 <= cx <= frame_width and 0 <= cy <= frame_height
        assert min(spec.min_side_px, frame_width) <= width <= frame_width
        assert min(spec.min_side_px, frame_height) <= height <= frame_height
        assert (frame_width, frame_height) == state[4:]
        assert 0 <= score.item() <= 1 and 0 <= second.item() <= 1
        assert math.isfinite(psr.item())


@pytest.mark.parametrize(
    ("shift_px", "edge"), [((-900.0, 0.0), (0.0, 50.0)), ((900.0, 900.0), (160.0, 120.0)), ((0.0, -900.0), (80.0, 0.0))]
)
def test_the_centre_is_clipped_to_the_frame(shift_px: tuple[float, float], edge: tuple[float, float]) -> None:
    spec = DecodeSpec(penalty_k=0.0, window=0.0, lr=0.0)
    p = torch.zeros(1, 225)
    p[0, 112] = 1.0
    boxes = torch.ones(1, 4, 225)
    boxes[0, :2] = torch.tensor(shift_px)[:, None]
    moved, _, _, _ = Select(CROP, spec, 15, 1)(p, boxes, torch.tensor([[80.0, 50.0, 40.0, 40.0, 160.0, 120.0]]))
    assert moved[0, :2].tolist() == list(edge)


@pytest.mark.parametrize(("frame_px", "want"), [(100.0, 10.0), (6.0, 6.0)])
def test_sides_stop_at_ten_pixels_or_the_frame(frame_px: float, want: float) -> None:
    spec = DecodeSpec(penalty_k=0.0, window=0.0, lr=1.0)
    p = torch.zeros(1, 225)
    p[0, 112] = 1.0
    boxes = torch.zeros(1, 4, 225)
    boxes[0, 2:] = 1.0
    moved, _, _, _ = Select(CROP, spec, 15, 1)(p, boxes, torch.tensor([[3.0, 3.0, 12.0, 11.0, frame_px, frame_px]]))
    assert moved[0, 2:4].tolist() == [want, want]


def test_constants_are_no_weights() -> None:
    spec = DecodeSpec(penalty_k=0.05, window=0.42, lr=0.38)
    assert not PointDecode(CROP, spec, cells=16, stride=16).state_dict()
    assert not AnchorDecode(CROP, spec, cells=25).state_dict()
