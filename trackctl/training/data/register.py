"""Objects of one scene followed from still to still, after registering the stills.

Drone stills a moment apart show the same scene from a moved camera. A homography maps one onto the next; annotated boxes that
agree after the mapping are one object, seen twice under real motion.

Shapes: K key points of a still.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import Box, iou
from trackctl.training.data.store import Gray

# All [ours].
FEATURES = 800  # most key points of a still
INLIERS = 30  # stills with fewer agreeing matches do not register
REPROJECTION_PX = 3.0  # largest distance of an agreeing match
SAME_OBJECT_IOU = 0.4  # after the mapping

Features = tuple[NDArray[np.float32], NDArray[np.uint8]]


def features(pixels: Gray) -> Features:
    """ORB key points (K, 2) and descriptors (K, 32) of a still (Rublee et al., ICCV 2011)."""
    orb = cv2.ORB.create(FEATURES, fastThreshold=7)
    points, descriptors = orb.detectAndCompute(pixels, None)
    if descriptors is None:
        return np.empty((0, 2), np.float32), np.empty((0, 32), np.uint8)
    return np.array([point.pt for point in points], dtype=np.float32), descriptors


def homography(first: Features, second: Features) -> NDArray[np.float64] | None:
    """The 3x3 matrix that maps points of the first still to the second, or None where they do not register (RANSAC)."""
    if min(len(first[0]), len(second[0])) < INLIERS:
        return None
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(first[1], second[1])
    if len(matches) < INLIERS:
        return None
    source = first[0][[match.queryIdx for match in matches]]
    target = second[0][[match.trainIdx for match in matches]]
    # RANSAC draws from OpenCV's global generator: seeded so that the same stills give the same tracks.
    cv2.setRNGSeed(0)
    matrix, inlier = cv2.findHomography(source, target, cv2.RANSAC, REPROJECTION_PX)
    if matrix is None or int(inlier.sum()) < INLIERS:
        return None
    return np.asarray(matrix, dtype=np.float64)


def moved(box: Box, matrix: NDArray[np.float64]) -> Box:
    """A box carried along: its centre mapped, its size scaled by the square root of the local change of area."""
    centre = np.array([[box.centre_xy, (box.centre_xy[0] + 1, box.centre_xy[1]), (box.centre_xy[0], box.centre_xy[1] + 1)]])
    middle, right, down = cv2.perspectiveTransform(centre, matrix)[0]
    area = abs(float(np.linalg.det(np.stack((right - middle, down - middle)))))
    return Box.from_centre(float(middle[0]), float(middle[1]), box.width * area**0.5, box.height * area**0.5)


def same_objects(first: list[Box], second: list[Box], matrix: NDArray[np.float64]) -> dict[int, int]:
    """Number of the box in the second still by its number in the first, for boxes of the same object.

    Boxes are the same object if each is the other's best after the mapping and they overlap enough.

    Args:
        first, second: boxes of the two stills, px.
        matrix: (3, 3), maps points of the first still to the second.
    """
    if not first or not second:
        return {}
    carried = np.array([moved(box, matrix) for box in first])
    overlap = iou(carried[:, None], np.array(second)[None])  # (first, second)
    best, back = overlap.argmax(axis=1), overlap.argmax(axis=0)
    return {
        number: int(other)
        for number, other in enumerate(best)
        if back[other] == number and overlap[number, other] > SAME_OBJECT_IOU
    }
