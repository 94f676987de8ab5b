"""How results become scores: the variants that papers and toolkits use, named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OpeProtocol:
    """One-pass evaluation: the first box is given, nothing restarts (Wu, Lim, Yang, CVPR 2013).

    Attributes:
        overlaps: number of overlap thresholds, evenly from 0 to 1 (21 in OTB, 101 in GOT-10k).
        strict: a frame counts when IoU > t; else when IoU >= t.
        plus_one: add one pixel to every width and height before the IoU, as toolkits with inclusive right edges do.
        area: the area under the success plot is the mean of its points (OTB) or the trapezoid rule (GTOT).
        pooled: average over all frames (GTOT, GOT-10k) instead of over sequences.
        first_frame: the given first box counts as it was written, counts as right (LaSOT) or does not count (GOT-10k).
        absent: frames without the target do not count (LaSOT) or count as the OTB toolkit has it: a miss for the overlap,
            a hit for the centre error, because the toolkit sets both to -1.
        repair: a box without area is replaced by the one before it (LaSOT, LasHeR).
        clip: boxes are cut at the frame's border before the IoU (GOT-10k), when the frame's size is known.
        precision_px: centre error that the precision is read at.
        precision_max_px: end of the precision plot, which has 51 points.
        both_cameras: with two annotations the better one counts in each frame: maximum precision and success rate
            (Li et al., RGB-T object tracking: benchmark and baseline, 2019).
    """

    overlaps: int = 21
    strict: bool = True
    plus_one: bool = False
    area: Literal["mean", "trapezoid"] = "mean"
    pooled: bool = False
    first_frame: Literal["as written", "right", "skip"] = "as written"
    absent: Literal["skip", "toolkit"] = "skip"
    repair: bool = False
    clip: bool = False
    precision_px: float = 20.0
    precision_max_px: float = 50.0
    both_cameras: bool = False


@dataclass(frozen=True, kw_only=True)
class ResetProtocol:
    """VOT until 2019: a tracker that loses the target is started again five frames later (Kristan et al., PAMI 2016).

    Attributes:
        burn_in: frames after each start that do not count for the accuracy.
        skip: frames between a failure and the next start.
        window: shortest and longest sequence length that the expected average overlap averages over, inclusive;
            None for years that published none: then there is no EAO.
    """

    burn_in: int = 10
    skip: int = 5
    window: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class AnchorProtocol:
    """VOT since 2020: a tracker starts at every anchor and runs to the end or the start (Kristan et al., ECCVW 2020).

    Attributes:
        failure: overlap at or below which a frame is lost.
        grace: so many lost frames in a row are a failure, which began with the first of them.
        window: as in :class:`ResetProtocol`.
    """

    failure: float = 0.1
    grace: int = 10
    window: tuple[int, int] = (115, 755)


Protocol = OpeProtocol | ResetProtocol | AnchorProtocol

# By the name that a user gives; each data set has one of them by default.
PROTOCOLS: dict[str, Protocol] = {
    "plain": OpeProtocol(),
    "plus-one": OpeProtocol(plus_one=True),
    "otb": OpeProtocol(absent="toolkit"),
    "lasot": OpeProtocol(first_frame="right", repair=True),
    "got10k": OpeProtocol(overlaps=101, pooled=True, first_frame="skip", clip=True),
    "gtot": OpeProtocol(pooled=True, area="trapezoid", precision_px=5.0, precision_max_px=25.0, both_cameras=True),
    "rgbt234": OpeProtocol(both_cameras=True),
    "lasher": OpeProtocol(first_frame="right", repair=True, absent="toolkit"),
    # Windows: the challenges' stacks in vot-toolkit; VOT-TIR published none.
    "vot2015": ResetProtocol(window=(108, 371)),
    "vot2016": ResetProtocol(window=(108, 371)),
    "vot2017": ResetProtocol(window=(100, 356)),
    "vot2018": ResetProtocol(window=(100, 356)),
    "vot2019": ResetProtocol(window=(46, 291)),
    "vottir": ResetProtocol(),
    "vot2020": AnchorProtocol(),
}
