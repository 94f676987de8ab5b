"""The fusion network as ONNX graphs: of whole pictures, which is right on a GPU, and of tiles, which is right on a CPU.

Normalisations are float32 in any precision: in the graph of whole pictures they lie inside, for tiles the host does them, since
they need the whole picture.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from torch import Tensor, nn

from trackctl.export.graphs import export_module
from trackctl.export.lean_fusion import LeanFusion
from trackctl.runtime.errors import ExportError, InputError
from trackctl.runtime.fusion import padding_map
from trackctl.runtime.fusion_bundle import COLUMNS, FUSED, IR, ROWS, VI, FusionBundle
from trackctl.training.lrr import LRRBranch
from trackctl.training.lrrnet import LRRNet, min_max
from trackctl.training.weights import load_weights, weights_sha256

# int8 is not offered: the residual that the blocks refine is what the quantisation would round away.
FusionPrecision = Literal["fp32", "fp16"]

# Above it a tile's code outgrows the caches, below it the halo is most of the work.
TILE_PX = 48_000


class FrameGraph(nn.Module):
    """Whole pictures in grey levels 0..255 -> the fused one.

    Args:
        core: the network without normalisations.
        dtype: in which it computes.
    """

    def __init__(self, core: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.core = core.to(dtype)
        self.dtype = dtype

    def forward(self, ir: Tensor, vi: Tensor) -> Tensor:
        """(1, 1, H, W) float32, 0..255."""
        fused: Tensor = self.core(min_max(ir).to(self.dtype), min_max(vi).to(self.dtype))
        return 255.0 * min_max(fused.float())


class TileGraph(nn.Module):
    """Tiles of normalised pictures -> the network's output, padded as the host says.

    So one static graph fuses pictures of any size: see :func:`trackctl.runtime.fusion.padding_map`.
    """

    def __init__(self, core: LeanFusion, dtype: torch.dtype) -> None:
        super().__init__()
        self.core = core.to(dtype)
        self.dtype = dtype

    def forward(self, ir: Tensor, vi: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(1, 1, H, W) float32, of any range."""

        def reflect(maps: Tensor) -> Tensor:
            return maps.index_select(2, rows).index_select(3, columns)

        fused: Tensor = self.core(ir.to(self.dtype), vi.to(self.dtype), reflect)
        return fused.float()


def export_frame_fusion(
    model: LRRNet, frame_hw: tuple[int, int] | None = None, *, precision: FusionPrecision = "fp32"
) -> onnx.ModelProto:
    """The graph ``ir``, ``vi`` -> ``fused``, all float32 (1, 1, H, W) in 0..255.

    TensorRT plans it with a workspace that grows with the picture: for 640x512, 1 GiB does in fp16 and 2 GiB in fp32.

    Args:
        model: of any variant.
        frame_hw: height and width; None leaves them open.
        precision: of the network between the normalisations.

    Raises:
        InputError: an unknown precision.
    """
    core = LeanFusion(model) if _is_lean(model) else copy.deepcopy(model)
    height, width = frame_hw or (48, 64)
    example = torch.linspace(0.0, 255.0, height * width).reshape(1, 1, height, width)
    sizes = {2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}
    open_sizes = None if frame_hw else (sizes, sizes)
    graph = FrameGraph(core, _dtype(precision))
    with warnings.catch_warnings():
        # Both pictures share their axes, which is what is meant.
        warnings.filterwarnings("ignore", message=".*axis name: (height|width) will not be used")
        return export_module(graph, {IR: example, VI: example.clone()}, [FUSED], dynamic_shapes=open_sizes)


def export_tile_fusion(model: LRRNet, tile_hw: tuple[int, int], *, precision: FusionPrecision = "fp32") -> onnx.ModelProto:
    """The graph that :class:`trackctl.runtime.fusion.Fuser` runs on each tile.

    Raises:
        InputError: an unknown precision, or a model without LRR branches.
    """
    if not _is_lean(model):
        raise InputError("got a model without LRR branches, expected the extractor 'lrr': export the graph of whole pictures")
    height, width = tile_hw
    image = torch.linspace(0.0, 1.0, height * width).reshape(1, 1, height, width)
    rows, columns = (torch.from_numpy(padding_map(size, size)) for size in tile_hw)
    inputs = {IR: image, VI: image.clone(), ROWS: rows, COLUMNS: columns}
    return export_module(TileGraph(LeanFusion(model), _dtype(precision)), inputs, [FUSED])


def halo_px(model: LRRNet) -> int:
    """How far a fused pixel sees: 1 for C0, 2 per block, 2 for the decoder."""
    if not isinstance(model.ir, LRRBranch):
        raise InputError("got a model without LRR branches, expected the extractor 'lrr'")
    return 1 + 2 * len(model.ir.c1) + 2


def even_tile(frame_hw: tuple[int, int], halo: int, most_px: int = TILE_PX) -> tuple[int, int]:
    """The tile that covers a picture with the least work: evenly cut, at most ``most_px`` large."""

    def counts(size: int) -> dict[int, int]:
        """How many tiles it takes, by the tile's side."""
        sides = {count: -(-(size + 2 * halo * (count - 1)) // count) for count in range(size, 0, -1)}
        return {max(side, 2 * halo + 1): count for count, side in sides.items() if side > 2 * halo or count == 1}

    down, across = (counts(size) for size in frame_hw)
    choices = [
        (rows * columns * height * width, height, width)
        for height, rows in down.items()
        for width, columns in across.items()
        if height * width <= most_px
    ]
    _, height, width = min(choices)
    return height, width


def write_fusion(
    folder: Path, model: LRRNet, weights: Path, *, frame_hw: tuple[int, int], precision: FusionPrecision = "fp32"
) -> FusionBundle:
    """The bundle of a model with the weights of a file, written to a folder.

    Args:
        folder: where to.
        model: filled with the weights.
        weights: ``.npz`` with the authors' names, or ``.safetensors`` of ours.
        frame_hw: of the pictures to come; others can be fused as well, at another cost per pixel.
        precision: of the network.

    Raises:
        WeightsError: the file does not fit the model.
        InputError: an unknown precision, or a model without LRR branches.
        ExportError: the folder cannot be written.
    """
    load_weights(model, weights)
    halo = halo_px(model)
    tile = even_tile(frame_hw, halo)
    graph = export_tile_fusion(model, tile, precision=precision).SerializeToString(deterministic=True)
    provenance = {"network": "LRRNet", "weights": weights.name, "weights_sha256": weights_sha256(weights)}
    try:
        return FusionBundle.write(folder, graph, tile_hw=tile, halo_px=halo, precision=precision, provenance=provenance)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}: give a folder that can be written") from error


def _is_lean(model: LRRNet) -> bool:
    return isinstance(model.ir, LRRBranch)


def _dtype(precision: str) -> torch.dtype:
    if precision not in get_args(FusionPrecision):
        raise InputError(f"got the precision {precision!r}, expected one of {', '.join(get_args(FusionPrecision))}")
    return torch.float16 if precision == "fp16" else torch.float32
