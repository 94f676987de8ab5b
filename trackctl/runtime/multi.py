"""Several targets in the frames of one camera: a tracker for each, and one batched search for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from trackctl.runtime.bundle import Bundle
from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import SEARCH_PATCH, STATE_IN, Array, TensorSpec
from trackctl.runtime.engine import Engine, EngineContext
from trackctl.runtime.engines.tensorrt import Progress
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.redetect import Redetection
from trackctl.runtime.select import open_engines
from trackctl.runtime.tracker import DEFAULT_REDETECTION, Ask, Result, TemplateUpdate, Tracker, told


class Batch:
    """A search engine for N targets, seen as N engines for one.

    Args:
        engine: of a search patch graph whose inputs and outputs have N rows per row of a single target's.

    Attributes:
        slots: the N engines.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        count = engine.inputs[STATE_IN].shape[0]
        self._feeds: dict[str, Array] = {name: np.zeros(spec.shape, spec.dtype) for name, spec in engine.inputs.items()}
        # An idle row is still computed: a target of a pixel in a frame of one, so that nothing divides by zero.
        self._feeds[STATE_IN][...] = np.float32(1.0)
        self._live = {name: self._feeds[name] for name in (SEARCH_PATCH, STATE_IN)}
        self._rebind = True
        self.slots = tuple(Slot(self, index, count) for index in range(count))

    def put(self, index: int, tensors: Mapping[str, Array]) -> None:
        """Copy a target's inputs into its rows."""
        for name, tensor in tensors.items():
            rows = len(tensor)
            self._feeds[name][index * rows : (index + 1) * rows] = tensor
            self._rebind |= name not in self._live

    def run(self) -> Mapping[str, Array]:
        """The outputs of all rows; the next run overwrites them."""
        if self._rebind:
            self.engine.bind({name: tensor for name, tensor in self._feeds.items() if name not in self._live})
            self._rebind = False
        return self.engine.run(self._live)


