"""Made hyperspectral clips keep their promises."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.errors import SourceError
from trackctl.runtime.sources import open_source
from trackctl.runtime.sources.hsi_scenes import RenderedScene
from trackctl.runtime.sources.spectra import LEAST_ANGLE, crosstalk, material_spectra
from trackctl.runtime.sources.synth_hsi import EXPOSURE, Lift, SynthHsi, SynthHsiSpec, noise_field

SMALL = "frames=3&size=96x80"


def split(source: SynthHsi, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (n, C) of the pixels in the middle of the target and far around it."""
    frame = list(source)[index]
    cube = np.dstack(frame.sensor.planes(frame.pixels)).astype(float)
    left, top, width, height = source.boxes_ltwh[index]
    rows, columns = np.mgrid[: cube.shape[0], : cube.shape[1]] + 0.5
    x, y = np.abs(columns - left - width / 2), np.abs(rows - top - height / 2)
    return cube[(x < 0.15 * width) & (y < 0.1 * height)], cube[(x > 0.6 * width) | (y > 0.6 * height)]


@pytest.mark.parametrize(("bands", "form", "depth", "shape"), [
    (16, "cube", 8, (80, 96, 16)), (25, "mosaic", 10, (400, 480)), (15, "mosaic", 12, (320, 384)), (31, "cube", 16, (80, 96, 31)),
])  # fmt: skip
def test_every_form_plays_again_alike(bands: int, form: str, depth: int, shape: tuple[int, ...]) -> None:
    source = open_source(f"synth:hsi?{SMALL}&bands={bands}&form={form}&depth={depth}&seed=5")
    first, second = list(source), list(source)
    assert len(first) == source.count == 3
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].pixels, first[1].pixels)
    frame = first[0]
    assert frame.pixels.shape == shape
    assert frame.pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert 0.2 * 2**depth < frame.pixels.max() < 2**depth
    assert frame.hw == source.frame_hw == (80, 96)
    assert frame.sensor is not None
    assert len(frame.sensor.band_nm) == bands


def test_another_seed_is_another_clip() -> None:
    one, other = (next(iter(open_source(f"synth:hsi?{SMALL}&seed={seed}"))).pixels for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(3))
