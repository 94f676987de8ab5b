"""Tighter boxes for small targets before a plain background, such as aircraft against the sky.

Shapes: H x W frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from trackctl.runtime.geometry import Box
from trackctl.training.data.store import Gray

# Everything below is [ours]; no paper describes it.
RING = 0.5  # background ring round the box, share of its sides
NOISES = 5.0  # a target pixel differs from the background by this many standard deviations ...
CONTRAST = 0.3  # ... and by this share of the strongest difference in the box
MARGIN_PX = 0.6  # kept round the pixels found: half a pixel of blur on each side
SMALLEST = 0.3  # an extent below this share of the loose side is taken for noise
NEIGHBOURS = 10  # frames on either side whose median steadies the result
FALLBACK = 0.8  # share of the loose side where nothing can be measured


def target_extent(pixels: Gray, box: Box) -> tuple[float, float, float, float] | None:
    """Where the target lies in its loose box, or None if it does not stand out.

    Returns:
        left, top, right, bottom as shares of the box, 0..1.
    """
    height, width = pixels.shape
    left, top = max(0, round(box.left)), max(0, round(box.top))
    right, bottom = min(width, round(box.left + box.width)), min(height, round(box.top + box.height))
    if right - left < 4 or bottom - top < 4:
        return None
    pad_x, pad_y = round(RING * box.width) + 1, round(RING * box.height) + 1
    x0, y0 = max(0, left - pad_x), max(0, top - pad_y)
    around = pixels[y0 : bottom + pad_y, x0 : right + pad_x].astype(np.float32)
    outside = np.ones(around.shape, dtype=bool)
    outside[top - y0 : bottom - y0, left - x0 : right - x0] = False
    ring = around[outside]
    if ring.size < 16:
        return None
    level = float(np.median(ring))
    noise = 1.4826 * float(np.median(np.abs(ring - level))) + 1.0
    difference = np.abs(pixels[top:bottom, left:right].astype(np.float32) - level)
    mask = (difference > max(NOISES * noise, CONTRAST * float(difference.max()))).astype(np.uint8)
    count, _, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return None
    middle = np.array([(right - left) / 2, (bottom - top) / 2])
    distance = np.linalg.norm((centroids[1:] - middle) / middle, axis=1)
    x, y, w, h, _ = stats[1 + int(np.argmax(stats[1:, 4] * (distance < 0.7)))]
    extent = (
        (left + x - MARGIN_PX - box.left) / box.width,
        (top + y - MARGIN_PX - box.top) / box.height,
        (left + x + w + MARGIN_PX - box.left) / box.width,
        (top + y + h + MARGIN_PX - box.top) / box.height,
    )
    extent = (max(0.0, extent[0]), max(0.0, extent[1]), min(1.0, extent[2]), min(1.0, extent[3]))
    return extent if min(extent[2] - extent[0], extent[3] - extent[1]) >= SMALLEST else None


def tighten(frames: Sequence[Gray], boxes: Sequence[Box | None]) -> list[Box | None]:
    """The boxes of one track shrunk to the target, steadied by a running median over time; None stays None.

    Args:
        frames: (H, W) uint8 each.
        boxes: loose boxes, one per frame, None where the target is absent.
    """
    inset = (1.0 - FALLBACK) / 2
    extents = np.full((len(boxes), 4), np.nan)
    for number, (pixels, box) in enumerate(zip(frames, boxes, strict=True)):
        found = None if box is None else target_extent(pixels, box)
        if found is not None:
            extents[number] = found
    tight: list[Box | None] = []
    for number, box in enumerate(boxes):
        if box is None:
            tight.append(None)
            continue
        near = extents[max(0, number - NEIGHBOURS) : number + NEIGHBOURS + 1]
        near = near[~np.isnan(near[:, 0])]
        left, top, right, bottom = np.median(near, axis=0) if len(near) >= 3 else (inset, inset, 1 - inset, 1 - inset)
        tight.append(
            Box(
                float(box.left + left * box.width),
                float(box.top + top * box.height),
                float((right - left) * box.width),
                float((bottom - top) * box.height),
            )
        )
    return tight
