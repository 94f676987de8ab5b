"""Sources: what is delivered, and what is said when something cannot be."""

from __future__ import annotations

import pickle
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from trackctl.runtime.errors import FrameError, MissingDependency, SourceError
from trackctl.runtime.sources import Source, open_source
from trackctl.runtime.sources.images import list_images


def gray_frames(count: int = 5, dtype: type = np.uint8, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    top = 255 if dtype is np.uint8 else 16000
    return np.random.default_rng(3).integers(0, top, (count, *hw)).astype(dtype)


def smooth_colour(count: int = 8) -> list[np.ndarray]:
    """Frames that an encoder keeps in colour."""
    rng = np.random.default_rng(4)
    noise = (cv2.GaussianBlur(rng.normal(0, 1, (48, 64, 3)), (0, 0), 6) for _ in range(count))
    return [np.clip(128 + 1000 * frame, 0, 255).astype(np.uint8) for frame in noise]


def write_images(folder: Path, frames, suffix: str = ".png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame{index}{suffix}" for index in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        assert cv2.imwrite(str(path), frame)
    return paths


def pixels_of(source: Source) -> list[np.ndarray]:
    return [frame.pixels for frame in source]


def collect(source: Source) -> tuple[int, Exception]:
    """How many frames came before the error, and the error."""
    delivered = 0
    try:
        for _ in source:
            delivered += 1
    except Exception as error:
        return delivered, error
    raise AssertionError(f"{source.name} delivered all its {delivered} frames")


# Images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_folder_of_gray_images_in_natural_order(tmp_path: Path, suffix: str) -> None:
    frames = gray_frames(12)
    write_images(tmp_path, frames, suffix)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / f"._frame0{suffix}").write_bytes(b"a hidden file of another system")
    with open_source(str(tmp_path), fps=10) as source:
        assert (source.count, source.fps, source.frame_hw, source.live) == (12, 10.0, (48, 64), False)
        found = list(source)
    assert [frame.index for frame in found] == list(range(12))
    assert [frame.timestamp_ns for frame in found] == [index * 100_000_000 for index in range(12)]
    for frame, expected in zip(found, frames, strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


def test_natural_order_of_names(tmp_path: Path) -> None:
    names = ["img2.png", "img10.png", "img1.png", "IMG3.PNG", "a.jpg", "10.png", "9.png", "img001.png"]
    for name in names:
        (tmp_path / name).touch()
    expected = ["9.png", "10.png", "a.jpg", "img001.png", "img1.png", "img2.png", "IMG3.PNG", "img10.png"]
    assert [path.name for path in list_images(tmp_path)] == expected


def test_16_bit_colour_and_alpha_images(tmp_path: Path) -> None:
    counts, colour = gray_frames(2, np.uint16), smooth_colour(2)
    write_images(tmp_path / "counts", counts)
    write_images(tmp_path / "colour", colour)
    write_images(tmp_path / "alpha", [np.dstack([frame, frame[..., 0]]) for frame in colour])
    np.testing.assert_array_equal(pixels_of(open_source(str(tmp_path / "counts"))), counts)
    np.testing.assert_array_equal(pixels_of(open_source(str(tmp_path / "colour"))), colour)
    alpha = pixels_of(open_source(str(tmp_path / "alpha")))
    np.testing.assert_array_equal(alpha, colour)
    assert all(pixels.flags.c_contiguous for pixels in alpha)


def test_one_image_is_a_source_of_one_frame(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, gray_frames(1))
    assert len(pixels_of(open_source(str(path)))) == 1


def test_the_img_subfolder_is_found_only_when_needed(tmp_path: Path) -> None:
    write_images(tmp_path / "img", gray_frames(3))
    assert open_source(str(tmp_path)).count == 3
    write_images(tmp_path, gray_frames(2))
    assert open_source(str(tmp_path)).count == 2


def test_a_folder_without_images_names_those_that_have_some(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path))
    write_images(tmp_path / "visible", gray_frames(1))
    write_images(tmp_path / "infrared", gray_frames(1))
    with pytest.raises(SourceError, match="give one of its folders infrared, visible"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "suffix, damage",
    [
        (".png", lambda data: data[: len(data) // 2]),
        (".png", lambda data: data[:-20]),
        (".jpg", lambda data: data[: len(data) // 2]),
        (".jpg", lambda data: data[:-2]),
        (".bmp", lambda data: data[: len(data) // 2]),
        (".tif", lambda data: data[: len(data) // 2]),
        (".png", lambda data: b""),
        (".jpg", lambda data: b"<html>404</html>"),
    ],
)
def test_a_damaged_image_in_the_middle_is_named(tmp_path: Path, suffix: str, damage, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_images(tmp_path, gray_frames(5), suffix)[3]
    path.write_bytes(damage(path.read_bytes()))
    delivered, error = collect(open_source(str(tmp_path)))
    assert delivered == 3
    assert isinstance(error, SourceError)
    assert path.name in str(error)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_with_a_thumbnail_is_damaged_when_its_own_end_is_missing(tmp_path: Path) -> None:
    frame = smooth_colour(1)[0]
    whole = cv2.imencode(".jpg", frame)[1].tobytes()
    segment = b"Exif\0\0" + whole
    with_thumbnail = whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(with_thumbnail)
    assert open_source(str(path)).frame_hw == (48, 64)
    path.write_bytes(with_thumbnail + b"data that a camera appended")
    assert open_source(str(path)).frame_hw == (48, 64)
    path.write_bytes(with_thumbnail[:-2])
    with pytest.raises(SourceError, match=r"a\.jpg"):
        open_source(str(path))


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    paths = write_images(tmp_path, gray_frames(3))
    source = open_source(str(tmp_path))
    paths[1].unlink()
    delivered, error = collect(source)
    assert delivered == 1
    assert "frame1.png" in str(error)


@pytest.mark.parametrize(
    "odd", [gray_frames(1, hw=(40, 64))[0], gray_frames(1, np.uint16)[0], smooth_colour(1)[0]], ids=["size", "dtype", "colour"]
)
def test_a_frame_of_another_form_is_named(tmp_path: Path, odd: np.ndarray) -> None:
    paths = write_images(tmp_path, gray_frames(5))
    cv2.imwrite(str(paths[2]), odd)
    delivered, error = collect(open_source(str(tmp_path)))
    assert delivered == 2
    assert isinstance(error, FrameError)
    assert "frame 2 (frame2.png)" in str(error)


def test_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, [np.zeros((8, 8, 3), np.uint16)])
    with pytest.raises(FrameError, match=r"uint16 with shape \(8, 8, 3\)"):
        open_source(str(tmp_path))


# Stacks


@pytest.mark.parametrize(
    "stack, expected",
    [
        (gray_frames(), gray_frames()),
        (gray_frames(dtype=np.uint16), gray_frames(dtype=np.uint16)),
        (gray_frames(dtype=np.uint16).astype(">u2"), gray_frames(dtype=np.uint16)),
        (np.asfortranarray(gray_frames()), gray_frames()),
        (gray_frames()[..., None], gray_frames()),
        (np.array(smooth_colour(3)), np.array(smooth_colour(3))),
    ],
    ids=["uint8", "uint16", "big-endian", "fortran", "trailing axis", "colour"],
)
def test_npy_stacks(tmp_path: Path, stack: np.ndarray, expected: np.ndarray) -> None:
    path = tmp_path / "clip.npy"
    np.save(path, stack)
    source = open_source(f"file:{path}")
    assert source.count == len(stack)
    found = pixels_of(source)
    np.testing.assert_array_equal(found, expected)
    assert all(pixels.flags.c_contiguous and pixels.flags.owndata | pixels.flags.writeable for pixels in found)
    assert found[0].dtype.isnative
    found[0][...] = 0
    np.testing.assert_array_equal(pixels_of(source)[0], expected[0])


def test_a_cut_off_or_foreign_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.npy"
    np.save(path, gray_frames())
    data = path.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], data[:60], data[:3], b"", pickle.dumps([1, 2])):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"clip\.npy"):
            open_source(str(path))
    np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"clip\.npy"):
        open_source(str(path))


@pytest.mark.parametrize("shape", [(4, 5), (0, 4, 5), (2, 3, 4, 3, 1)])
def test_an_array_that_is_no_stack_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(SourceError, match=r"expected \(N, H, W\)"):
        open_source(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    "stack",
    [np.zeros((2, 4, 5)), np.zeros((2, 4, 5), np.int16), np.zeros((2, 4, 5, 2), np.uint8), np.zeros((2, 4, 5, 3), np.uint16)],
)
def test_a_stack_of_another_dtype_or_channels_is_refused(tmp_path: Path, stack: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", stack)
    with pytest.raises(FrameError, match=r"a\.npy: got a frame"):
        open_source(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"imagej": True}], ids=["plain", "big-endian", "zlib", "imagej"]
)
def test_16_bit_tiff_stacks(tmp_path: Path, options: dict[str, object]) -> None:
    counts = gray_frames(dtype=np.uint16)
    path = tmp_path / "clip.tif"
    tifffile.imwrite(path, counts, **options)
    source = open_source(str(path), fps=50)
    assert (source.count, source.fps) == (5, 50.0)
    np.testing.assert_array_equal(pixels_of(source), counts)


def test_a_colour_tiff_stack_is_delivered_as_bgr(tmp_path: Path) -> None:
    colour = np.array(smooth_colour(3))
    path = tmp_path / "clip.tiff"
    tifffile.imwrite(path, colour[..., ::-1], photometric="rgb")
    np.testing.assert_array_equal(pixels_of(open_source(str(path))), colour)


@pytest.mark.parametrize("keep", [0.001, 0.5, 0.95])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_cut_off_tiff_is_refused_and_quiet(
    tmp_path: Path, keep: float, compression: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.tif"
    tifffile.imwrite(path, gray_frames(dtype=np.uint16), compression=compression)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(SourceError, match=r"clip\.tif"):
        pixels_of(open_source(str(path)))
    assert capfd.readouterr() == ("", "")


def test_a_tiff_without_tifffile_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "clip.tif", gray_frames())
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingDependency, match=r"trackctl\[tiff\]"):
        open_source(str(tmp_path / "clip.tif"))


# URIs, replay, real data


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(tmp_path: Path, fps: float) -> None:
    np.save(tmp_path / "a.npy", gray_frames())
    with pytest.raises(SourceError, match="frames per second"):
        open_source(str(tmp_path / "a.npy"), fps=fps)


def test_unknown_schemes_and_paths_are_explained() -> None:
    with pytest.raises(SourceError, match=r"no scheme 'synht': do you mean synth:\?"):
        open_source("synht:?frames=3")
    for missing in ("no/such/clip.mp4", "file:no/such/clip.mp4", "C:\\clips\\a.avi"):
        with pytest.raises(SourceError, match="neither a file nor a folder"):
            open_source(missing)
    for empty in ("", "file:"):
        with pytest.raises(SourceError, match="empty source"):
            open_source(empty)
    with pytest.raises(SourceError, match="check the path and its permissions"):
        open_source("long" * 2000)


def test_file_uris(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    np.save(folder / "clip.npy", gray_frames())
    np.save(folder / "no:scheme.npy", gray_frames())
    for uri in (f"file:{folder}/clip.npy", f"FILE:{folder}/clip.npy", f"file://{tmp_path}/a%20b/clip.npy"):
        assert open_source(uri).count == 5
    assert open_source(str(folder / "no:scheme.npy")).count == 5


def test_the_current_folder_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, gray_frames(2))
    monkeypatch.chdir(tmp_path)
    assert open_source(".").count == 2


def test_a_recording_plays_again_and_loops(tmp_path: Path) -> None:
    frames = gray_frames(3)
    np.save(tmp_path / "a.npy", frames)
    with open_source(str(tmp_path / "a.npy"), fps=10) as source:
        np.testing.assert_array_equal(pixels_of(source), pixels_of(source))
    with open_source(str(tmp_path / "a.npy"), fps=10, loop=True) as source:
        assert source.count is None
        played = list(islice(source, 8))
    assert [frame.index for frame in played] == list(range(8))
    assert [frame.timestamp_ns for frame in played] == [index * 100_000_000 for index in range(8)]
    for frame in played:
        np.testing.assert_array_equal(frame.pixels, frames[frame.index % 3])


@pytest.mark.parametrize(
    "name, count, shape",
    [
        ("tir_airplane", 380, (356, 473)),
        ("tir_antiuav9/video.avi", 751, (512, 640)),
        ("vis_crossing", 120, (240, 360, 3)),
        ("vis_bag", 196, (360, 480, 3)),
    ],
)
def test_real_recordings(shared: Path, name: str, count: int, shape: tuple[int, ...]) -> None:
    source = open_source(str(shared / "data" / "sequences" / name))
    assert (source.count, source.fps) == (count, 25.0)
    assert {frame.pixels.shape for frame in islice(source, 10)} == {shape}
