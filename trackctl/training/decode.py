"""Decode as torch modules: raw maps and state in, new state, score and quality out.

Source of the formulas: SiamRPN (Li et al., CVPR 2018, section 4.4 and its public code) as kept by SiamRPN++, SiamCAR, SiamBAN
and NanoTrack: softmax, size and ratio penalty, cosine window, argmax, smoothed size, clipping to the frame.

Shapes: N response cells per side, A anchors per cell (1 for points), K = A * N * N candidates in the order anchor, row, column.
Everything here is float32: coordinates above 2048 and exp do not fit fp16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trackctl.runtime.geometry import CropSpec

# exp() of a regression logit is clamped to +-6.5 so that an off-target cell can neither overflow nor, in fp16, become a box of
# size 0 whose ratio is NaN, which argmax would choose. e^6.5 = 665 px is twice the patch.
MAX_LOG_SIZE = 6.5


@dataclass(frozen=True, kw_only=True)
class DecodeSpec:
    """Inference constants of one tracker.

    Attributes:
        penalty_k: strength of the penalty on change of size and ratio.
        window: weight of the cosine window against the penalised score, 0..1.
        lr: learning rate of the box size at score 1, 0..1.
        min_side_px: smallest box side kept in the state; keeps the search window of tiny targets from collapsing.
        sidelobe: half side in cells of the square round the peak that the sidelobe statistics leave out.
    """

    penalty_k: float
    window: float
    lr: float
    min_side_px: float = 10.0
    sidelobe: int = 4


def hanning(cells: int) -> Tensor:
    """The symmetric Hann window of numpy, zero at both ends, float32 (cells,)."""
    return torch.hann_window(cells, periodic=False, dtype=torch.float64).to(torch.float32)


def _change(ratio: Tensor) -> Tensor:
    return torch.maximum(ratio, 1.0 / ratio)


def _padded_size(width: Tensor, height: Tensor) -> Tensor:
    margin = (width + height) / 2
    return torch.sqrt((width + margin) * (height + margin))


class Select(nn.Module):
    """Chooses one of K candidate boxes and moves the state to it.

    Args:
        crop: crop constants (the scale between frame and patch).
        spec: inference constants.
        cells: N.
        anchors: A.
    """

    hann: Tensor
    cell_row: Tensor
    cell_column: Tensor

    def __init__(self, crop: CropSpec, spec: DecodeSpec, cells: int, anchors: int) -> None:
        super().__init__()
        self.crop, self.spec, self.cells, self.anchors = crop, spec, cells, anchors
        window = hanning(cells)
        self.register_buffer("hann", torch.outer(window, window).flatten().repeat(anchors)[None], persistent=False)  # (1, K)
        grid = torch.arange(cells, dtype=torch.float32)
        self.register_buffer("cell_row", grid.repeat_interleave(cells)[None], persistent=False)  # (1, N*N)
        self.register_buffer("cell_column", grid.repeat(cells)[None], persistent=False)

    def central(self, margin: int) -> Select:
        """The same choice among the candidates of the central cells alone, which keep their window weights."""
        inner = Select(self.crop, self.spec, self.cells - 2 * margin, self.anchors)
        inner.hann = central_cells(self.hann, self.cells, margin)
        return inner

    def forward(self, p: Tensor, boxes: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next state for the best candidate.

        Args:
            p: (1, K) foreground probability.
            boxes: (1, 4, K) centre x, y (relative to the patch centre), width, height in patch px.
            state: (1, 6).

        Returns:
            next_state (1, 6), score (1, 1), psr (1, 1), second (1, 1).
        """
        centre, size, frame = state[:, 0:2], state[:, 2:4], state[:, 4:6]
        margin = self.crop.context * (size[:, 0:1] + size[:, 1:2])
        side = torch.sqrt((size[:, 0:1] + margin) * (size[:, 1:2] + margin))
        scale = self.crop.template_size / side  # (1, 1) patch px per frame px
        width, height = boxes[:, 2], boxes[:, 3]  # (1, K)
        old = size * scale
        resize = _change(_padded_size(width, height) / _padded_size(old[:, 0:1], old[:, 1:2]))
        reshape = _change((old[:, 0:1] / old[:, 1:2]) / (width / height))
        penalty = torch.exp(-(resize * reshape - 1.0) * self.spec.penalty_k)
        ranked = penalty * p * (1.0 - self.spec.window) + self.hann * self.spec.window
        best = torch.argmax(ranked, dim=1, keepdim=True)  # (1, 1)
        score = torch.gather(p, 1, best)
        rate = torch.gather(penalty, 1, best) * score * self.spec.lr
        chosen = torch.gather(boxes, 2, best[:, None, :].expand(-1, 4, -1))[:, :, 0] / scale  # (1, 4) frame px
        new_centre = torch.minimum(torch.clamp(centre + chosen[:, :2], min=0.0), frame)
        new_size = size * (1.0 - rate) + chosen[:, 2:] * rate
        new_size = torch.minimum(torch.clamp(new_size, min=self.spec.min_side_px), frame)
        psr, second = self.sidelobe(p, best)
        return torch.cat((new_centre, new_size, frame), dim=1), score, psr, second

    def sidelobe(self, p: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        """Peak-to-sidelobe ratio (Bolme et al., CVPR 2010, section 3.5) and the highest probability off the peak."""
        response = p.reshape(-1, self.anchors, self.cells * self.cells).amax(dim=1)  # (1, N*N)
        where = torch.remainder(best, self.cells * self.cells) if self.anchors > 1 else best
        row = torch.gather(self.cell_row.expand(p.shape[0], -1), 1, where)
        column = torch.gather(self.cell_column.expand(p.shape[0], -1), 1, where)
        far = torch.maximum(torch.abs(self.cell_row - row), torch.abs(self.cell_column - column)) > self.spec.sidelobe
        far = far.to(p.dtype)
        count = far.sum(dim=1, keepdim=True)
        mean = (response * far).sum(dim=1, keepdim=True) / count
        variance = ((response - mean).square() * far).sum(dim=1, keepdim=True) / count
        peak = torch.gather(response, 1, where)
        psr = (peak - mean) / torch.sqrt(variance + 1e-6)
        return psr, (response * far).amax(dim=1, keepdim=True)


def central_cells(candidates: Tensor, cells: int, margin: int) -> Tensor:
    """The candidates (..., A * n * n) of the central n = cells - 2 * margin cells per side out of (..., A * cells * cells)."""
    grids = candidates.reshape(*candidates.shape[:-1], -1, cells, cells)
    return grids[..., margin : cells - margin, margin : cells - margin].flatten(-3)


class PointDecode(nn.Module):
    """Decode of distance maps: each cell predicts left, top, right, bottom distances in patch px (after exp).

    Args:
        cells: N. stride: px between cells. offset_px: from the patch centre to cell N//2, to the right and downwards.
    """

    points: Tensor
    anchors = 1

    def __init__(self, crop: CropSpec, spec: DecodeSpec, *, cells: int, stride: int, offset_px: float = 0.0) -> None:
        super().__init__()
        self.stride = stride
        self.select = Select(crop, spec, cells, 1)
        grid = (torch.arange(cells, dtype=torch.float32) - cells // 2) * stride + offset_px
        points = torch.stack((grid.repeat(cells), grid.repeat_interleave(cells)))[None]  # (1, 2, K)
        self.register_buffer("points", points, persistent=False)

    def keep_central(self, margin: int) -> None:
        """Decode the maps of a search patch that is ``margin`` cells smaller on each side."""
        self.points = central_cells(self.points, self.select.cells, margin)
        self.select = self.select.central(margin)

    def candidates(self, cls: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Foreground probability (B, K) and boxes (B, 4, K) centre x, y, width, height, in patch px from the patch centre."""
        p = torch.softmax(cls.flatten(2), dim=1)[:, 1]
        left_top, right_bottom = loc.flatten(2)[:, 0:2], loc.flatten(2)[:, 2:4]
        # Off the target heads may emit absurd distances; bounded so that their penalty stays finite.
        least, most = math.exp(-MAX_LOG_SIZE), math.exp(MAX_LOG_SIZE)
        left_top, right_bottom = torch.clamp(left_top, least, most), torch.clamp(right_bottom, least, most)
        return p, torch.cat((self.points + (right_bottom - left_top) / 2, left_top + right_bottom), dim=1)

    def forward(self, cls: Tensor, loc: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """next_state, score, psr, second: see :class:`Select`."""
        p, boxes = self.candidates(cls, loc)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self.select(p, boxes, state)
        return result


def anchor_sizes(stride: int, scale: int, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Widths and heights of the anchors in patch px, rounded as SiamRPN's public code does (h/w = ratio)."""
    area = float(stride * stride)
    sizes = []
    for ratio in ratios:
        width = int(math.sqrt(area / ratio))
        sizes.append((float(width * scale), float(int(width * ratio) * scale)))
    return sizes


class AnchorDecode(nn.Module):
    """Decode of anchor maps (SiamRPN++).

    cls channel t*A + a with t = background, foreground; loc channel d*A + a with d = dx, dy, dw, dh.
    """

    boxes: Tensor

    def __init__(
        self,
        crop: CropSpec,
        spec: DecodeSpec,
        *,
        cells: int,
        stride: int = 8,
        scale: int = 8,
        ratios: Sequence[float] = (0.33, 0.5, 1.0, 2.0, 3.0),
    ) -> None:
        super().__init__()
        self.stride = stride
        self.anchors = len(ratios)
        self.select = Select(crop, spec, cells, self.anchors)
        grid = (torch.arange(cells, dtype=torch.float32) - cells // 2) * stride
        rows = []
        for width, height in anchor_sizes(stride, scale, ratios):
            flat = torch.ones(cells * cells)
            rows.append(torch.stack((grid.repeat(cells), grid.repeat_interleave(cells), width * flat, height * flat)))
        self.register_buffer("boxes", torch.cat(rows, dim=1)[None], persistent=False)  # (1, 4, K)

    def keep_central(self, margin: int) -> None:
        """Decode the maps of a search patch that is ``margin`` cells smaller on each side."""
        self.boxes = central_cells(self.boxes, self.select.cells, margin)
        self.select = self.select.central(margin)

    def candidates(self, cls: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Foreground probability (B, K) and boxes (B, 4, K) centre x, y, width, height, in patch px from the patch centre."""
        batch = cls.shape[0]
        p = torch.softmax(cls.reshape(batch, 2, -1), dim=1)[:, 1]
        delta = loc.reshape(batch, 4, -1)
        centre = delta[:, :2] * self.boxes[:, 2:] + self.boxes[:, :2]
        size = torch.exp(torch.clamp(delta[:, 2:], -MAX_LOG_SIZE, MAX_LOG_SIZE)) * self.boxes[:, 2:]
        return p, torch.cat((centre, size), dim=1)

    def forward(self, cls: Tensor, loc: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """next_state, score, psr, second: see :class:`Select`."""
        p, boxes = self.candidates(cls, loc)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self.select(p, boxes, state)
        return result