def test_an_equal_target_has_the_luminance_of_what_is_behind_it(seed: int) -> None:
    """Without noise the mean over the bands is the luminance of the scene without target, exactly."""
    equal, natural = (
        RenderedScene(np.random.default_rng(seed), (96, 80), "vehicle", 2, equal=chosen) for chosen in (True, False)
    )
    spectra = material_spectra(np.random.default_rng(seed), equal.materials, 16)
    lift = Lift(noise_field(np.random.default_rng(0)), spectra)
    (luminance, shares), (lit, _) = next(equal.layers()), next(natural.layers())
    assert shares[:, :, -1].max() > 0.9
    np.testing.assert_allclose(shares.sum(axis=2), 1.0, atol=1e-5)
    np.testing.assert_allclose(lift.radiance(luminance, shares).mean(axis=2), luminance, rtol=1e-4)
    assert np.abs(lit - luminance)[shares[:, :, -1] > 0.9].mean() > 0.05
    np.testing.assert_allclose(lit[shares[:, :, -1] == 0.0], luminance[shares[:, :, -1] == 0.0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_equal_target_is_told_by_its_spectrum(seed: int) -> None:
    source = SynthHsi(SynthHsiSpec(frames=2, size=(160, 128), seed=seed, luminance="equal", depth=12))
    target, around = split(source, 0)
    one = target.mean(axis=0) / np.linalg.norm(target.mean(axis=0))
    angles = np.arccos(np.clip(around @ one / np.linalg.norm(around, axis=1), -1, 1))
    own = np.arccos(np.clip(target @ one / np.linalg.norm(target, axis=1), -1, 1))
    assert np.median(own) < 0.6 * np.percentile(angles, 1)


def test_materials_have_mean_one_and_the_target_stands_apart() -> None:
    for seed in range(20):
        spectra = material_spectra(np.random.default_rng(seed), 7, 16)
        np.testing.assert_allclose(spectra.mean(axis=1), 1.0)
        assert spectra.min() > 0.0
        unit = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
        assert np.arccos((unit[:-1] @ unit[-1]).max()) >= 0.5 * LEAST_ANGLE
    np.testing.assert_allclose(crosstalk(9).sum(axis=1), 1.0)


def test_noise_has_the_deviation_that_is_promised() -> None:
    lift = Lift(noise_field(np.random.default_rng(0)), np.ones((1, 5)), depth=16)
    flat = np.full((64, 64), 0.5, np.float32)
    counts = lift(flat, np.ones((64, 64, 1), np.float32), np.random.default_rng(1)).astype(float) / (EXPOSURE * 65535)
    assert counts.mean() == pytest.approx(0.5, abs=1e-3)
    assert counts.std() == pytest.approx(np.sqrt(0.006**2 + 0.02**2 * 0.5), rel=0.05)


def test_spectra_of_a_real_cube(shared: Path) -> None:
    source = open_source(f"synth:hsi?{SMALL}&bands=25&spectra={shared / 'data' / 'hsi' / 'an_hsi_image_sub_for_demo.mat'}")
    target, around = split(source, 0)  # type: ignore[arg-type]
    assert target.shape[1] == around.shape[1] == 25


def test_spectra_need_wavelengths(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.ones((4, 4, 30), np.uint8))
    with pytest.raises(SourceError, match="has no wavelength list"):
        open_source(f"synth:hsi?{SMALL}&spectra={tmp_path / 'cube.npy'}")


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A red square on green and blue, moving right."""
    rng = np.random.default_rng(0)
    ground = np.zeros((60, 80, 3), np.uint8)
    ground[:, :40], ground[:, 40:] = (40, 160, 40), (160, 60, 60)
    (tmp_path / "img").mkdir()
    lines = []
    for index in range(3):
        picture = ground + rng.integers(0, 20, ground.shape, dtype=np.uint8)
        picture[20:40, 20 + 4 * index : 40 + 4 * index] = (30, 30, 200)
        cv2.imwrite(str(tmp_path / "img" / f"{index}.png"), picture)
        lines.append(f"{20 + 4 * index},20,20,20")
    (tmp_path / "boxes.txt").write_text("\n".join(lines))
    return f"clip={tmp_path / 'img'}&boxes={tmp_path / 'boxes.txt'}"


def test_a_clip_keeps_its_boxes_and_its_materials(clip: str) -> None:
    source = open_source(f"synth:hsi?{clip}&seed=1&depth=12")
    assert source.count == 3
    assert source.boxes_ltwh.tolist() == [[20, 20, 20, 20], [24, 20, 20, 20], [28, 20, 20, 20]]  # type: ignore[attr-defined]
    spectra = [split(source, index)[0].mean(axis=0) for index in (0, 2)]  # type: ignore[arg-type]
    np.testing.assert_allclose(spectra[0], spectra[1], rtol=0.05)


def test_an_equal_clip_matches_mean_and_deviation_of_the_surroundings(clip: str) -> None:
    plain, equal = (open_source(f"synth:hsi?{clip}&seed=1&depth=12&luminance={kind}") for kind in ("natural", "equal"))
    gap = []
    for source in (plain, equal):
        pixels = next(iter(source)).pixels.astype(float).mean(axis=2)
        gap.append(abs(pixels[26:34, 26:34].mean() - pixels[16:44, 14:18].mean()))
    assert gap[1] < 0.5 * gap[0]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?band=16", "do you mean bands"),
        ("?bands=16&bands=16", "twice"),
        ("?bands=x", "bands=16"),
        ("bands=16", "question mark"),
        ("?bands=4", "expected 5 to 256"),
        ("?form=mosaic&bands=31", "expected one of 15, 16, 25"),
        ("?luminance=same", "natural, equal"),
        ("?size=8x8", "64x64"),
        ("?depth=20", "8 to 16"),
        ("?clip=a", "expected both"),
        ("?frames=0", "at least 1"),
    ],
)
def test_wrong_specs_are_refused(query: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        open_source(f"synth:hsi{query}")
