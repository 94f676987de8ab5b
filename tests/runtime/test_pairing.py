"""Nearest-time pairing, the source of pairs, and what a missing camera looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.errors import InputError, SourceError
from trackctl.runtime.frame import Frame
from trackctl.runtime.pairing import Pairing, Together, flattened
from trackctl.runtime.rig import Rig
from trackctl.runtime.sources import Source, open_source
from trackctl.runtime.sources.pair import PairSource, PairSpec

MS = 1_000_000
PERIOD = 40 * MS


class Played(Source):
    """Frames at given times."""

    def __init__(self, name: str, times_ms: list[float], pixels: list[np.ndarray], *, fps: float = 25.0, live: bool = False):
        self.name, self.fps, self.live, self.count = name, fps, live, len(times_ms)
        self.frame_hw = pixels[0].shape[:2]
        self._times, self._pixels = times_ms, pixels
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for index, (time, pixels) in enumerate(zip(self._times, self._pixels, strict=True)):
            yield Frame(pixels, round(time * MS), index)

    def close(self) -> None:
        self.closed = True


def picture(level: int = 100, channels: int = 1, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    noise = np.random.default_rng(level).integers(0, 40, (*hw, channels), dtype=np.uint8) + np.uint8(level)
    return noise[..., 0] if channels == 1 else noise


def blank(frame: int = 0) -> Frame:
    return Frame(np.zeros((4, 4), np.uint8), frame, 0)


def paired(lead: str, visible: list[int], thermal: list[int], tolerance: int = 20 * MS, offset: int = 0) -> list[Together]:
    pairing = Pairing(lead=lead, period_ns=PERIOD, tolerance_ns=tolerance, offset_ns=offset)
    events = sorted(
        [(time, lead != "visible", "visible", blank(time)) for time in visible]
        + [(time - offset, lead != "thermal", "thermal", blank(time)) for time in thermal],
        key=lambda event: event[:2],
    )
    out = [pair for _, _, side, frame in events for pair in pairing.add(side, frame)]
    return out + list(pairing.end())


def times(pairs: list[Together]) -> list[tuple[int | None, int | None]]:
    return [
        tuple(None if frame is None else frame.timestamp_ns // MS for frame in (pair.visible, pair.thermal)) for pair in pairs
    ]


def test_each_leading_frame_gets_the_nearest() -> None:
    assert times(paired("visible", [0, 40 * MS, 80 * MS], [5 * MS, 38 * MS, 95 * MS])) == [(0, 5), (40, 38), (80, 95)]


def test_the_slower_camera_may_lead() -> None:
    visible = [index * 20 * MS for index in range(6)]
    assert times(paired("thermal", visible, [9 * MS, 51 * MS, 89 * MS])) == [(0, 9), (60, 51), (80, 89)]


def test_a_frame_without_a_partner_goes_alone() -> None:
    assert times(paired("visible", [0, 40 * MS, 80 * MS, 120 * MS], [0, 80 * MS, 120 * MS])) == [
        (0, 0),
        (40, None),
        (80, 80),
        (120, 120),
    ]


def test_the_other_camera_goes_on_when_the_leading_one_is_silent() -> None:
    thermal = [index * PERIOD for index in range(8)]
    found = times(paired("visible", [0, 40 * MS, 240 * MS, 280 * MS], thermal))
    assert found[:2] == [(0, 0), (40, 40)] and found[-2:] == [(240, 240), (280, 280)]
    assert found[2:-2] == [(None, 120), (None, 160), (None, 200)]


def test_the_clocks_may_differ() -> None:
    thermal = [int((1000 + 40 * index) * MS) for index in range(3)]
    assert times(paired("visible", [0, 40 * MS, 80 * MS], thermal, offset=1000 * MS)) == [(0, 1000), (40, 1040), (80, 1080)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 25), max_size=20, unique=True).map(sorted),
    st.lists(st.integers(0, 25), max_size=20, unique=True).map(sorted),
    st.integers(0, 30),
)
def test_pairs_are_in_order_within_the_tolerance_and_no_leading_frame_is_lost(
    visible: list[int], thermal: list[int], tolerance_ms: int
) -> None:
    found = paired("visible", [at * PERIOD // 2 for at in visible], [at * PERIOD // 2 for at in thermal], tolerance_ms * MS)
    stamps = [pair.timestamp_ns for pair in found]
    assert stamps == sorted(set(stamps))
    assert [pair.visible.timestamp_ns for pair in found if pair.visible] == [at * PERIOD // 2 for at in visible]
    for pair in found:
        assert pair.visible is not None or pair.thermal is not None
        if pair.visible and pair.thermal:
            apart = abs(pair.visible.timestamp_ns - pair.thermal.timestamp_ns)
            assert apart <= tolerance_ms * MS
            assert apart == min(abs(pair.visible.timestamp_ns - at * PERIOD // 2) for at in thermal)


def test_times_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        Pairing(lead="visible", period_ns=0, tolerance_ns=1)


def test_a_pair_has_four_planes_and_names_what_is_missing() -> None:
    covered = np.full((48, 64), 16, np.uint8)
    visible = Played("v", [0, 40, 80], [picture(50, 3), picture(60, 3), picture(70, 3)])
    thermal = Played("t", [0, 40], [picture(120), covered])
    with PairSource(visible, thermal) as source:
        frames = list(source)
    assert visible.closed and thermal.closed
    assert [frame.missing for frame in frames] == [(), ("thermal",), ("thermal",)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    np.testing.assert_array_equal(frames[0].pixels[:, :, :3], picture(50, 3))
    np.testing.assert_array_equal(frames[0].pixels[:, :, 3], picture(120))
    level = int(np.rint(picture(120).mean()))
    assert (frames[1].pixels[:, :, 3] == level).all() and (frames[2].pixels[:, :, 3] == level).all()


def test_sixteen_bit_counts_and_grey_pictures_are_taken() -> None:
    counts = (picture(100).astype(np.uint16) * 20) + 7000
    with PairSource(Played("v", [0], [picture(30)]), Played("t", [0], [counts])) as source:
        pixels = next(iter(source)).pixels
    assert pixels.dtype == np.uint8 and np.ptp(pixels[:, :, 3]) > 200
    np.testing.assert_array_equal(pixels[:, :, 0], picture(30))


def test_the_rig_lays_the_thermal_picture_over_the_visible_one() -> None:
    shift = np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]])
    rig = Rig((64, 48), (32, 24), shift)
    thermal = np.zeros((24, 32), np.uint8)
    thermal[10:14, 20:24] = 200
    with PairSource(Played("v", [0], [picture(30, 3)]), Played("t", [0], [thermal]), rig=rig) as source:
        plane = next(iter(source)).pixels[:, :, 3]
    rows, columns = np.nonzero(plane > 150)
    assert (rows.mean(), columns.mean()) == pytest.approx((23.5, 43.5), abs=0.5)


def test_live_cameras_are_paired_as_they_arrive_and_one_may_die() -> None:
    class Dying(Played):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            raise SourceError("the cable is out")

    visible = Played("v", [0.0] * 3, [picture(40 + 9 * index, 3) for index in range(3)], live=True)
    source = PairSource(visible, Dying("t", [0.0], [picture(40)], live=True), tolerance_ms=5000.0)
    assert source.live
    found = []
    with pytest.raises(SourceError, match="cable"):
        found.extend(source)
    assert len(found) == 3 and all(frame.pixels.shape == (48, 64, 4) and not frame.missing for frame in found)
    source.close()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(SourceError, match="without a rig"):
        PairSource(Played("v", [0], [picture(1)]), Played("t", [0], [picture(1, hw=(24, 32))]))
    with pytest.raises(SourceError, match="take alike ones"):
        PairSource(Played("v", [0], [picture(1)]), Played("t", [0], [picture(1)], live=True))
    with pytest.raises(InputError, match="same shape"):
        rig = Rig((640, 480), (32, 24), np.eye(3))
        PairSource(Played("v", [0], [picture(1, hw=(48, 48))]), Played("t", [0], [picture(1, hw=(24, 32))]), rig=rig)


def test_the_uri() -> None:
    spec = PairSpec.parse("a.mp4,b%2Cc.mp4?rig=r.json&tolerance_ms=15")
    assert (spec.visible, spec.thermal, spec.rig, spec.tolerance_ms) == ("a.mp4", "b,c.mp4", Path("r.json"), 15.0)
    assert PairSpec.parse("synth:,synth:?frames=3").thermal == "synth:?frames=3"
    assert PairSpec.parse("a,synth:?frames=3?offset_ms=-4") == PairSpec(visible="a", thermal="synth:?frames=3", offset_ms=-4.0)
    for text, message in (
        ("a.mp4", "a comma between"),
        ("a,b,c", "a comma between"),
        ("a,b?rigg=1&rig=x", "do you mean rig"),
        ("a,b?tolerance_ms=-1", "milliseconds"),
        ("a,b?offset_ms=soon", "milliseconds"),
    ):
        with pytest.raises(SourceError, match=message):
            PairSpec.parse(text)


def test_two_recordings_are_opened_by_uri(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.stack([picture(level, 3) for level in (10, 20)]))
    np.save(tmp_path / "t.npy", np.stack([picture(level) for level in (30, 40)]))
    with open_source(f"pair:{tmp_path / 'v.npy'},{tmp_path / 't.npy'}") as source:
        frames = list(source)
        assert [frame.missing for frame in frames] == [(), ()]
        again = list(source)
    np.testing.assert_array_equal(frames[1].pixels, again[1].pixels)


def test_a_window_that_reaches_out_of_the_frame_stays_flat_without_the_camera() -> None:
    pixels = np.dstack((picture(10, 3), picture(90)))
    flat = flattened(pixels, ("thermal",), (1.0, 2.0, 3.0, 55.0))
    assert (flat[:, :, 3] == 55).all() and (pixels[:, :, 3] != 55).any()
    np.testing.assert_array_equal(flat[:, :, :3], pixels[:, :, :3])
    assert (flattened(pixels, ("visible",), (1.0, 2.0, 3.0, 55.0))[0, 0, :3] == (1, 2, 3)).all()


def test_sinks_say_what_is_missing(tmp_path: Path) -> None:
    import cv2

    from trackctl.runtime.confidence import Status
    from trackctl.runtime.geometry import Box
    from trackctl.runtime.sinks.jsonl import JsonLinesSink
    from trackctl.runtime.sinks.video import VideoSink
    from trackctl.runtime.tracker import Result

    result = Result(Box(5, 5, 10, 10), 0.5, Status.TRACKING, {}, {}, ("thermal",))
    pixels = np.dstack((picture(10, 3, (240, 320)), picture(90, hw=(240, 320))))
    whole, half = Frame(pixels, 0, 0), Frame(pixels, 40 * MS, 1, missing=("thermal",))
    with JsonLinesSink(tmp_path / "o.jsonl") as lines, VideoSink(tmp_path / "o.mp4", 25.0) as video:
        for frame in (whole, half):
            lines.write(frame, result)
            video.write(frame, result)
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert "missing" not in records[0] and records[1]["missing"] == ["thermal"]
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 640
    capture.release()
