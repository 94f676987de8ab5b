"""Pairs of patches: where the target is, what a negative shows, what never appears, and that a number is always the same pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.training.augment import AugmentSpec, Gray
from trackctl.training.data.store import FrameStore, Shot, write_store
from trackctl.training.pairs import HELD_OUT, MIX, Pair, Pairs, PairSpec, scaled

OFF = AugmentSpec(**{name: 0.0 for name in AugmentSpec.__dataclass_fields__ if name != "largest_noise"})
HEIGHT, WIDTH = 200, 260

# A target of each track has its own level before a ground of 20.
GROUND = 20
LEVELS = {("x", "one", "p"): 90, ("x", "two", "p"): 160, ("x", "two", "q"): 230, ("y", "one", "p"): 120}


def plain(**options: object) -> PairSpec:
    """Geometry alone."""
    settings = {"mix": {"x": 1.0}, "negatives": 0.0, "squeeze": 0.0, "distractors": 0.0, "augment": OFF, "looseness": {}}
    return PairSpec(**(settings | options))  # type: ignore[arg-type]


def scene(source: str, name: str, tracks: str, frames: int = 3) -> list[Shot]:
    """Frames of a scene whose targets move to the right."""
    shots = []
    for number in range(frames):
        pixels = np.full((HEIGHT, WIDTH), GROUND, np.uint8)
        objects = []
        for place, track in enumerate(tracks):
            left, top = 60 + 5 * number, 40 + 90 * place
            pixels[top : top + 24, left : left + 32] = LEVELS[source, name, track]
            objects.append((track, Box(left, top, 32, 24)))
        shots.append(Shot(source, name, pixels, tuple(objects)))
    return shots


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, [*scene("x", "one", "p"), *scene("x", "two", "pq"), *scene("y", "one", "p", 1)])
    return FrameStore(folder)


def same(a: Pair, b: Pair) -> bool:
    return (
        np.array_equal(a.template, b.template)
        and np.array_equal(a.search, b.search)
        and np.array_equal(a.box_xyxy, b.box_xyxy)
        and a.positive == b.positive
    )


def edges(patch: Gray, threshold: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is brighter, px."""
    rows, columns = (patch > threshold).nonzero()
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# Determinism


def test_a_number_is_always_the_same_pair(store: FrameStore) -> None:
    spec = PairSpec(mix={"x": 0.7, "y": 0.3})
    forward, backward = Pairs(store, spec, CropSpec(), seed=3), Pairs(store, spec, CropSpec(), seed=3)
    first = [forward[number] for number in range(40)]
    last = {number: backward[number] for number in reversed(range(40))}
    assert all(same(pair, last[number]) for number, pair in enumerate(first))
    assert len({pair.search.tobytes() for pair in first}) == 40
    other = Pairs(store, spec, CropSpec(), seed=4)
    assert not any(same(pair, other[number]) for number, pair in enumerate(first))


def test_shapes(store: FrameStore) -> None:
    pair = Pairs(store, PairSpec(mix={"x": 1.0}), CropSpec(), seed=0)[0]
    assert (pair.template.shape, pair.template.dtype) == ((127, 127), np.uint8)
    assert (pair.search.shape, pair.search.dtype) == ((255, 255), np.uint8)
    assert (pair.box_xyxy.shape, pair.box_xyxy.dtype) == ((4,), np.float64)


# Where the target is


@settings(max_examples=60, deadline=None)
@given(
    left=st.integers(-10, 250),
    top=st.integers(-10, 190),
    width=st.integers(8, 90),
    height=st.integers(8, 90),
    number=st.integers(0, 10**6),
)
def test_the_box_in_the_search_patch_is_where_the_target_is(
    tmp_path_factory: pytest.TempPathFactory, left: int, top: int, width: int, height: int, number: int
) -> None:
    pixels = np.full((HEIGHT, WIDTH), GROUND, np.uint8)
    pixels[max(top, 0) : top + height, max(left, 0) : left + width] = 230
    # What the frame cuts off cannot be found in the patch.
    right, bottom = min(left + width, WIDTH), min(top + height, HEIGHT)
    left, top = max(left, 0), max(top, 0)
    assume(right - left >= 6 and bottom - top >= 6)
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, [Shot("x", "one", pixels, (("p", Box(left, top, right - left, bottom - top)),))])
    pair = Pairs(FrameStore(folder), plain(), CropSpec(), seed=0)[number]
    # Outside of the frame lies its mean level: bright where the target fills the frame.
    threshold = (230 + max(GROUND, round(float(pixels.mean())))) / 2
    found = np.array(edges(pair.search, round(threshold)))
    assert np.abs(found - np.clip(pair.box_xyxy, 0, 255)).max() <= 1.0
    assert pair.positive


