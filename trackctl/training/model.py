"""A tracker as two pure functions: what every system is, whatever its network.

    template patch -> memory                search patch + state + memory -> next state, score, quality, raw maps

A system supplies the Core (``template`` and ``search``) and the constants; cropping, decoding and export are shared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import BLANK_CONTRAST
from trackctl.runtime.geometry import CropSpec
from trackctl.training.decode import AnchorDecode, PointDecode


class TrackerModel(nn.Module):
    """Base of all systems.

    Attributes:
        crop: crop constants.
        decode: turns raw maps into a box.
        memory_names: names of the tensors that ``template`` returns, in order.
        kept_names: tensors that ``refresh`` takes back when the template is updated; none if it never is.
        channels: channels of the patches.
        confidence: thresholds of the tracking status.
        near_margin: response cells on each side without which the near graph searches (export/near.py); 0: there is none.
        contrast_planes: one channel per camera, by whose contrast a patch that shows nothing is known; empty for bands, of which
            any may show something.
        float32_parts: attributes that stay float32 when the Core computes in float16.
    """

    crop: CropSpec
    decode: AnchorDecode | PointDecode
    confidence: ConfidenceSpec = ConfidenceSpec()
    near_margin: int = 0
    memory_names: tuple[str, ...]
    kept_names: tuple[str, ...] = ()
    channels: int = 3
    contrast_planes: tuple[int, ...] = (0,)
    float32_parts: tuple[str, ...] = ("decode",)

    @abstractmethod
    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """The memory for a template patch (B, C, 127, 127) in 0..255."""

    @property
    def template_outputs(self) -> tuple[str, ...]:
        """Names of what the template graph gives: the memory, then the kept tensors that are not memory."""
        return (*self.memory_names, *(name for name in self.kept_names if name not in self.memory_names))

    def refresh(self, patch: Tensor, kept: Sequence[Tensor] | None = None, rate: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tensors of ``template_outputs`` for a template patch blended with what was kept.

        Args:
            patch: as in ``template``.
            kept: tensors of ``kept_names``; None on the first frame.
            rate: (1, 1) weight of the patch's features; 1 leaves nothing of ``kept``.
        """
        return self.template(patch)

    @abstractmethod
    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps cls (B, 2A, N, N) and loc (B, 4A, N, N) for a search patch (B, C, 255, 255) in 0..255."""


class TemplateGraph(nn.Module):
    """The template's patch graph: patch [, rate, kept] -> memory [, kept]; float32 outside, whatever the Core's precision."""

    def __init__(self, model: TrackerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, template: Tensor, rate: Tensor | None = None, *kept: Tensor) -> tuple[Tensor, ...]:
        """The tensors of ``template_outputs``, float32."""
        dtype = core_dtype(self.model)
        patch = template.to(dtype)
        if rate is None:
            made = self.model.refresh(patch)
        else:
            made = self.model.refresh(patch, [tensor.to(dtype) for tensor in kept], rate.to(dtype))
        return tuple(tensor.float() for tensor in made)


class SearchGraph(nn.Module):
    """The patch graph of the search: patch, state, memory -> next state, score, quality, cls, loc."""

    def __init__(self, model: TrackerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, search: Tensor, state: Tensor, *memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """next_state (1, 6), score (1, 1), quality (1, 3), cls, loc; all float32.

        A blank patch (covered lens, black frame) has no target: score 0 and the state stands.
        """
        dtype = core_dtype(self.model)
        cls, loc = self.model.search(search.to(dtype), [tensor.to(dtype) for tensor in memory])
        cls, loc = cls.float(), loc.float()
        moved, score, psr, second = self.model.decode(cls, loc, state)
        contrast = patch_contrast(search, self.model.contrast_planes)
        blank = contrast <= BLANK_CONTRAST
        seen = (~blank).to(torch.float32)
        next_state = torch.where(blank, state, moved)
        return next_state, score * seen, torch.cat((psr * seen, second * seen, contrast), dim=1), cls, loc


def plane_contrast(patch: Tensor, plane: int) -> Tensor:
    """Standard deviation (B, 1) in grey levels of every fourth pixel of a channel."""
    return _deviation(patch[:, plane, ::4, ::4].flatten(1))


def _deviation(sample: Tensor) -> Tensor:
    """Standard deviation (..., 1) of (..., N)."""
    return torch.sqrt((sample - sample.mean(dim=-1, keepdim=True)).square().mean(dim=-1, keepdim=True))


def patch_contrast(patch: Tensor, planes: Sequence[int] = (0,)) -> Tensor:
    """The highest contrast (B, 1) of these channels, or of all if none is named, grey levels.

    So a pair is blank if both of its cameras are, and a cube if every band is: a band may be dead.
    """
    if not planes:
        return _deviation(patch[:, :, ::4, ::4].flatten(2)).amax(dim=1)
    contrasts = [plane_contrast(patch, plane) for plane in planes]
    return contrasts[0] if len(contrasts) == 1 else torch.cat(contrasts, dim=1).amax(dim=1, keepdim=True)


def core_dtype(model: TrackerModel) -> torch.dtype:
    """The dtype of the Core's weights."""
    return next(parameter.dtype for parameter in model.parameters())
