"""The inputs that a search graph really meets, recorded while the tracker runs over a clip.

Random crops would not do: the memory, the state and the search window that follows the target are part of what the ranges
depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trackctl.calibration.footage import Footage
from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine, EngineContext
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.tracker import Tracker

# Called after each run with the inputs that were not bound and with the outputs; neither may be kept without a copy.
Seen = Callable[[Mapping[str, Array], Mapping[str, Array]], None]


class Tap(EngineContext):
    """An engine that lets somebody look at each run.

    Attributes:
        bound: copies of the tensors bound last.
    """

    def __init__(self, engine: Engine, seen: Seen) -> None:
        self.name = engine.name
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.bound: dict[str, Array] = {}
        self._engine = engine
        self._seen = seen

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Bind the engine's inputs."""
        self.bound = {name: tensor.copy() for name, tensor in tensors.items()}
        self._engine.bind(tensors)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The engine's outputs."""
        outputs = self._engine.run(feeds)
        self._seen(feeds, outputs)
        return outputs

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


@dataclass
class EvenSample:
    """An even sample of a stream of unknown length.

    Every ``stride``-th item is kept; when more than ``limit`` are held, every second one is dropped and the stride doubles. So
    the sample has between limit / 2 and limit items (all, if there are fewer), the same ones each time.

    Attributes:
        limit: most items held.
        items: what is held, by position in the stream.
    """

    limit: int
    items: dict[int, dict[str, Array]] = field(default_factory=dict)
    _stride: int = 1
    _count: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"got {self.limit} calibration frames, expected 1 or more")

    def add(self, item: Callable[[], dict[str, Array]]) -> None:
        """Take the next item of the stream; it is only made if it is kept."""
        if self._count % self._stride == 0:
            self.items[self._count] = item()
            if len(self.items) > self.limit:
                self._stride *= 2
                self.items = {position: held for position, held in self.items.items() if position % self._stride == 0}
        self._count += 1


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Inputs of a search patch graph.

    Attributes:
        source: name of the recording.
        frames: positions in the recording, from 0.
        feeds: per frame all inputs of the graph.
    """

    source: str
    frames: tuple[int, ...]
    feeds: tuple[dict[str, Array], ...]


def record(template: Engine, search: Engine, footage: Footage, *, crop: CropSpec, channels: int = 3, limit: int = 64) -> Recorded:
    """An even sample of what the search graph meets while the tracker follows the target through the footage.

    Args:
        template, search: engines of the patch graphs; stay open.
        footage: frames and first box.
        crop: crop constants.
        channels: channels of the patches.
        limit: most frames to keep.

    Raises:
        InputError: the footage has fewer than two frames.
    """
    sample = EvenSample(limit)

    def keep(feeds: Mapping[str, Array], _: Mapping[str, Array]) -> None:
        sample.add(lambda: tap.bound | {name: tensor.copy() for name, tensor in feeds.items()})

    tap = Tap(search, keep)
    tracker = Tracker(template, tap, crop=crop, channels=channels)
    for position, frame in enumerate(footage):
        if position == 0:
            tracker.init(frame, footage.box)
        else:
            tracker.update(frame)
    if not sample.items:
        raise InputError(f"{footage.name} has fewer than two frames, expected a clip to calibrate on: give a longer one")
    # The first search happens on the second frame.
    frames = tuple(position + 1 for position in sample.items)
    return Recorded(source=footage.name, frames=frames, feeds=tuple(sample.items.values()))
