"""Pairs of template and search patches for training, cut from a frame store.

Shapes: Z template side, X search side. One pair is determined by the seed and its number, so training can stop and resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec, patch_matrix
from trackctl.training.augment import Augment, AugmentSpec, Gray, paste
from trackctl.training.data.store import FrameStore

# Shares of the pairs per source. [ours]
MIX: Mapping[str, float] = {"ir_video": 0.45, "hit_uav": 0.33, "seek": 0.06, "davis": 0.16}

# Scenes that never train, for choosing inference constants.
HELD_OUT = frozenset(
    {f"ir_video/IR_{name}" for name in ("AIRPLANE_010", "AIRPLANE_030", "AIRPLANE_050", "BIRD_010", "BIRD_030", "BIRD_050")}
    | {f"ir_video/IR_{name}" for name in ("DRONE_010", "DRONE_050", "DRONE_100", "HELICOPTER_020")}
    | {"davis/camel", "davis/car-shadow"}
)


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """How pairs are drawn. Shifts are in patch px. Where nothing else is said the values are [ours].

    Attributes:
        mix: share of the pairs per source; sources that the store lacks are left out.
        negatives: share of pairs whose search patch shows another object or none; 0.2 as in SiamRPN++'s public code.
        reach: most sightings between template and search.
        search_shift, template_shift: largest offset of the target from the patch centre; 64 and 4 as in SiamRPN++'s public code.
        search_scale: smallest and largest factor of the target's size in the search patch.
        template_scale: largest relative change of the target's size in the template patch.
        stretch: largest relative change of the search patch's aspect.
        looseness: smallest and largest factor of the box's size, the same in template and search, per source; so the network
            learns to return the kind of box that it was given. A source that is not named has boxes of factor 1.
        squeeze: largest relative change, beyond that, of the box's width and of its height.
        distractors: probability of other objects pasted into the search patch.
        augment: photometric changes.
    """

    mix: Mapping[str, float] = field(default_factory=lambda: dict(MIX))
    negatives: float = 0.2
    reach: int = 33
    search_shift: float = 64.0
    template_shift: float = 4.0
    search_scale: tuple[float, float] = (0.75, 1.33)
    template_scale: float = 0.05
    stretch: float = 0.08
    looseness: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"ir_video": (0.95, 1.5), "hit_uav": (0.9, 1.2), "seek": (0.9, 1.1), "davis": (0.9, 1.1)}
    )
    squeeze: float = 0.05
    distractors: float = 0.3
    augment: AugmentSpec = field(default_factory=AugmentSpec)


@dataclass(frozen=True)
class Pair:
    """One training pair.

    Attributes:
        template: (Z, Z) uint8.
        search: (X, X) uint8.
        box_xyxy: float64 (4,) left, top, right, bottom in the search patch, px; may reach beyond it. For a negative pair the box
            of what is shown in place of the target.
        positive: whether the search patch shows the template's target.
    """

    template: Gray
    search: Gray
    box_xyxy: NDArray[np.float64]
    positive: bool


class Pairs:
    """Draws pair number i, for any i.

    Args:
        store: frames and objects.
        spec: how pairs are drawn.
        crop: crop constants, those of the deployed tracker.
        seed: of all choices, >= 0.
        held_out: scenes, named ``source/scene``, that are left out.

    Raises:
        InputError: no object is left.
    """

    def __init__(
        self, store: FrameStore, spec: PairSpec, crop: CropSpec, *, seed: int, held_out: frozenset[str] = frozenset()
    ) -> None:
        self.store, self.spec, self.crop, self.seed = store, spec, crop, seed
        self.augment = Augment(spec.augment)
        index = store.index
        length = np.diff(index.track_first)
        area = np.maximum.reduceat(index.box_ltwh[:, 2] * index.box_ltwh[:, 3], index.track_first[:-1])
        kept = ~np.isin(index.track_scene, sorted(held_out))
        self._tracks: dict[str, NDArray[np.int64]] = {}
        self._chance: dict[str, NDArray[np.float64]] = {}
        for source in spec.mix:
            tracks = np.flatnonzero(kept & (index.track_source == source))
            if len(tracks):
                # Large objects are rare and hard; tracks with motion teach more than stills. [ours]
                weight = np.sqrt(np.sqrt(area[tracks])) * np.minimum(length[tracks], 4)
                self._tracks[source], self._chance[source] = tracks, np.cumsum(weight) / weight.sum()
        if not self._tracks:
            raise InputError(f"got a store without objects of {sorted(spec.mix)}, expected at least one: check mix and held_out")
        self._sources = list(self._tracks)
        share = np.array([spec.mix[source] for source in self._sources], dtype=np.float64)
        self._share = np.cumsum(share) / share.sum()
        order = np.argsort(index.track_scene, kind="stable")
        scenes, first = np.unique(index.track_scene[order], return_index=True)
        self._scene_tracks = dict(zip(scenes.tolist(), np.split(order, first[1:]), strict=True))

    def __getitem__(self, number: int) -> Pair:
        """Pair ``number`` >= 0, the same for the same seed."""
        rng = np.random.default_rng((self.seed, number))
        index, spec = self.store.index, self.spec
        source = self._sources[int(np.searchsorted(self._share, rng.random()))]
        track = self._draw_track(source, rng)
        first, end = int(index.track_first[track]), int(index.track_first[track + 1])
        template_at = int(rng.integers(first, end))
        low, high = max(first, template_at - spec.reach), min(end, template_at + spec.reach + 1)
        search_at = int(rng.integers(low, high))
        positive = bool(rng.random() >= spec.negatives)
        looseness = self._looseness(source, rng)
        template_box = scaled(self.store.box(template_at), looseness)
        if positive:
            search_box = scaled(self.store.box(search_at), looseness)
        else:
            search_at, search_box = self._distractor(source, track, search_at, template_box, rng)
        mirrored = rng.random() < 0.5
        template = self._template(template_at, template_box, mirrored, rng)
        search, box = self._search(search_at, search_box, mirrored, rng)
        if rng.random() < spec.distractors:
            search = self._paste_distractors(search, box, source, rng)
        template, search = self.augment(template, search, box, rng)
        return Pair(template, search, box, positive)

    def _draw_track(self, source: str, rng: np.random.Generator) -> int:
        return int(self._tracks[source][np.searchsorted(self._chance[source], rng.random())])

    def _looseness(self, source: str, rng: np.random.Generator) -> tuple[float, float]:
        spec = self.spec
        both = rng.uniform(*spec.looseness.get(source, (1.0, 1.0)))
        width, height = rng.uniform(1.0 - spec.squeeze, 1.0 + spec.squeeze, 2)
        return both * width, both * height

    def _template(self, sighting: int, box: Box, mirrored: bool, rng: np.random.Generator) -> Gray:
        spec, size = self.spec, self.crop.template_size
        side = self.crop.template_side_px(box.width, box.height) * rng.uniform(1 - spec.template_scale, 1 + spec.template_scale)
        shift = rng.uniform(-spec.template_shift, spec.template_shift, 2) * side / size
        centre = box.centre_xy[0] - shift[0], box.centre_xy[1] - shift[1]
        return self._cut(sighting, centre, (side, side), size, mirrored)

    def _search(self, sighting: int, box: Box, mirrored: bool, rng: np.random.Generator) -> tuple[Gray, NDArray[np.float64]]:
        spec, size = self.spec, self.crop.search_size
        low, high = np.log(spec.search_scale)
        side = self.crop.search_side_px(box.width, box.height) / float(np.exp(rng.uniform(low, high)))
        stretch = float(np.exp(rng.uniform(-spec.stretch, spec.stretch) / 2))
        sides = side * stretch, side / stretch
        # Half of the pairs near the centre, where a tracked target mostly is; half anywhere within reach, so that the
        # network learns no centre bias (SiamRPN++, section 3.1).
        reach = spec.search_shift * (0.375 if rng.random() < 0.5 else 1.0)
        shift = rng.uniform(-reach, reach, 2) / size
        centre = box.centre_xy[0] - shift[0] * sides[0], box.centre_xy[1] - shift[1] * sides[1]
        patch = self._cut(sighting, centre, sides, size, mirrored)
        left = (box.left - centre[0]) / sides[0] + 0.5
        top = (box.top - centre[1]) / sides[1] + 0.5
        width, height = box.width / sides[0], box.height / sides[1]
        if mirrored:
            left = 1.0 - left - width
        return patch, size * np.array([left, top, left + width, top + height], dtype=np.float64)

    def _cut(
        self, sighting: int, centre_xy: tuple[float, float], sides_px: tuple[float, float], size: int, mirrored: bool
    ) -> Gray:
        frame = int(self.store.index.box_frame[sighting])
        matrix = patch_matrix(centre_xy, sides_px[0], size)
        matrix[1] = patch_matrix(centre_xy, sides_px[1], size)[1]
        patch: Gray = cv2.warpAffine(
            self.store.frame(frame),
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(float(self.store.index.frame_fill[frame]),),
        )
        return np.ascontiguousarray(patch[:, ::-1]) if mirrored else patch

    def _distractor(self, source: str, track: int, sighting: int, template_box: Box, rng: np.random.Generator) -> tuple[int, Box]:
        """Sighting and box to centre a negative search patch on: an object of the scene, of the source, or empty background."""
        index = self.store.index
        scene = self._scene_tracks[str(index.track_scene[track])]
        choice = rng.random()
        if choice < 0.4 and len(scene) > 1:
            other = int(rng.choice(scene[scene != track]))
        elif choice < 0.7:
            other = self._draw_track(source, rng)
        else:
            other = track
        if other != track:
            at = int(rng.integers(index.track_first[other], index.track_first[other + 1]))
            return at, self.store.box(at)
        # Background: a box of the target's size, moved away by more than the search patch reaches.
        box = self.store.box(sighting)
        angle, side = rng.uniform(0.0, 2.0 * np.pi), self.crop.search_side_px(box.width, box.height)
        away = rng.uniform(1.0, 1.6) * side
        x, y = box.centre_xy
        return sighting, Box.from_centre(
            x + away * float(np.cos(angle)), y + away * float(np.sin(angle)), template_box.width, template_box.height
        )

    def _paste_distractors(self, search: Gray, box_xyxy: NDArray[np.float64], source: str, rng: np.random.Generator) -> Gray:
        """Other objects of the source beside the target, touching it at most."""
        width, height = box_xyxy[2:] - box_xyxy[:2]
        middle = (box_xyxy[:2] + box_xyxy[2:]) / 2
        for _ in range(int(rng.integers(1, 4))):
            track = self._draw_track(source, rng)
            at = int(self.store.index.track_first[track])
            box = self.store.box(at)
            scale = rng.uniform(0.6, 1.6)
            w, h = max(4, round(scale * width)), max(4, round(scale * height))
            sides = 1.3 * box.width, 1.3 * box.height  # the object and some of its surroundings
            square = self._cut(at, box.centre_xy, sides, max(w, h), False)
            angle = rng.uniform(0.0, 2.0 * np.pi)
            direction = np.array([np.cos(angle), np.sin(angle)])
            # Distance along the direction at which the two rectangles stop overlapping.
            apart = min((np.array([width + w, height + h]) / 2) / np.maximum(np.abs(direction), 1e-6))
            place = middle + direction * apart * rng.uniform(0.9, 2.0)
            object_patch = cv2.resize(square, (w, h), interpolation=cv2.INTER_LINEAR)
            search = paste(search, object_patch, (float(place[0]), float(place[1])), rng.uniform(0.6, 1.0))
        return search


def scaled(box: Box, factors: tuple[float, float]) -> Box:
    """The box with width and height multiplied, centre kept."""
    return Box.from_centre(*box.centre_xy, box.width * factors[0], box.height * factors[1])
