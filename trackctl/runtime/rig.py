"""Two cameras on one mount: the stored homography that lays the thermal picture over the visible one.

A homography is exact for a plane, or for everything far against the distance between the two lenses; nearer and farther things
are off by the parallax. It is therefore found at the distance at which targets are expected.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.contract import Array
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

LEAST_POINTS = 4
# Point pairs that are farther apart after the mapping are taken for mistakes (RANSAC); px of the visible picture. [ours]
MISTAKE_PX = 4.0

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Rig:
    """How thermal pixels lie in the visible picture.

    Attributes:
        visible_wh, thermal_wh: sizes of the pictures that the homography was found in, px.
        homography: (3, 3) float64, maps thermal to visible pixel positions (pixel centres at whole numbers).
        error_px: root mean square distance of the point pairs after the mapping, px of the visible picture.
        points: how many point pairs that is.

    Raises:
        InputError: the homography is none, or a size is not positive.
    """

    visible_wh: tuple[int, int]
    thermal_wh: tuple[int, int]
    homography: Float64Array
    error_px: float = 0.0
    points: int = 0

    def __post_init__(self) -> None:
        matrix = self.homography
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(float(np.linalg.det(matrix))) < 1e-12:
            raise InputError("got a homography that cannot be inverted, expected a 3x3 matrix: calibrate the rig again")
        if min(*self.visible_wh, *self.thermal_wh) < 1:
            raise InputError(f"got the sizes {self.visible_wh} and {self.thermal_wh}, expected positive numbers")

    @classmethod
    def identity(cls, frame_wh: tuple[int, int]) -> Rig:
        """The rig of cameras whose pictures are registered already."""
        return cls(frame_wh, frame_wh, np.eye(3))

    @classmethod
    def fit(
        cls, thermal_xy: Float64Array, visible_xy: Float64Array, *, thermal_wh: tuple[int, int], visible_wh: tuple[int, int]
    ) -> tuple[Rig, NDArray[np.bool_]]:
        """The rig that maps the points onto each other with the least squared error, and which of them are no mistakes (N,).

        Args:
            thermal_xy, visible_xy: (N, 2) the same points in both pictures, N >= 4.
            thermal_wh, visible_wh: sizes of the pictures.

        Raises:
            InputError: there are too few points, or they lie on a line.
        """
        thermal_xy, visible_xy = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (thermal_xy, visible_xy))
        if len(thermal_xy) != len(visible_xy) or len(thermal_xy) < LEAST_POINTS:
            raise InputError(
                f"got {len(thermal_xy)} thermal and {len(visible_xy)} visible points, expected {LEAST_POINTS} or more of both, "
                "point by point the same things"
            )
        for points in (thermal_xy, visible_xy):
            spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
            if spread[1] < 1e-3 * spread[0]:
                raise InputError("got points on a line, expected points that spread over the picture: add some beside the line")
        cv2.setRNGSeed(0)
        matrix, inlier = cv2.findHomography(thermal_xy, visible_xy, cv2.RANSAC, MISTAKE_PX, maxIters=5000, confidence=0.999)
        if matrix is None:
            raise InputError("got points that no homography maps, expected the same things in both pictures: check their order")
        kept: NDArray[np.bool_] = inlier[:, 0] > 0
        error = distances(np.asarray(matrix), thermal_xy[kept], visible_xy[kept])
        rms = float(np.sqrt(np.mean(error**2)))
        return cls(visible_wh, thermal_wh, np.asarray(matrix, dtype=np.float64), rms, int(kept.sum())), kept

    @classmethod
    def load(cls, path: str | Path) -> Rig:
        """The rig of a file written by :meth:`save`.

        Raises:
            InputError: it cannot be read or is no rig.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            visible_wh, thermal_wh = ((int(held[name][0]), int(held[name][1])) for name in ("visible_wh", "thermal_wh"))
            matrix = np.array(held["homography"], dtype=np.float64)
            return cls(visible_wh, thermal_wh, matrix, float(held["error_px"]), int(held["points"]))
        except OSError as error:
            raise InputError(f"cannot read the rig {path}: {error.strerror}: make one with trackctl rig") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is no rig ({error!r}): make one with trackctl rig") from error

    def save(self, path: str | Path) -> None:
        """Write the rig as JSON.

        Raises:
            InputError: it cannot be written.
        """
        held = {
            "visible_wh": self.visible_wh,
            "thermal_wh": self.thermal_wh,
            "homography": self.homography.tolist(),
            "error_px": self.error_px,
            "points": self.points,
        }
        try:
            write_whole(Path(path), (json.dumps(held, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"cannot write the rig {path}: {error.strerror}: give a path in a folder that exists") from error

    def scaled(self, *, visible_wh: tuple[int, int], thermal_wh: tuple[int, int]) -> Rig:
        """The rig for pictures of other sizes of the same cameras (binned or enlarged, not cut).

        Raises:
            InputError: a picture has another shape than the one of the calibration.
        """
        matrix = _resized(self.visible_wh, visible_wh) @ self.homography @ _resized(thermal_wh, self.thermal_wh)
        ratio = visible_wh[0] / self.visible_wh[0]
        return Rig(visible_wh, thermal_wh, matrix, self.error_px * ratio, self.points)

    def warp(self, thermal: Array, fill: float = 0.0) -> Array:
        """The thermal picture (H, W) as the visible camera would see it, (visible height, visible width).

        Args:
            thermal: (H, W) of ``thermal_wh``, uint8 or uint16.
            fill: value where the thermal camera does not reach.
        """
        warped: Array = cv2.warpPerspective(
            thermal, self.homography, self.visible_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,)
        )
        return warped


def distances(homography: Float64Array, thermal_xy: Float64Array, visible_xy: Float64Array) -> Float64Array:
    """Distance (N,) in px of the visible picture of each point pair after the mapping."""
    mapped = cv2.perspectiveTransform(np.asarray(thermal_xy, dtype=np.float64)[None], homography)[0]
    apart: Float64Array = np.hypot(*(mapped - visible_xy).T)
    return apart


def _resized(own_wh: tuple[int, int], wanted_wh: tuple[int, int]) -> Float64Array:
    """Maps pixel positions of a picture to those of the same picture in another size."""
    x, y = (wanted / own for wanted, own in zip(wanted_wh, own_wh, strict=True))
    if not math.isclose(x, y, rel_tol=0.02):
        raise InputError(
            f"got pictures of {wanted_wh[0]}x{wanted_wh[1]} for a rig of {own_wh[0]}x{own_wh[1]}, expected the same shape: "
            "calibrate the rig again in this mode of the camera"
        )
    return np.array([[x, 0.0, (x - 1.0) / 2.0], [0.0, y, (y - 1.0) / 2.0], [0.0, 0.0, 1.0]])


def board_points(
    visible: Uint8Array, thermal: Uint8Array, inner_wh: tuple[int, int], *, circles: bool = False
) -> tuple[Float64Array, Float64Array] | None:
    """The same points (N, 2) of a board in the thermal and in the visible picture; None if one of them does not show it.

    A heated board may show its pattern in the negative. It is assumed to stand alike in both pictures: the cameras of a rig look
    the same way up.

    Args:
        visible, thermal: (H, W) uint8.
        inner_wh: inner corners of a checkerboard, or circles of a symmetric grid, across and down.
        circles: the board is a grid of circles, or of holes before a heated plate, rather than a checkerboard.
    """
    found = [_board(picture, inner_wh, circles) for picture in (thermal, visible)]
    if found[0] is None or found[1] is None:
        return None
    seen, wanted = found[0], found[1]
    # A board looks the same from behind half a turn; detectors begin at either end.
    if float(np.dot(seen[-1] - seen[0], wanted[-1] - wanted[0])) < 0.0:
        seen = seen[::-1]
    return seen, wanted


def _board(picture: Uint8Array, inner_wh: tuple[int, int], circles: bool) -> Float64Array | None:
    for shown in (picture, 255 - picture):
        if circles:
            found, points = cv2.findCirclesGrid(shown, inner_wh, flags=cv2.CALIB_CB_SYMMETRIC_GRID)
        else:
            found, points = cv2.findChessboardCornersSB(shown, inner_wh, flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
        if found:
            located: Float64Array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
            return located
    return None


def rig_picture(
    rig: Rig, visible: Uint8Array, thermal: Uint8Array, thermal_xy: Float64Array, visible_xy: Float64Array
) -> Uint8Array:
    """The visible picture in grey with the thermal one over it in red, (H, W, 3) BGR: what fits is free of coloured rims.

    Green rings are points of the visible picture, crosses those of the thermal one after the mapping.
    """
    ground = visible if visible.ndim == 2 else cv2.cvtColor(visible, cv2.COLOR_BGR2GRAY)
    over = cv2.normalize(rig.warp(thermal), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    shown: Uint8Array = np.dstack((ground, ground, cv2.addWeighted(ground, 0.5, over, 0.5, 0.0)))
    mapped = cv2.perspectiveTransform(np.asarray(thermal_xy, dtype=np.float64)[None], rig.homography)[0]
    for here, there in zip(visible_xy, mapped, strict=True):
        cv2.circle(shown, (round(float(here[0])), round(float(here[1]))), 6, (64, 230, 96), 1, cv2.LINE_AA)
        cross = (round(float(there[0])), round(float(there[1])))
        cv2.drawMarker(shown, cross, (0, 190, 255), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
    return shown