def test_shift_scale_and_aspect_keep_their_limits(store: FrameStore) -> None:
    pairs = Pairs(store, plain(), CropSpec(), seed=1)
    boxes = np.array([pairs[number].box_xyxy for number in range(400)])
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    shift = middle - 127.5
    assert float(np.abs(shift).max()) <= 64.0 and np.abs(shift).max(axis=0).min() > 55.0
    assert float(np.abs(shift.mean(axis=0)).max()) < 5.0
    # Half of the targets lie near the centre, the others anywhere: 1/2 + 3/16 of them within 24 px along each axis.
    assert np.all(np.abs((np.abs(shift) <= 24.0).mean(axis=0) - 0.6875) < 0.08)
    unscaled = np.array([32.0, 24.0]) * 127 / CropSpec().template_side_px(32, 24)
    area = np.sqrt((size / unscaled).prod(axis=1))
    assert 0.75 <= area.min() < 0.80 and 1.27 < area.max() <= 1.33
    aspect = np.log(size[:, 1] / size[:, 0] / (24 / 32))
    assert -0.08 <= aspect.min() < -0.07 and 0.07 < aspect.max() <= 0.08


def test_the_template_is_centred_and_has_the_deployed_size(store: FrameStore) -> None:
    pairs = Pairs(store, plain(), CropSpec(), seed=1)
    wanted = np.array([32.0, 24.0]) * 127 / CropSpec().template_side_px(32, 24)
    for number in range(60):
        template = pairs[number].template
        left, top, right, bottom = edges(template, (GROUND + int(template[63, 63])) // 2)
        assert np.abs([(left + right) / 2 - 63.5, (top + bottom) / 2 - 63.5]).max() <= 4.0 + 0.5
        size = np.array([right - left, bottom - top])
        assert np.all(size >= wanted / 1.05 - 1.0) and np.all(size <= wanted / 0.95 + 1.0)


def test_template_and_search_are_mirrored_together(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(20, 230, WIDTH).astype(np.uint8), (HEIGHT, 1))
    write_store(tmp_path, [Shot("x", "one", ramp, (("p", Box(110, 80, 40, 40)),))])
    pairs = Pairs(FrameStore(tmp_path), plain(), CropSpec(), seed=0)
    rising = []
    for number in range(40):
        pair = pairs[number]
        directions = {bool(patch[60, 70] > patch[60, 50]) for patch in (pair.template, pair.search)}
        assert len(directions) == 1
        rising.append(directions.pop())
    assert 8 < sum(rising) < 32


def test_template_and_search_are_one_track_within_reach(tmp_path: Path) -> None:
    """The level tells the time: frame k has the level 20 + 4 k."""
    shots = [
        Shot("x", "one", np.full((HEIGHT, WIDTH), 20 + 4 * number, np.uint8), (("p", Box(100, 80, 30, 30)),))
        for number in range(50)
    ]
    write_store(tmp_path, shots)
    pairs = Pairs(FrameStore(tmp_path), plain(reach=5), CropSpec(), seed=0)
    apart = [(int(pair.search[127, 127]) - int(pair.template[63, 63])) / 4 for pair in (pairs[number] for number in range(200))]
    assert {round(step) for step in apart} == set(range(-5, 6))


def test_looseness_is_shared_and_squeeze_is_per_side(store: FrameStore) -> None:
    loose = Pairs(store, plain(looseness={"x": (1.5, 1.5)}, search_scale=(1.0, 1.0), stretch=0.0), CropSpec(), seed=0)
    pair = loose[0]
    inner, outer = np.array(edges(pair.search, 60)), pair.box_xyxy
    assert (outer[2:] - outer[:2]) / (inner[2:] - inner[:2]) == pytest.approx(1.5, rel=0.06)
    # The patch is cut for the loose box, as the tracker would.
    side = CropSpec().search_side_px(48, 36)
    assert outer[2] - outer[0] == pytest.approx(48 * 255 / side)
    squeezed = Pairs(store, plain(squeeze=0.05, stretch=0.0), CropSpec(), seed=0)
    ratios = [np.divide(*(box[2:] - box[:2])) * 24 / 32 for box in (squeezed[number].box_xyxy for number in range(200))]
    assert 0.95 / 1.05 <= min(ratios) < 0.93 and 1.07 < max(ratios) <= 1.05 / 0.95
    # Sources that are not named keep their boxes.
    assert scaled(Box(10, 20, 30, 40), (1.0, 1.0)) == Box(10, 20, 30, 40)
    assert scaled(Box(10, 20, 30, 40), (2.0, 0.5)) == Box(-5, 30, 60, 20)


# Negatives and distractors


def test_negatives_have_their_share(store: FrameStore) -> None:
    pairs = Pairs(store, plain(negatives=0.2), CropSpec(), seed=0)
    assert sum(not pairs[number].positive for number in range(400)) == pytest.approx(80, abs=25)


def test_a_negative_shows_another_object_or_none(store: FrameStore) -> None:
    pairs = Pairs(store, plain(negatives=1.0), CropSpec(), seed=0)
    shown: dict[str, int] = {"other": 0, "background": 0}
    for number in range(150):
        pair = pairs[number]
        assert not pair.positive
        target = int(pair.template[63, 63])
        x, y = ((pair.box_xyxy[:2] + pair.box_xyxy[2:]) / 2).astype(int)
        level = int(pair.search[y, x])
        assert level != target
        shown["other" if level in LEVELS.values() else "background"] += 1
    assert shown["other"] > 60 and shown["background"] > 20


def test_distractors_leave_the_target_visible(store: FrameStore) -> None:
    with_them, without = (Pairs(store, plain(distractors=share), CropSpec(), seed=0) for share in (1.0, 0.0))
    changed = 0
    for number in range(60):
        pasted, clean = with_them[number], without[number]
        assert np.array_equal(pasted.box_xyxy, clean.box_xyxy) and np.array_equal(pasted.template, clean.template)
        different = pasted.search != clean.search
        changed += bool(different.any())
        left, top, right, bottom = (int(edge) for edge in np.clip(pasted.box_xyxy, 0, 255))
        # Up to three objects may touch the box from outside.
        assert float(different[top:bottom, left:right].mean()) < 0.4
    assert changed > 50


# Which scenes


def test_held_out_scenes_never_appear(store: FrameStore) -> None:
    """Not as target, negative or distractor: no pixel has the level of their objects."""
    pairs = Pairs(store, plain(negatives=0.3, distractors=1.0), CropSpec(), seed=0, held_out=frozenset({"x/two"}))
    assert max(int(max(pair.template.max(), pair.search.max())) for pair in (pairs[number] for number in range(300))) == 90
    everything = Pairs(store, plain(negatives=0.3, distractors=1.0), CropSpec(), seed=0)
    assert max(int(everything[number].search.max()) for number in range(50)) == 230


def test_sources_have_their_share(store: FrameStore) -> None:
    pairs = Pairs(store, plain(mix={"x": 0.25, "y": 0.75, "absent": 9.0}), CropSpec(), seed=0)
    assert sum(int(pairs[number].template[63, 63]) == 120 for number in range(400)) == pytest.approx(300, abs=30)


def test_a_store_without_objects_of_the_mix_is_refused(store: FrameStore) -> None:
    with pytest.raises(InputError, match=r"got a store without objects of \['z'\]"):
        Pairs(store, plain(mix={"z": 1.0}), CropSpec(), seed=0)
    with pytest.raises(InputError, match="check mix and held_out"):
        Pairs(store, plain(), CropSpec(), seed=0, held_out=frozenset({"x/one", "x/two"}))


def test_defaults_are_sane() -> None:
    assert sum(MIX.values()) == pytest.approx(1.0)
    assert len(HELD_OUT) == 12 and {name.split("/")[0] for name in HELD_OUT} == {"ir_video", "davis"}
    assert set(PairSpec().looseness) == set(MIX)
