from __future__ import annotations

import pytest
from blob_tracker import Blob

from trackctl.calibration.footage import Footage
from trackctl.runtime.errors import InputError


def test_footage_plays_from_the_start_each_time():
    footage = Blob().footage(frames=4)
    for _ in range(2):
        assert [frame.index for frame in footage] == [0, 1, 2, 3]
    assert len(list(Blob(3).footage())) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clips/blob/img", "blob"),
        ("/home/somebody/flight.avi", "flight.avi"),
        ("synth:vehicle, seed 0", "synth:vehicle, seed 0"),
        ("img", "img"),
    ],
)
def test_its_name_does_not_tell_where_it_lies(name, expected):
    source = Blob()
    source.name = name
    assert Footage(source=source, box=source.box(0)).name == expected


def test_a_camera_is_refused():
    source = Blob()
    source.live = True
    with pytest.raises(InputError, match="never ends or plays only once: give a recording"):
        Footage(source=source, box=source.box(0), frames=5)


def test_an_endless_recording_needs_a_limit():
    source = Blob()
    source.count = None
    with pytest.raises(InputError, match="give a recording"):
        Footage(source=source, box=source.box(0))
    assert len(list(Footage(source=source, box=source.box(0), frames=5))) == 5
