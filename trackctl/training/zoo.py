"""Every tracker that can be built by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.bcrnet import bcrnet_edge, bcrnet_r50
from trackctl.training.dcffnet import dcffnet, dcffnet_baseline, dcffnet_cf1, dcffnet_cf2
from trackctl.training.dcfg import dcfg_edge, dcfg_r50
from trackctl.training.dfat import dfat_edge, dfat_lrr_edge, dfat_lrr_r50, dfat_r50
from trackctl.training.model import TrackerModel
from trackctl.training.nanotrack import nanotrack_v1, nanotrack_v2, nanotrack_v3
from trackctl.training.siamrpn import siamrpn_r50
from trackctl.training.weights import load_weights

DEFAULT_MODEL = "dcfg-edge"

PACKAGED_WEIGHTS = Path(__file__).parent / "weights"

# Seed of the initial weights: the same name twice is the same model.
SEED = 0


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One tracker of the zoo.

    Attributes:
        build: constructor call.
        description: one line for people.
        source: the paper or repository it follows.
        weights: file in the package's weights folder; None if none is shipped.
        weights_from: where weights can be had and under which licence.
        gray: made for cameras of one channel, and exported for gray patches unless one asks for colour.
    """

    build: Callable[[], TrackerModel]
    description: str
    source: str
    weights: str | None = None
    weights_from: str
    gray: bool = False


_nanotrack = partial(
    ModelEntry,
    source="HonglinChu/SiamTrackers, NanoTrack (no paper)",
    weights_from="published by its author, Apache-2.0; save the checkpoint's state_dict as .npz",
)
_DCFG = "Diverse cross-channel fine-grained feature learning and progressive fusion for TIR tracking"
_TRAINED_HERE = "none are published: bring your own .safetensors"
_dcffnet = partial(
    ModelEntry,
    source="Staged depthwise correlation and feature fusion for Siamese object tracking",
    weights_from=_TRAINED_HERE,
)
_BCRNET = "BCR-Net: band and context refinement network for hyperspectral object tracking"
_bcrnet = partial(ModelEntry, source=_BCRNET, weights_from=_TRAINED_HERE)
_dfat = partial(ModelEntry, source="DFAT (winner of VOT2020-RGBT; Zhangyong Tang et al.) and LRRNet (Li et al., TPAMI 2023)")

MODELS: dict[str, ModelEntry] = {
    "dcfg-edge": ModelEntry(
        build=dcfg_edge,
        description="DCFG on a light backbone of one level, for CPUs and small GPUs",
        source=_DCFG,
        weights="dcfg-edge.safetensors",
        weights_from="shipped with the package, Apache-2.0",
        gray=True,
    ),
    "dcfg-r50": ModelEntry(
        build=dcfg_r50,
        description="DCFG as published: ResNet-50, three levels",
        source=_DCFG,
        weights_from=_TRAINED_HERE,
    ),
    "siamrpn-r50": ModelEntry(
        build=siamrpn_r50,
        description="SiamRPN++ as published: ResNet-50, three levels; the baseline of DCFG",
        source="SiamRPN++ (Li et al., CVPR 2019)",
        weights_from=_TRAINED_HERE,
    ),
    "dcffnet": _dcffnet(
        build=dcffnet, description="DCFFNet as published: correlation at two stages of the backbone and at its end"
    ),
    "dcffnet-baseline": _dcffnet(build=dcffnet_baseline, description="the baseline of DCFFNet: correlation at the end alone"),
    "dcffnet-cf1": _dcffnet(
        build=dcffnet_cf1, description="the ablation of DCFFNet with correlation at the first stage and the end"
    ),
    "dcffnet-cf2": _dcffnet(
        build=dcffnet_cf2, description="the ablation of DCFFNet with correlation at the second stage and the end"
    ),
    "bcrnet-edge": ModelEntry(
        build=bcrnet_edge,
        description="BCR-Net on the light backbone for 16 hyperspectral bands",
        source=_BCRNET,
        weights="bcrnet-edge.safetensors",
        weights_from="shipped with the package, Apache-2.0",
    ),
    "bcrnet-edge-25": _bcrnet(
        build=partial(bcrnet_edge, bands=25), description="BCR-Net on the light backbone for 25 hyperspectral bands"
    ),
    "bcrnet-r50": _bcrnet(build=bcrnet_r50, description="BCR-Net as published, for 16 bands: ResNet-50, three levels"),
    "dfat-edge": _dfat(
        build=dfat_edge,
        description="DFAT on the light backbone: registered visible and thermal pairs, fused at the decision",
        weights="dfat-edge.safetensors",
        weights_from="shipped with the package, Apache-2.0",
    ),
    "dfat-lrr-edge": _dfat(
        build=dfat_lrr_edge,
        description="dfat-edge and a third branch of features fused by a low-rank module",
        weights="dfat-lrr-edge.safetensors",
        weights_from="shipped with the package, Apache-2.0",
    ),
    "dfat-r50": _dfat(
        build=dfat_r50, description="DFAT as published, without masks: ResNet-50, three levels", weights_from=_TRAINED_HERE
    ),
    "dfat-lrr-r50": _dfat(
        build=dfat_lrr_r50, description="dfat-r50 and LRRNet's fused branch on each level", weights_from=_TRAINED_HERE
    ),
    "nanotrack-v1": _nanotrack(build=nanotrack_v1, description="NanoTrack V1, 0.29 M parameters"),
    "nanotrack-v2": _nanotrack(build=nanotrack_v2, description="NanoTrack V2, 0.33 M parameters; the network of cv2.TrackerNano"),
    "nanotrack-v3": _nanotrack(build=nanotrack_v3, description="NanoTrack V3, 0.54 M parameters; the best of the three"),
}


def entry(name: str) -> ModelEntry:
    """The zoo's entry of that name.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise InputError(f"got the model {name!r}, expected one of {', '.join(MODELS)}: {hint}")
    return MODELS[name]


def build(name: str) -> TrackerModel:
    """The model in evaluation mode with seeded initial weights; the global random state is left alone.

    Raises:
        InputError: there is no such model.
    """
    constructor = entry(name).build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return constructor().eval()


def weights_path(name: str, weights: str | Path | None = None) -> Path:
    """The weights file to load: the one given, otherwise the one shipped for that model.

    Raises:
        InputError: there is no such model.
        WeightsError: none is given and none is shipped.
    """
    found = entry(name)
    if weights is not None:
        return Path(weights)
    if found.weights is None:
        raise WeightsError(f"no weights of {name} are shipped, expected a file: give one ({found.weights_from})")
    path = PACKAGED_WEIGHTS / found.weights
    if not path.is_file():
        raise WeightsError(
            f"the weights {found.weights} of {name} are missing from this installation: install it again or give a file"
        )
    return path


def load(name: str, weights: str | Path | None = None) -> TrackerModel:
    """The model in evaluation mode with the weights of the file given, otherwise with those shipped.

    Raises:
        InputError: there is no such model.
        WeightsError: there are no such weights or they do not fit.
    """
    path = weights_path(name, weights)
    model = build(name)
    load_weights(model, path)
    return model