class Slot(EngineContext):
    """One target's rows of a batched search engine, behind the seam of a whole engine.

    ``run`` computes the whole batch for this one target; :class:`MultiTracker` runs the batch once for all.

    Attributes:
        index: its place among the slots.
    """

    def __init__(self, batch: Batch, index: int, count: int) -> None:
        self._batch, self.index, self._count = batch, index, count
        self.name = batch.engine.name
        self.inputs: Mapping[str, TensorSpec] = _rows(batch.engine.inputs, count)
        self.outputs: Mapping[str, TensorSpec] = _rows(batch.engine.outputs, count)

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Keep this target's memory for all following runs."""
        self._batch.put(self.index, tensors)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """This target's outputs."""
        self._batch.put(self.index, feeds)
        return self.mine(self._batch.run())

    def mine(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """This target's rows of the batch's outputs, views."""
        found = {}
        for name, tensor in outputs.items():
            rows = len(tensor) // self._count
            found[name] = tensor[self.index * rows : (self.index + 1) * rows]
        return found

    def close(self) -> None:
        """The batch's engine is closed by its owner."""


def _rows(specs: Mapping[str, TensorSpec], count: int) -> dict[str, TensorSpec]:
    return {name: TensorSpec(spec.dtype, (spec.shape[0] // count, *spec.shape[1:])) for name, spec in specs.items()}


class MultiTracker:
    """Follows up to N targets through the frames of one camera; N is the bundle's.

    Each target has the result that a :class:`Tracker` of its own would have. A slot without target is computed all the same.

    Args:
        template: engine of the template graph, for one target.
        search: engine of the search patch graph for N targets.
        near: engine of its near graph, as for a :class:`Tracker`. A target not sure there costs a search of all N windows.
        crop: crop constants.
        channels: channels of the patches.
        confidence: thresholds of the status.
        template_update: when the templates are updated; None: never.
        redetection: how a target that was missed is looked for in the whole frame; None: only where it was.
    """

    def __init__(
        self,
        template: Engine,
        search: Engine,
        near: Engine | None = None,
        *,
        crop: CropSpec,
        channels: int = 3,
        confidence: ConfidenceSpec | None = None,
        template_update: TemplateUpdate | None = None,
        redetection: Redetection | None = None,
    ) -> None:
        self._template, self._search = template, Batch(search)
        self._near = None if near is None else Batch(near)
        self._trackers = tuple(
            Tracker(
                template,
                slot,
                None if self._near is None else self._near.slots[slot.index],
                crop=crop,
                channels=channels,
                confidence=confidence,
                template_update=template_update,
                redetection=redetection,
            )
            for slot in self._search.slots
        )
        self._active: dict[int, int] = {}  # target -> slot
        self._added = 0

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: str = "auto",
        threads: int | None = None,
        template_update: TemplateUpdate | None = None,
        redetection: Redetection | None = DEFAULT_REDETECTION,
        progress: Progress | None = None,
    ) -> MultiTracker:
        """The tracker of a bundle folder made with ``trackctl export --targets N``; arguments and errors as ``Tracker.open``."""
        bundle = Bundle.open(path)
        engines, _ = open_engines(bundle, engine, threads, progress)
        manifest = bundle.manifest
        return cls(
            *engines,
            crop=manifest.crop,
            channels=manifest.channels,
            confidence=ConfidenceSpec.from_mapping(manifest.confidence),
            template_update=template_update,
            redetection=redetection,
        )

    @property
    def engine_name(self) -> str:
        """What computes the search graph."""
        return self._search.engine.name

    @property
    def capacity(self) -> int:
        """N, the most targets at a time."""
        return len(self._trackers)

    @property
    def targets(self) -> tuple[int, ...]:
        """The numbers of the targets that are followed, in the order in which they were added."""
        return tuple(self._active)

    def add(self, frame: Array | Frame, box: Sequence[float]) -> int:
        """Learn one more target; its number, from 0, never given twice. It is found from the next ``update`` on.

        Raises:
            InputError: all slots are taken.
            FrameError, BoxError: as ``Tracker.init``.
        """
        free = sorted(set(range(self.capacity)) - set(self._active.values()))
        if not free:
            raise InputError(
                f"got one more target than the {self.capacity} that this bundle follows, expected a free slot: "
                f"remove one, or export with --targets {self.capacity + 1}"
            )
        self._trackers[free[0]].init(frame, box)
        number, self._added = self._added, self._added + 1
        self._active[number] = free[0]
        return number

    def remove(self, target: int) -> None:
        """Follow a target no more.

        Raises:
            InputError: there is no such target.
        """
        if self._active.pop(target, None) is None:
            raise InputError(f"got the target {target}, expected one of {list(self._active)}: see targets")

    def update(self, frame: Array | Frame) -> dict[int, Result]:
        """Find every target in the next frame; the result by target. Stage times of a target include waiting for the others.

        Raises:
            InputError: there are no targets.
            FrameError: the frame's size, layout or dtype differs from the one that a target was learnt on.
        """
        if not self._active:
            raise InputError("got update() without targets, expected one or more: call add(frame, box)")
        steps = {target: self._trackers[slot].steps(frame) for target, slot in self._active.items()}
        said: dict[int, Ask | Result] = {target: next(step) for target, step in steps.items()}
        # Near first: whoever is not sure there asks for the whole window next.
        for batch in filter(None, (self._near, self._search)):
            asks = {target: ask for target, ask in said.items() if isinstance(ask, Ask) and ask.engine in batch.slots}
            if not asks:
                continue
            for target, ask in asks.items():
                batch.put(self._active[target], ask.feeds)
            # Copies: a target that looks for itself elsewhere runs the batch again.
            outputs = {name: tensor.copy() for name, tensor in batch.run().items()}
            for target in asks:
                said[target] = told(steps[target], batch.slots[self._active[target]].mine(outputs))
        return {target: result for target, result in said.items() if isinstance(result, Result)}

    def close(self) -> None:
        """Release all engines."""
        self._template.close()
        for batch in filter(None, (self._search, self._near)):
            batch.engine.close()
        self._active.clear()

    def __enter__(self) -> MultiTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
