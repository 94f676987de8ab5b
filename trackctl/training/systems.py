"""Everything that a recipe can train, by name: the trackers of the zoo, the fusion network, a tracker made for comparison.

Some are trained in stages.

A stage is a module round the tracker with losses of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.bcrnet import bcrnet_edge
from trackctl.training.dcffnet_stages import PretrainingStage, TrackingStage
from trackctl.training.lrrnet import LRRNet
from trackctl.training.lrrnet_losses import FusionLoss, VggFeatures, fusion_losses
from trackctl.training.weights import load_weights
from trackctl.training.zoo import entry, weights_path

FUSION_STAGE = "fusion"

# Not in the zoo: the fusion network is no tracker, and BCR-Net on one composite of principal components is made for comparison.
OTHERS: dict[str, Callable[[], nn.Module]] = {"lrrnet": LRRNet, "bcrnet-edge-pca": partial(bcrnet_edge, bands=3)}


class FusionStage(nn.Module):
    """LRRNet with the loss of its authors.

    Args:
        model: the fusion network.
        vgg: file of VGG-16's weights for images, named as in torchvision.

    Raises:
        InputError: there is no file; features of untrained weights would teach nothing.
        WeightsError: the file does not hold VGG-16.
    """

    def __init__(self, model: LRRNet, vgg: str | None) -> None:
        super().__init__()
        if vgg is None:
            raise InputError(
                "got no VGG-16 for the loss of lrrnet, expected its weights for images: give the file with --backbone"
            )
        features = VggFeatures()
        load_weights(features, vgg)
        self.model, self.loss = model, FusionLoss(features)

    def losses(self, ir: Tensor, vi: Tensor, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """See :func:`trackctl.training.lrrnet_losses.fusion_losses`; nothing is random."""
        return fusion_losses(self.model, self.loss, ir, vi)


STAGES: dict[tuple[str, str], Callable[[Any, str | None], nn.Module]] = {
    ("dcffnet", "pretraining"): lambda model, _: PretrainingStage(model),
    ("dcffnet", "tracking"): lambda model, _: TrackingStage(model),
    ("lrrnet", FUSION_STAGE): FusionStage,
}


def build_system(name: str, seed: int) -> nn.Module:
    """The system with initial weights of that seed; the global random state is left alone.

    Raises:
        InputError: there is no such system.
    """
    constructor: Callable[[], nn.Module] = OTHERS[name] if name in OTHERS else entry(name).build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return constructor()


def trainable(model: nn.Module, name: str, stage: str, backbone: str | None = None) -> nn.Module:
    """What has the losses of a stage: the model itself, or a module round it.

    Args:
        model: the system.
        name: of the system.
        stage: empty for systems that are trained in one.
        backbone: file of the network that LRRNet's loss compares features of.

    Raises:
        InputError: the system has no such stage, or cannot be trained.
    """
    known = [known for system, known in STAGES if system == name]
    if stage or known:
        if stage not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise InputError(f"got the stage {stage!r} of {name}, expected {expected}: set stage in the recipe")
        return STAGES[name, stage](model, backbone)
    if not hasattr(model, "losses"):
        raise InputError(f"got the system {name}, which has no losses: its authors' weights can be loaded, it cannot be trained")
    return model


def take_backbone(model: nn.Module, source: str) -> None:
    """Replace the backbone's weights by those of another trained system.

    Args:
        model: has a ``backbone``.
        source: a ``.safetensors`` file, or a name from the zoo whose weights are shipped.

    Raises:
        InputError: there is no such system.
        WeightsError: the file is missing, or its backbone is another one.
    """
    path = Path(source) if source.endswith(".safetensors") else weights_path(source)
    if not path.is_file():
        raise WeightsError(f"got the weights {path}, which is no file: check the path")
    prefix = "backbone."
    tensors = {name.removeprefix(prefix): value for name, value in load_file(path).items() if name.startswith(prefix)}
    own = _weights(model.get_submodule("backbone"))
    if own.keys() - tensors.keys() or any(tensors[name].shape != value.shape for name, value in own.items()):
        raise WeightsError(f"the backbone in {path.name} is not that of {type(model).__name__}: give weights that have it")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _weights(module: nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
