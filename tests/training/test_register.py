"""Objects followed from still to still."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from test_data import texture

from trackctl.runtime.geometry import Box
from trackctl.training.data.register import features, homography, moved, same_objects


def test_a_known_camera_motion_is_recovered() -> None:
    still = texture(240, 320, 3)
    angle, scale = math.radians(4), 1.08
    true = np.array(
        [[scale * math.cos(angle), -math.sin(angle), 5.0], [math.sin(angle), scale * math.cos(angle), -7.0], [0, 0, 1.0]]
    )
    later = cv2.warpPerspective(still, true, (320, 240))
    matrix = homography(features(still), features(later))
    assert matrix is not None
    corners = np.array([[[60.0, 60.0], [260.0, 60.0], [260.0, 180.0], [60.0, 180.0]]])
    error = cv2.perspectiveTransform(corners, matrix) - cv2.perspectiveTransform(corners, true)
    assert float(np.abs(error).max()) < 1.0
    again = homography(features(still), features(later))
    assert again is not None and np.array_equal(matrix, again)


def test_stills_of_other_places_do_not_register() -> None:
    assert homography(features(texture(200, 240, 4)), features(texture(200, 240, 5))) is None
    assert homography(features(np.zeros((50, 50), np.uint8)), features(texture(200, 240, 5))) is None


def test_a_box_is_carried_along() -> None:
    box = Box(10.0, 20.0, 30.0, 40.0)
    shifted = moved(box, np.array([[1.0, 0, 5], [0, 1, -3], [0, 0, 1]]))
    assert shifted == pytest.approx((15, 17, 30, 40))
    enlarged = moved(box, np.diag([2.0, 2.0, 1.0]))
    assert enlarged == pytest.approx((20, 40, 60, 80))


def test_the_same_object_is_each_others_best() -> None:
    still = np.eye(3)
    first = [Box(0, 0, 20, 20), Box(8, 0, 20, 20), Box(100, 100, 10, 10)]
    second = [Box(200, 200, 10, 10), Box(9, 0, 20, 20)]
    # The first overlaps the second still's box too, but the second does so better.
    assert same_objects(first, second, still) == {1: 1}
    assert same_objects([], second, still) == same_objects(first, [], still) == {}
