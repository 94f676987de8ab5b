"""The store of decoded frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import noise

from trackctl.runtime.errors import InputError, SourceError
from trackctl.runtime.geometry import Box
from trackctl.training.data.store import FRAMES_FILE, INDEX_FILE, FrameStore, Shot, write_store


def shots() -> list[Shot]:
    """Three scenes; tracks interleave; one frame without objects."""
    a, b = Box(1.5, 2.0, 10.0, 8.0), Box(3.0, 4.0, 5.25, 6.0)
    return [
        Shot("x", "one", noise(20, 30, 0), (("p", a), ("q", b))),
        Shot("x", "one", noise(20, 30, 1), ()),
        Shot("x", "two", noise(11, 7, 2), (("p", b),)),
        Shot("x", "one", noise(20, 30, 3)[:, ::2], (("q", a),)),
        Shot("y", "one", noise(5, 5, 4), (("p", a),)),
    ]


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    write_store(tmp_path / "deep" / "store", shots())
    store = FrameStore(tmp_path / "deep" / "store")
    index = store.index
    annotated = [shot for shot in shots() if shot.objects]
    assert len(index.frame_offset) == 4 and len(index.track_first) == 5
    for number, shot in enumerate(annotated):
        assert np.array_equal(store.frame(number), shot.pixels)
        assert index.frame_fill[number] == round(float(shot.pixels.mean()))
        assert not store.frame(number).flags.writeable
    assert index.track_scene.tolist() == ["x/one", "x/one", "x/two", "y/one"]
    assert index.track_source.tolist() == ["x", "x", "x", "y"]
    # Track 1 is q of scene one: seen in frames 0 and 2.
    q = slice(int(index.track_first[1]), int(index.track_first[2]))
    assert index.box_frame[q].tolist() == [0, 2] and set(index.box_track[q].tolist()) == {1}
    assert [store.box(number) for number in range(q.start, q.stop)] == [Box(3.0, 4.0, 5.25, 6.0), Box(1.5, 2.0, 10.0, 8.0)]


def test_the_same_frames_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / name, shots())
    for file in (FRAMES_FILE, INDEX_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [FRAMES_FILE, INDEX_FILE]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.lists(st.sampled_from("pqr"), max_size=3, unique=True)),
        min_size=1,
        max_size=8,
    )
)
def test_sightings_of_a_track_are_consecutive_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, layout: list[tuple[int, int, list[str]]]
) -> None:
    written = [
        Shot("s", "c", noise(h, w, k), tuple((name, Box(k, ord(name), 4.0, 4.0)) for name in names))
        for k, (h, w, names) in enumerate(layout)
    ]
    folder = tmp_path_factory.mktemp("store")
    if not any(names for _, _, names in layout):
        with pytest.raises(InputError, match="got no annotated frame"):
            write_store(folder, written)
        return
    write_store(folder, written)
    store = FrameStore(folder)
    index = store.index
    assert int(index.track_first[-1]) == sum(len(names) for _, _, names in layout)
    for track in range(len(index.track_source)):
        seen = range(int(index.track_first[track]), int(index.track_first[track + 1]))
        times = [store.box(sighting).left for sighting in seen]
        assert times == sorted(times) and len({store.box(sighting).top for sighting in seen}) == 1
        for sighting, time in zip(seen, times, strict=True):
            assert np.array_equal(store.frame(int(index.box_frame[sighting])), written[int(time)].pixels)


def test_no_store_and_an_interrupted_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no index\.npz"):
        FrameStore(tmp_path)

    def broken() -> list[Shot]:
        raise SourceError("stop")

    with pytest.raises(SourceError, match="stop"):
        write_store(tmp_path, (shot for part in (shots, broken) for shot in part()))
    assert (tmp_path / FRAMES_FILE).is_file()
    with pytest.raises(InputError, match=r"got no index\.npz"):
        FrameStore(tmp_path)


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path, shots())
    index, frames = tmp_path / INDEX_FILE, tmp_path / FRAMES_FILE
    whole, pixels = index.read_bytes(), frames.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        index.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot read the frame store .* build it again"):
            FrameStore(tmp_path)
    np.savez(index, other=np.zeros(3))
    with pytest.raises(InputError, match="cannot read the frame store"):
        FrameStore(tmp_path)
    index.write_bytes(whole)
    frames.write_bytes(pixels[:-1])
    with pytest.raises(InputError, match=f"got {len(pixels) - 1} bytes .* expected {len(pixels)}"):
        FrameStore(tmp_path)
    frames.unlink()
    with pytest.raises(InputError, match="cannot read the frame store"):
        FrameStore(tmp_path)
