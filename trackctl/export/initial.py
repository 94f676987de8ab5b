"""A model of the zoo before any training, in a state that can be exported and measured."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from trackctl.training.model import TrackerModel
from trackctl.training.zoo import SEED, build

# Patches of coarse noise from which the running statistics are taken, and the side of the noise before it is enlarged.
PATCHES, GRAIN = 2, 24


def initial_model(name: str) -> TrackerModel:
    """The model with its seeded initial weights and with running statistics taken from noise; the same one each time.

    A new BatchNorm normalises nothing, so the maps of an untrained ResNet-50 reach 1e10: beyond float16, and with differences
    between engines that mean nothing.

    Raises:
        InputError: there is no such model.
    """
    model = build(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all passes
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.rand(PATCHES, model.channels, GRAIN, GRAIN, generator=generator) * 255.0
    with torch.no_grad():
        template, search = (F.interpolate(noise, size) for size in (model.crop.template_size, model.crop.search_size))
        model.train().search(search, model.template(template))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
