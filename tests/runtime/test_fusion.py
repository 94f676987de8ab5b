"""Tiling, colour and refusals of the fuser, on an engine that sees as far as the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import BundleError, FrameError, InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.fusion import Fuser, min_max, padding_map, tile_spans
from trackctl.runtime.fusion_bundle import COLUMNS, FUSED, GRAPH_FILE, IR, MANIFEST_FILE, ROWS, VI, FusionBundle
from trackctl.runtime.fusion_loop import fuse_pairs
from trackctl.runtime.sources import Source

BLURS = 3  # how often the engine looks at its neighbours, so its halo


def blurred(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """3x3 means of an image padded as told, again and again; lopsided, so that a flipped border shows."""
    kernel = np.array([[1.0, 2.0, 3.0], [0.0, 5.0, 1.0], [2.0, 0.0, 1.0]]) / 15.0
    for _ in range(BLURS):
        image = cv2.filter2D(image[rows][:, columns], -1, kernel)[1:-1, 1:-1]
    return image


def blur_engine(tile_hw: tuple[int, int]) -> FunctionEngine:
    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        both = feeds[IR][0, 0] + 2.0 * feeds[VI][0, 0] ** 2
        return {FUSED: blurred(both, feeds[ROWS], feeds[COLUMNS]).astype(np.float32)[None, None]}

    image = TensorSpec("float32", (1, 1, *tile_hw))
    return FunctionEngine(run, {IR: image, VI: image}, {FUSED: image})


def whole(ir: np.ndarray, vi: np.ndarray) -> np.ndarray:
    both = min_max(ir.astype(np.float32)) + 2.0 * min_max(vi.astype(np.float32)) ** 2
    rows, columns = (padding_map(size, size) for size in both.shape)
    return (255.0 * min_max(blurred(both, rows, columns))).astype(np.uint8)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(8, 25), st.integers(8, 25), st.integers(0, 99))
def test_tiles_give_what_the_whole_picture_gives(height: int, width: int, tile_h: int, tile_w: int, seed: int) -> None:
    ir, vi = np.random.default_rng(seed).integers(0, 256, (2, height, width), dtype=np.uint8)
    with Fuser(blur_engine((tile_h, tile_w)), tile_hw=(tile_h, tile_w), halo_px=BLURS) as fuser:
        got = fuser.fuse(ir, vi)
    assert got.dtype == np.uint8
    # The order of additions in a filter may depend on where a tile begins: a level at most.
    assert np.abs(got.astype(int) - whole(ir, vi)).max() <= 1


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(30, 90), st.integers(0, 14))
def test_spans_cover_every_line_once_and_leave_the_halo_out(size: int, tile: int, halo: int) -> None:
    taken: list[int] = []
    for start, lines in tile_spans(size, tile, halo):
        assert 0 <= start <= max(size - tile, 0)
        assert lines.start >= start + (halo if start else 0)
        assert lines.stop <= min(start + tile, size) - (0 if lines.stop == size else halo)
        taken += range(lines.start, lines.stop)
    assert taken == list(range(size))


def test_colour_keeps_its_chroma_and_takes_the_fused_luma() -> None:
    rng = np.random.default_rng(0)
    heat = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    colour = cv2.cvtColor(
        np.stack([rng.integers(100, 156, (20, 30), dtype=np.uint8), *np.full((2, 20, 30), 120, np.uint8)], axis=2),
        cv2.COLOR_YCrCb2BGR,
    )
    luma, red, blue = cv2.split(cv2.cvtColor(colour, cv2.COLOR_BGR2YCrCb))
    with Fuser(blur_engine((16, 16)), tile_hw=(16, 16), halo_px=BLURS) as fuser:
        grey, fused = fuser.fuse(heat, luma), fuser.fuse(heat, colour)
        assert np.array_equal(grey, fuser.fuse(cv2.cvtColor(heat, cv2.COLOR_GRAY2BGR), luma))
    assert grey.shape == (20, 30)
    assert fused.shape == (20, 30, 3)
    inner = (grey > 40) & (grey < 215)  # elsewhere BGR cannot hold the chroma
    got = cv2.split(cv2.cvtColor(fused, cv2.COLOR_BGR2YCrCb))
    for plane, wanted in zip(got, (grey, red, blue), strict=True):
        assert np.abs(plane.astype(int) - wanted)[inner].max() <= 2


def test_counts_are_brought_to_8_bit() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(7000, 9000, (24, 24)).astype(np.uint16)
    vi = rng.integers(0, 256, (24, 24), dtype=np.uint8)
    with Fuser(blur_engine((24, 24)), tile_hw=(24, 24), halo_px=BLURS) as fuser:
        fused = fuser.fuse(counts, vi)
    stretched = np.rint((counts - 7000.0) * 255.0 / 2000.0).clip(0, 255).astype(np.uint8)
    assert np.abs(fused.astype(int) - whole(stretched, vi)).mean() < 2.0


def test_what_cannot_be_fused_is_refused() -> None:
    grey = np.zeros((9, 9), np.uint8)
    with Fuser(blur_engine((9, 9)), tile_hw=(9, 9), halo_px=BLURS) as fuser:
        with pytest.raises(FrameError, match="register them first"):
            fuser.fuse(grey, grey[:8])
        with pytest.raises(FrameError, match="2 px or more"):
            fuser.fuse(grey[:1], grey[:1])
        with pytest.raises(FrameError, match="expected uint8"):
            fuser.fuse(grey.astype(np.float32), grey)
        assert not fuser.fuse(grey, grey).any()
    with pytest.raises(InputError, match="expected sides above 6"):
        Fuser(blur_engine((6, 9)), tile_hw=(6, 9), halo_px=BLURS)


class Pairs(Source):
    """Three pairs; the second lacks its thermal, the third its visible camera."""

    name, fps, frame_hw = "pairs", 25.0, (12, 14)

    def __iter__(self):
        rng = np.random.default_rng(0)
        for index, missing in enumerate([(), ("thermal",), ("visible",)]):
            yield Frame(rng.integers(0, 256, (12, 14, 4), dtype=np.uint8), index, index, missing=missing)


def test_without_one_camera_the_other_is_shown() -> None:
    pairs, pictures = list(Pairs()), []
    with Fuser(blur_engine((12, 14)), tile_hw=(12, 14), halo_px=BLURS) as fuser:
        summary = fuse_pairs(Pairs(), fuser, pictures.append)
        assert np.array_equal(pictures[0], fuser.fuse(pairs[0].pixels[..., 3].copy(), pairs[0].pixels[..., :3].copy()))
        assert fuse_pairs(Pairs(), fuser, pictures.append, max_frames=2).frames == 2
    assert np.array_equal(pictures[1], pairs[1].pixels[..., :3])
    assert np.array_equal(pictures[2], np.repeat(pairs[2].pixels[..., 3:], 3, axis=2))
    assert (summary.frames, summary.missing) == (3, {"thermal": 1, "visible": 1})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FusionBundle.write(tmp_path, b"graph", tile_hw=(30, 40), halo_px=11, precision="fp32", provenance={"network": "LRRNet"})
    return tmp_path


def test_a_bundle_comes_back(folder: Path) -> None:
    bundle = FusionBundle.open(folder)
    assert (bundle.tile_hw, bundle.halo_px, bundle.precision) == ((30, 40), 11, "fp32")
    assert bundle.inputs[COLUMNS] == TensorSpec("int32", (42,))
    assert bundle.outputs[FUSED] == TensorSpec("float32", (1, 1, 30, 40))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (GRAPH_FILE, b"grabh", "differs from its checksum"),
        (MANIFEST_FILE, b"{", "is no fusion bundle"),
        (MANIFEST_FILE, b'{"format": 1}', "is no fusion bundle"),
        (MANIFEST_FILE, b'{"format": 2}', "has the format 2, expected 1"),
    ],
)
def test_a_damaged_bundle_is_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    assert json.loads((folder / MANIFEST_FILE).read_text())["format"] == 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Fuser.open(folder)


def test_unknown_engines_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="expected one of auto, openvino"):
        Fuser.open(folder, engine="tensorrt")
    with pytest.raises(InputError, match="got 0 threads"):
        Fuser.open(folder, threads=0)
