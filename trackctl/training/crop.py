"""Crop as torch modules: frame and state in, patch out. The same function as runtime/crop.py in another medium.

Shapes: B = 1, C channels of the frame, H x W frame, N patch side.
TensorRT's rules shape this file: Cast is the first op on the uint8 frame; the outside of the frame is filled by sampling
``frame - fill`` with zero padding and adding ``fill`` back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.contract import STATE
from trackctl.runtime.frame import BGR8, GRAY16, GRAY_OF_BGR, PAIR8, BandLayout
from trackctl.runtime.geometry import CropSpec


def frame_planes(frame: Tensor, layout: str) -> Tensor:
    """The uint8 frame as float32 (1, C, H, W) in sensor units."""
    values = frame.to(torch.float32)
    banded = BandLayout.parse(layout)
    if banded is not None:
        return band_planes(values, banded)
    if layout in (BGR8, PAIR8):
        return values.permute(2, 0, 1).unsqueeze(0)
    if layout == GRAY16:  # little-endian bytes
        return (values[..., 0] + 256.0 * values[..., 1])[None, None]
    return values[None, None]


def band_planes(values: Tensor, layout: BandLayout) -> Tensor:
    """The bands (1, C, H, W) of a frame as floats: a mosaic (H p, W p [, 2]) of cells p x p, or a cube (H, W, C or 2 C)."""
    if layout.bits == 16:  # little-endian bytes
        pairs = values if layout.pattern else values.reshape(values.shape[0], values.shape[1], -1, 2)
        values = pairs[..., 0] + 256.0 * pairs[..., 1]
    if layout.pattern is None:
        return values.permute(2, 0, 1).unsqueeze(0)
    cell = layout.pattern
    height, width = values.shape[0] // cell, values.shape[1] // cell
    cells = values.reshape(height, cell, width, cell).permute(1, 3, 0, 2)  # (p, p, H, W)
    return cells.reshape(1, cell * cell, height, width)[:, : layout.bands]


def template_side(width: Tensor, height: Tensor, spec: CropSpec) -> Tensor:
    """``CropSpec.template_side_px`` on tensors of one shape."""
    margin = spec.context * (width + height)
    return torch.sqrt((width + margin) * (height + margin))


class GraphCrop(nn.Module):
    """Square patches of a frame by bilinear GridSample, half-pixel exact.

    Args:
        spec: crop constants.
        layout: sensor layout of the frame.
        size: side of the patch, px (the template's or the search's).
        channels: channels of the patch; gray frames are repeated to fill three, colour frames become gray for one.
    """

    offsets: Tensor
    luma: Tensor

    def __init__(self, spec: CropSpec, layout: str, size: int, channels: int = 3) -> None:
        super().__init__()
        self.spec, self.layout, self.size, self.channels = spec, layout, size, channels
        # Patch pixel centres relative to the patch centre, in units of the patch side.
        self.register_buffer("offsets", (torch.arange(size) + 0.5) / size - 0.5, persistent=False)
        self.register_buffer("luma", torch.tensor(GRAY_OF_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, planes: Tensor, state: Tensor, fill: Tensor, tone: Tensor | None = None) -> Tensor:
        """The patch around the state's box.

        Args:
            planes: (1, C, H, W) float32 sensor units.
            state: (1, 6) float32.
            fill: (1, C) float32 sensor units.
            tone: (1, 2 C) counts of each channel that become 0, then those that become 255 (gray16 and bands).

        Returns:
            (1, channels, size, size) float32, 0..255.
        """
        column = {name: state[:, index : index + 1] for index, name in enumerate(STATE)}
        side = template_side(column["width"], column["height"], self.spec) * (self.size / self.spec.template_size)
        grid_x = 2.0 * (column["centre_x"] + side * self.offsets) / column["frame_width"] - 1.0  # (1, N)
        grid_y = 2.0 * (column["centre_y"] + side * self.offsets) / column["frame_height"] - 1.0
        n = self.size
        grid = torch.stack((grid_x[:, None, :].expand(1, n, n), grid_y[:, :, None].expand(1, n, n)), dim=-1)
        border = fill[:, :, None, None]
        patch = F.grid_sample(planes - border, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + border
        if tone is not None:
            half = tone.shape[1] // 2
            low, high = tone[:, :half, None, None], tone[:, half:, None, None]
            patch = torch.clamp((patch - low) * (255.0 / (high - low)), 0.0, 255.0)
        if self.layout == BGR8 and self.channels == 1:
            patch = (patch * self.luma).sum(dim=1, keepdim=True)
        elif patch.shape[1] != self.channels:
            patch = patch.expand(1, self.channels, n, n)
        return patch


def box_state(box: Tensor, frame_hw: tuple[int, int]) -> Tensor:
    """The first state (1, 6) for a box (1, 4) left, top, width, height."""
    centre = box[:, :2] + box[:, 2:] / 2
    size = torch.tensor([[float(frame_hw[1]), float(frame_hw[0])]], dtype=box.dtype)
    return torch.cat((centre, box[:, 2:], size), dim=1)
