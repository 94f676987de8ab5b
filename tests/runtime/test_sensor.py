from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackctl.runtime.errors import FrameError, InputError
from trackctl.runtime.frame import BandLayout, Frame, graph_frame, graph_frame_spec, layout_of
from trackctl.runtime.sensor import KNOWN, Sensor, mosaic_of, read_sensor


def described(folder: Path, text: str) -> str:
    path = folder / "camera.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("pattern", [4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_band_p_lies_at_row_and_column_of_its_number(pattern: int, dtype: type) -> None:
    """The order of X2Cube: band = pattern * (row % pattern) + column % pattern."""
    rows, columns = np.mgrid[: 3 * pattern, : 2 * pattern]
    mosaic = (pattern * (rows % pattern) + columns % pattern).astype(dtype)
    planes = Sensor(positions=pattern**2, pattern=pattern).planes(mosaic)
    assert [np.unique(plane).tolist() for plane in planes] == [[band] for band in range(pattern**2)]
    assert all(plane.shape == (3, 2) and np.shares_memory(plane, mosaic) for plane in planes)


def test_a_mosaic_of_a_cube_has_its_planes() -> None:
    cube = np.random.default_rng(0).integers(0, 1000, (6, 7, 15), dtype=np.uint16)
    sensor = KNOWN["rednir15"]
    planes = sensor.planes(mosaic_of(cube, 4))
    assert len(planes) == sensor.count == 15
    np.testing.assert_array_equal(np.dstack(planes), cube)


def test_order_dead_bands_and_corrections_follow_the_bands(tmp_path: Path) -> None:
    text = "pattern = 4\norder = [15, 2, 7, 1, 0, 5]\ndead = [7]\ndark = 3\n"
    text += f"gain = {[float(p + 1) for p in range(16)]}\nwavelengths_nm = {[500 + 10 * p for p in range(16)]}\n"
    sensor = read_sensor(described(tmp_path, text))
    assert sensor.bands == (15, 2, 1, 0, 5)
    assert sensor.band_nm == (650.0, 520.0, 510.0, 500.0, 550.0)
    assert sensor.band_dark.tolist() == [3.0] * 5
    assert sensor.band_gain.tolist() == [16.0, 3.0, 2.0, 1.0, 6.0]
    assert not sensor.in_order


def test_bands_are_chosen_by_wavelength(tmp_path: Path) -> None:
    path = described(tmp_path, "at_nm = [402, 500, 613, 690, 550]\ndead = [2]")
    sensor = read_sensor(path, positions=31, wavelengths_nm=[400.0 + 10 * band for band in range(31)])
    assert sensor.band_nm == (400.0, 500.0, 610.0, 690.0, 550.0)
    with pytest.raises(InputError, match="wavelength list"):
        read_sensor(path, positions=31)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patern = 4", "do you mean pattern"),
        ("pattern = 3", "pattern of 4 or 5"),
        ("dead = [1]", "how many bands"),
        ("pattern = 4\ndead = [16]", "0 to 15"),
        ("pattern = 4\norder = [0, 0, 1, 2, 3]", "different positions"),
        ("pattern = 4\nwavelengths_nm = [500, 510]", "2 wavelengths for 16 bands"),
        ("pattern = 4\ngain = 0", "gain"),
        ("pattern = 4\ndark = [1, 2]", "1 or 16"),
        ("pattern = 4\ndead = [0,1,2,3,4,5,6,7,8,9,10,11]", "at least 5"),
        ("pattern = 4\nbits = 17", "bits 17"),
        ("pattern = 4\nbits = '8'", "positive whole number"),
        ("pattern = 4\norder = ['a']", "whole numbers"),
        ("bands = 8\nat_nm = [500]", "wavelength list"),
        ("pattern = ", "cannot read"),
    ],
)
def test_a_wrong_description_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_sensor(described(tmp_path, text))
    assert "camera.toml" in str(caught.value)


def test_an_unknown_sensor_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="vis16, nir25, rednir15"):
        read_sensor("vis17")


@pytest.mark.parametrize("hw", [(8, 9), (9, 8), (2, 2)])
def test_a_mosaic_must_have_whole_cells(hw: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match=r"got a mosaic of \d+ x \d+ px, expected multiples of its pattern 4"):
        layout_of(np.zeros(hw, np.uint8), KNOWN["vis16"])


@pytest.mark.parametrize("pixels", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32), np.zeros((8, 8, 16), np.uint8)])
def test_other_frames_are_no_mosaic(pixels: np.ndarray) -> None:
    with pytest.raises(FrameError, match="expected"):
        layout_of(pixels, KNOWN["vis16"])


def test_a_cube_of_another_band_count_is_refused() -> None:
    with pytest.raises(FrameError, match=r"expected a cube \(H, W, 16\)"):
        layout_of(np.zeros((8, 8, 15), np.uint8), Sensor(positions=16))


def test_layouts_with_bands_have_names_that_are_read_back() -> None:
    named = {
        "mosaic4c16u8": (np.zeros((8, 12), np.uint8), KNOWN["vis16"]),
        "mosaic4c15u16": (np.zeros((8, 12), np.uint16), KNOWN["rednir15"]),
        "mosaic5c25u16": (np.zeros((10, 15), np.uint16), KNOWN["nir25"]),
        "cube31u8": (np.zeros((2, 3, 31), np.uint8), None),
    }
    for name, (pixels, sensor) in named.items():
        assert layout_of(pixels, sensor) == name == str(BandLayout.parse(name))
        assert Frame(pixels, 0, 0, sensor).hw == (2, 3)
        assert graph_frame(pixels).shape == graph_frame_spec(name, (2, 3)).shape
        layout = BandLayout.parse(name)
        assert layout is not None
        assert layout_of(pixels, layout.sensor()) == name
    for name in ("mosaic4c17u8", "mosaic3c9u8", "cube4u8", "cube16u12", "gray8"):
        assert BandLayout.parse(name) is None
