"""The graph crop and the host crop are one function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.crop import HostCrop, band_fill, band_tone, frame_fill
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, BandLayout, graph_frame, graph_frame_spec
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.training.crop import GraphCrop, box_state, frame_planes, template_side

SPEC = CropSpec()
FLOATS = st.floats(-1.0, 2.0)
# Frame size, centre in units of the frame (may be off it), box size in units of the frame (may exceed it).
CASES = st.tuples(
    st.integers(1, 90), st.integers(1, 90), FLOATS, FLOATS, st.floats(0.01, 3.0), st.floats(0.01, 3.0), st.integers(0, 2**32 - 1)
)


def noise(height: int, width: int, layout: str, seed: int) -> np.ndarray:
    """White noise: the hardest frame for two interpolations to agree on."""
    top = 2**16 if layout == GRAY16 else 2**8
    shape = (height, width, 3) if layout == BGR8 else (height, width)
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint16 if layout == GRAY16 else np.uint8)


def both_crops(pixels, layout, box: Box, size: int, tone=None, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    fill = frame_fill(pixels)
    side = SPEC.template_side_px(box.width, box.height) * size / SPEC.template_size
    host = HostCrop(size, channels)(pixels, layout, box.centre_xy, side, fill, tone)
    state = box_state(torch.tensor([box], dtype=torch.float32), pixels.shape[:2])
    planes = frame_planes(torch.from_numpy(graph_frame(pixels).copy()), layout)
    bounds = None if tone is None else torch.tensor([tone], dtype=torch.float32)
    graph = GraphCrop(SPEC, layout, size, channels)(planes, state, torch.tensor([fill], dtype=torch.float32), bounds).numpy()
    assert host.shape == graph.shape == (1, channels, size, size)
    assert host.dtype == graph.dtype == np.float32
    return host, graph


def box_of(case) -> tuple[int, int, Box, int]:
    height, width, x, y, w, h, seed = case
    return height, width, Box.from_centre(x * width, y * height, w * width, h * height), seed


@settings(max_examples=60, deadline=None)
@given(case=CASES, layout=st.sampled_from([GRAY8, BGR8]), size=st.sampled_from([127, 255]))
def test_eight_bits_agree_within_one_level(case, layout, size) -> None:
    height, width, box, seed = box_of(case)
    host, graph = both_crops(noise(height, width, layout, seed), layout, box, size)
    assert np.abs(host - graph).max() <= 1.0


@settings(max_examples=40, deadline=None)
@given(case=CASES, layout=st.sampled_from([GRAY8, BGR8]), size=st.sampled_from([127, 255]))
def test_gray_patches_agree_within_one_level(case, layout, size) -> None:
    height, width, box, seed = box_of(case)
    host, graph = both_crops(noise(height, width, layout, seed), layout, box, size, channels=1)
    assert np.abs(host - graph).max() <= 1.0


@settings(max_examples=40, deadline=None)
@given(case=CASES, size=st.sampled_from([127, 255]))
def test_sixteen_bit_counts_agree_to_a_thousandth(case, size) -> None:
    height, width, box, seed = box_of(case)
    host, graph = both_crops(noise(height, width, GRAY16, seed), GRAY16, box, size)
    assert np.abs(host - graph).max() <= 1e-3 * 65535


@settings(max_examples=40, deadline=None)
@given(case=CASES, low=st.integers(0, 60000), span=st.integers(256, 5000))
def test_tone_mapped_counts_agree_within_one_level(case, low, span) -> None:
    height, width, box, seed = box_of(case)
    # Noise over half as much again as the span, so that both ends are clipped.
    counts = low + noise(height, width, GRAY16, seed) * (1.5 * span / 65535) - span / 4
    pixels = np.clip(counts, 0, 65535).astype(np.uint16)
    host, graph = both_crops(pixels, GRAY16, box, 127, tone=(float(low), float(low + span)))
    assert np.abs(host - graph).max() <= 1.0
    assert graph.min() >= 0 and graph.max() <= 255


@pytest.mark.parametrize("layout", [GRAY8, BGR8, GRAY16])
@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (7, 1)])
def test_a_frame_of_one_pixel_can_be_cropped(layout: str, hw: tuple[int, int]) -> None:
    for box in (Box(0, 0, 1, 1), Box(-30, -30, 5, 5), Box(-100, -100, 900, 900), Box(0.2, 0.2, 0.1, 0.3)):
        host, graph = both_crops(noise(*hw, layout, 3), layout, box, 255)
        assert np.abs(host - graph).max() <= 1.0


@pytest.mark.parametrize("layout", [GRAY8, BGR8])
def test_off_the_frame_there_is_only_fill(layout: str) -> None:
    pixels = noise(40, 60, layout, 5)
    host, graph = both_crops(pixels, layout, Box(-500, 900, 30, 30), 127)
    fill = np.array(frame_fill(pixels), dtype=np.float32)[None, :, None, None]
    np.testing.assert_array_equal(host, np.broadcast_to(fill, host.shape))
    np.testing.assert_array_equal(graph, host)


@pytest.mark.parametrize("layout", [GRAY8, BGR8])
def test_a_square_of_the_patchs_size_on_whole_pixels_is_a_copy(layout: str) -> None:
    """Half-pixel exactness: neither crop may shift the picture."""
    pixels = noise(300, 300, layout, 6)
    # A box of side 63.5 has a template square of side 127; its corner lies on pixel (70, 80).
    box = Box.from_centre(70 + 63.5, 80 + 63.5, 63.5, 63.5)
    assert SPEC.template_side_px(box.width, box.height) == 127
    host, graph = both_crops(pixels, layout, box, 127)
    want = np.atleast_3d(pixels)[80:207, 70:197].transpose(2, 0, 1)
    np.testing.assert_array_equal(host[0], np.broadcast_to(want, (3, 127, 127)))
    np.testing.assert_allclose(graph[0], np.broadcast_to(want, (3, 127, 127)), atol=0.01)


@settings(max_examples=30, deadline=None)
@given(width=st.floats(0.5, 2000), height=st.floats(0.5, 2000))
def test_the_graph_measures_the_window_as_the_host_does(width: float, height: float) -> None:
    side = template_side(torch.tensor([[width]]), torch.tensor([[height]]), SPEC)
    assert side.item() == pytest.approx(SPEC.template_side_px(width, height), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(case=CASES, layout=st.sampled_from(["mosaic4c16u8", "mosaic4c15u16", "mosaic5c25u16", "cube9u8", "cube31u16"]))
def test_bands_agree_within_one_level(case, layout) -> None:
    height, width, box, seed = box_of(case)
    banded = BandLayout.parse(layout)
    sensor, cell = banded.sensor(), banded.pattern or 1
    shape = (height * cell, width * cell) if banded.pattern else (height, width, banded.bands)
    dtype = np.uint8 if banded.bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**banded.bits, shape).astype(dtype)
    planes = sensor.planes(pixels)
    fill, tone = band_fill(planes), band_tone(planes, sensor.band_dark, sensor.band_gain)
    side = SPEC.template_side_px(box.width, box.height)
    host = HostCrop(127, banded.bands).bands(planes, box.centre_xy, side, fill, tone)
    raw = graph_frame(pixels)
    assert raw.shape == graph_frame_spec(layout, (height, width)).shape
    found = frame_planes(torch.from_numpy(raw.copy()), layout)
    np.testing.assert_array_equal(found[0].numpy(), np.stack(planes))
    state = box_state(torch.tensor([box], dtype=torch.float32), (height, width))
    bounds = torch.from_numpy(np.concatenate(tone)[None])
    graph = GraphCrop(SPEC, layout, 127, banded.bands)(found, state, torch.tensor([fill], dtype=torch.float32), bounds)
    assert np.abs(host - graph.numpy()).max() <= 1.0
