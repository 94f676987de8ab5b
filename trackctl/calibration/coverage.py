"""Which frames to calibrate on: few that together show every situation the tracker met.

Ranges are set by what is rare: the smallest target, the flattest patch, a window that hangs over the frame's edge. An even
sample of a clip that shows one thing most of the time misses them. All bins are [ours].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import Array
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def situation(state: Array, *, score: float, contrast: float, crop: CropSpec) -> tuple[str, ...]:
    """What one search met, as labels: target size, patch contrast, place in the frame, search window, confidence.

    Args:
        state: (1, 6) state that the search started from.
        score: what it answered, 0..1.
        contrast: standard deviation of its patch, grey levels.
        crop: crop constants.
    """
    centre_x, centre_y, width, height, frame_width, frame_height = (float(value) for value in state[0].tolist())
    octave = math.floor(2 * math.log2(max(math.sqrt(width * height), 1.0)))
    level = math.floor(math.log2(max(contrast, 0.5)))
    row, column = (_third(at / extent) for at, extent in ((centre_y, frame_height), (centre_x, frame_width)))
    reach = crop.search_side_px(width, height) / 2
    inside = reach <= min(centre_x, centre_y, frame_width - centre_x, frame_height - centre_y)
    thresholds = ConfidenceSpec()
    sure, lost = score >= thresholds.sure_score, score < thresholds.lost_score
    return (
        f"target of {2 ** (octave / 2):.0f} to {2 ** ((octave + 1) / 2):.0f} px",
        f"contrast of {2.0**level:g} to {2.0 ** (level + 1):g} levels",
        f"{_ROWS[row]} {_COLUMNS[column]} of the frame",
        f"window {'inside' if inside else 'over the edge of'} the frame",
        "target " + ("sure" if sure else "lost" if lost else "unsure"),
    )


def _third(share: float) -> int:
    return min(max(math.floor(share * 3), 0), 2)


@dataclass(frozen=True)
class Held:
    """One frame that is kept: its labels and the graph's inputs."""

    labels: tuple[str, ...]
    feeds: dict[str, Array]


@dataclass
class Coverage:
    """The frames of a stream of unknown length that cover its situations, chosen in one pass; the same ones each time.

    Every frame is taken. When more than ``limit`` are held, the one that is missed least goes: first by the labels that it
    alone has, then by how common its labels are among the frames held, then by how near in time its neighbours are. So, while
    there are no more than ``limit`` labels, each label that was ever met is kept, and a clip without events is thinned evenly.

    Attributes:
        limit: most frames held.
        held: what is held, by position in the stream.
    """

    limit: int
    held: dict[int, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"got {self.limit} calibration frames, expected 1 or more")

    def add(self, position: int, labels: tuple[str, ...], feeds: Callable[[], dict[str, Array]]) -> None:
        """Take the next frame; positions rise."""
        self.held[position] = Held(labels, feeds())
        if len(self.held) > self.limit:
            del self.held[self._least_missed()]

    def counts(self) -> Counter[str]:
        """How many of the frames held have each label."""
        return Counter(label for held in self.held.values() for label in held.labels)

    def reasons(self) -> tuple[str, ...]:
        """Why each frame is held: its rarest label and how many of the frames held have it."""
        counts = self.counts()
        rarest = (min(held.labels, key=lambda label: counts[label]) for held in self.held.values())
        return tuple(f"{label} ({counts[label]} of {len(self.held)})" for label in rarest)

    def _least_missed(self) -> int:
        counts = self.counts()
        positions = list(self.held)
        before, after = [-math.inf, *positions[:-1]], [*positions[1:], math.inf]

        def worth(index: int) -> tuple[float, ...]:
            labels = self.held[positions[index]].labels
            only = sum(counts[label] == 1 for label in labels)
            return only, sum(1 / counts[label] for label in labels), after[index] - before[index]

        return positions[min(range(len(positions)), key=worth)]
