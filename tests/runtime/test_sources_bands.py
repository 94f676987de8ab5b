"""Hyperspectral sources: mosaics, raw video and cubes of every kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.errors import FrameError, InputError, SourceError
from trackctl.runtime.false_colour import FalseColour
from trackctl.runtime.sensor import KNOWN, Sensor, mosaic_of
from trackctl.runtime.sources import Source, open_source

NM = tuple(460.0 + 10 * band for band in range(16))


def cubes(count: int = 3, bands: int = 16, top: int = 1024) -> np.ndarray:
    return np.random.default_rng(bands).integers(0, top, (count, 12, 20, bands), dtype=np.uint16)


def bands_of(source: Source) -> np.ndarray:
    """(N, H, W, C) of all frames."""
    found = []
    for frame in source:
        assert frame.sensor is not None
        assert frame.hw == source.frame_hw
        found.append(np.dstack(frame.sensor.planes(frame.pixels)))
    return np.stack(found)


@pytest.mark.parametrize(("name", "bands"), [("vis16", 16), ("rednir15", 15), ("nir25", 25)])
@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 10), (".tif", 12), (".png", 16)])
def test_mosaic_folders(tmp_path: Path, name: str, bands: int, suffix: str, bits: int) -> None:
    made = cubes(bands=bands, top=2**bits).astype(np.uint8 if bits == 8 else np.uint16)
    for index, cube in enumerate(made):
        cv2.imwrite(str(tmp_path / f"{index + 8}{suffix}"), mosaic_of(cube, KNOWN[name].pattern or 0))
    source = open_source(f"mosaic:{tmp_path}?sensor={name}")
    assert source.frame_hw == (12, 20)
    assert source.count == 3
    np.testing.assert_array_equal(bands_of(source), made)


def test_a_sensor_beside_the_frames_is_found(tmp_path: Path) -> None:
    (tmp_path / "sensor.toml").write_text("pattern = 4\ndead = [0]\n")
    (tmp_path / "img").mkdir()
    cv2.imwrite(str(tmp_path / "img" / "1.png"), mosaic_of(cubes(1)[0], 4))
    np.testing.assert_array_equal(bands_of(open_source(f"mosaic:{tmp_path}")), cubes(1)[..., 1:])


def test_stacks_of_mosaics_and_of_cubes(tmp_path: Path) -> None:
    np.save(tmp_path / "mosaics.npy", np.stack([mosaic_of(cube, 4) for cube in cubes()]))
    np.save(tmp_path / "cubes.npy", cubes())
    np.testing.assert_array_equal(bands_of(open_source(f"mosaic:{tmp_path / 'mosaics.npy'}?sensor=vis16")), cubes())
    np.testing.assert_array_equal(bands_of(open_source(f"cubes:{tmp_path / 'cubes.npy'}")), cubes())
    np.testing.assert_array_equal(bands_of(open_source(str(tmp_path / "cubes.npy"))), cubes())


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_raw_video(tmp_path: Path, bits: int) -> None:
    made = cubes(top=2**bits).astype(np.uint8 if bits == 8 else np.uint16)
    path, camera = tmp_path / "clip.raw", tmp_path / "camera.toml"
    path.write_bytes(b"".join(mosaic_of(cube, 4).tobytes() for cube in made))
    camera.write_text(f"pattern = 4\nwidth = 80\nheight = 48\nbits = {bits}\n")
    source = open_source(f"mosaic:{path}?sensor={camera}")
    np.testing.assert_array_equal(bands_of(source), made)
    np.testing.assert_array_equal(bands_of(source), made)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"expected a multiple of \d+ for 80 x 48"):
        open_source(f"mosaic:{path}?sensor={camera}")


def test_raw_video_needs_its_size(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(b"0" * 64)
    with pytest.raises(SourceError, match="no width and height"):
        open_source(f"mosaic:{tmp_path / 'clip.raw'}?sensor=vis16")


def test_a_mosaic_of_part_cells_is_refused_with_its_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 82), np.uint16))
    with pytest.raises(FrameError, match=r"82 x 48 px, expected multiples of its pattern 4") as caught:
        open_source(f"mosaic:{tmp_path}?sensor=vis16")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "expected \\?sensor= one of vis16"),
        ("?sensor=vis61", "got the sensor 'vis61'"),
        ("?senser=vis16", "do you mean sensor"),
        ("?sensor=vis16&sensor=vis16", "twice"),
        ("?sensor=vis16&view=grey", "one of luminance, pca, colour"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, query: str, said: str) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 80), np.uint16))
    with pytest.raises(InputError, match=said):
        open_source(f"mosaic:{tmp_path}{query}")


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("unit", ["nm", "Micrometers"])
def test_envi_cubes_carry_their_wavelengths(tmp_path: Path, interleave: str, unit: str) -> None:
    envi = pytest.importorskip("spectral.io.envi")
    centres = [value / (1000.0 if unit == "Micrometers" else 1.0) for value in NM]
    for index, cube in enumerate(cubes()):
        metadata = {"wavelength": centres, "wavelength units": unit}
        envi.save_image(str(tmp_path / f"{index}.hdr"), cube, interleave=interleave, metadata=metadata)
    source = open_source(f"cubes:{tmp_path}")
    np.testing.assert_array_equal(bands_of(source), cubes())
    assert next(iter(source)).sensor == Sensor(positions=16, wavelengths_nm=NM)


def test_tiff_cubes_have_a_page_per_band(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for index, cube in enumerate(cubes()):
        tifffile.imwrite(tmp_path / f"{index}.tif", cube.transpose(2, 0, 1), photometric="minisblack")
    np.testing.assert_array_equal(bands_of(open_source(f"cubes:{tmp_path}")), cubes())


def test_matlab_cubes_of_floats_become_counts_on_the_first_ones_scale(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    made = cubes().astype(np.float64) / 1023.0
    made[1] *= 2.0
    made[0, 0, 0, 0] = -0.5
    for index, cube in enumerate(made):
        io.savemat(tmp_path / f"{index}.mat", {"cube": cube, "wavelengths": np.array(NM)[:, None], "mask": np.ones((12, 20))})
    source = open_source(f"cubes:{tmp_path}")
    found = bands_of(source)
    np.testing.assert_allclose(found, np.clip(made, 0, None) * 16384.0 / made[0].max(), atol=0.51)
    assert next(iter(source)).sensor == Sensor(positions=16, wavelengths_nm=NM)


def test_bands_of_a_cube_are_chosen_by_wavelength_or_refused(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    camera = tmp_path / "camera.toml"
    camera.write_text("at_nm = [610, 460, 521, 550, 590]\n")
    io.savemat(tmp_path / "a.mat", {"cube": cubes(1)[0], "wavelengths": NM})
    io.savemat(tmp_path / "b.mat", {"cube": cubes(1)[0]})
    found = bands_of(open_source(f"cubes:{tmp_path / 'a.mat'}?sensor={camera}"))
    np.testing.assert_array_equal(found, cubes(1)[..., [15, 0, 6, 9, 13]])
    with pytest.raises(InputError, match="wavelength list"):
        open_source(f"cubes:{tmp_path / 'b.mat'}?sensor={camera}")
    camera.write_text("bands = 25\n")
    with pytest.raises(InputError, match="describes 25 bands, the data has 16"):
        open_source(f"cubes:{tmp_path / 'a.mat'}?sensor={camera}")


@pytest.mark.parametrize("name", ["broken.mat", "broken.hdr", "broken.tif", "broken.npy", "gray.npy"])
def test_a_damaged_cube_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    if name == "gray.npy":
        np.save(tmp_path / name, np.zeros((4, 5), np.uint8))
    else:
        (tmp_path / name).write_bytes(b"no cube at all")
    with pytest.raises(SourceError, match=name):
        open_source(f"cubes:{tmp_path}")


def test_real_cubes_are_read_with_their_wavelengths(shared: Path) -> None:
    for name, bands, first in (("a_hsi_img_for_VI_demo", 224, 365.91), ("an_hsi_img_for_tgt_det_demo", 72, 367.7)):
        frame = next(iter(open_source(f"cubes:{shared / 'data' / 'hsi' / name}.mat")))
        assert frame.sensor is not None
        assert frame.sensor.count == bands
        assert frame.sensor.band_nm[0] == pytest.approx(first, abs=0.01)
        assert frame.pixels.dtype == np.uint16


def test_views_take_the_spectrum_away_or_put_it_into_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), (30, 40))
    cube = (shares @ rng.uniform(0.0, 1.0, (3, 16)) * 900).astype(np.uint16)
    np.save(tmp_path / "a.npy", np.stack([cube, cube]))
    luminance = next(iter(open_source(f"cubes:{tmp_path / 'a.npy'}?view=luminance"))).pixels
    assert luminance.shape == cube.shape
    np.testing.assert_array_equal(luminance, np.repeat(np.rint(cube.mean(axis=2, keepdims=True)).astype(np.uint16), 16, axis=2))
    pca = next(iter(open_source(f"cubes:{tmp_path / 'a.npy'}?view=pca"))).pixels
    assert pca.shape == (30, 40, 3)
    # Two components hold all that three materials whose shares sum to 1 can show.
    axes = np.linalg.svd(cube.reshape(-1, 16) - cube.reshape(-1, 16).mean(axis=0), full_matrices=False)
    correlation = np.corrcoef(pca[:, :, 0].ravel(), axes[0][:, 0])[0, 1]
    assert abs(correlation) > 0.99
    colour = FalseColour(Sensor(positions=16, wavelengths_nm=tuple(reversed(NM))))(cube)
    red = cube[:, :, :5].mean(axis=2)  # long wavelengths come first in this sensor
    assert np.corrcoef(colour[:, :, 2].ravel(), red.ravel())[0, 1] > 0.98
