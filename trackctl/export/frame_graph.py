"""Frame graphs: a crop graph joined to a patch graph that is already lowered, so that both cuts hold the very same Core.

template: frame, box [, tone] [, rate, previous...] -> next_state, fill, memory... [, kept...]
search:   frame, state, fill [, tone], memory... -> next_state, score, quality, cls, loc
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from trackctl.export.graphs import Role, anonymous, export_module
from trackctl.runtime.contract import BOX, FILL, FRAME, SEARCH_PATCH, STATE, STATE_IN, STATE_OUT, TEMPLATE_PATCH, TONE
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import GRAY8, LAYOUTS, BandLayout, channels_of, graph_frame_spec, is_toned
from trackctl.runtime.geometry import CropSpec
from trackctl.training.crop import GraphCrop, box_state, frame_planes

PATCH_INPUT: dict[Role, str] = {"template": TEMPLATE_PATCH, "search": SEARCH_PATCH}
PREFIX = "crop."


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """The frames of one camera mode.

    Attributes:
        frame_hw: height and width, px; of a mosaic those of its cells, in which boxes are given.
        layout: sensor layout (runtime/frame.py).
    """

    frame_hw: tuple[int, int]
    layout: str = GRAY8

    @classmethod
    def parse(cls, text: str) -> FrameFormat:
        """The format written as ``WIDTHxHEIGHT`` or ``WIDTHxHEIGHT:layout``, such as ``640x512:gray16``.

        Raises:
            InputError: it is written otherwise.
        """
        match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)(?::(.+))?", text)
        layout = GRAY8 if match is None else match[3] or GRAY8
        if match is None or not (layout in LAYOUTS or BandLayout.parse(layout)):
            raise InputError(
                f"got the frame format {text!r}, expected WIDTHxHEIGHT or WIDTHxHEIGHT:layout with one of {', '.join(LAYOUTS)}, "
                "mosaic4c16u8 and its like (pattern, bands, bits), cube31u16 and its like, "
                "such as 640x512:gray8"
            )
        return cls(frame_hw=(int(match[2]), int(match[1])), layout=layout)

    def __str__(self) -> str:
        return f"{self.frame_hw[1]}x{self.frame_hw[0]}:{self.layout}"


class TemplateCrop(nn.Module):
    """frame, box [, tone] -> the first state, the frame's fill and the template patch."""

    def __init__(self, crop: CropSpec, frame: FrameFormat, channels: int) -> None:
        super().__init__()
        self.frame = frame
        self.cut = GraphCrop(crop, frame.layout, crop.template_size, channels)

    def forward(self, frame: Tensor, box: Tensor, tone: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """State (1, 6), fill (1, C) in whole sensor levels, patch (1, channels, N, N)."""
        planes = frame_planes(frame, self.frame.layout)
        # Rows first: a float32 sum over a whole frame of 16-bit counts would lose its last digits.
        fill = torch.round(planes.mean(dim=3).mean(dim=2))  # (1, C)
        state = box_state(box, self.frame.frame_hw)
        return state, fill, self.cut(planes, state, fill, tone)


class SearchCrop(nn.Module):
    """frame, state, fill [, tone] -> the search patch."""

    def __init__(self, crop: CropSpec, frame: FrameFormat, channels: int) -> None:
        super().__init__()
        self.layout = frame.layout
        self.cut = GraphCrop(crop, frame.layout, crop.search_size, channels)

    def forward(self, frame: Tensor, state: Tensor, fill: Tensor, tone: Tensor | None = None) -> Tensor:
        """The patch (1, channels, N, N)."""
        patch: Tensor = self.cut(frame_planes(frame, self.layout), state, fill, tone)
        return patch


def example_tone(layout: str) -> dict[str, Tensor]:
    """The tone input (1, 2 C) of a layout's frame graph, counts 0 and 255; none if it has none."""
    channels = channels_of(layout)
    return {TONE: torch.tensor([[0.0] * channels + [255.0] * channels])} if is_toned(layout) else {}


def export_frame_graph(patch_graph: onnx.ModelProto, role: Role, crop: CropSpec, frame: FrameFormat) -> onnx.ModelProto:
    """The checked frame graph of one role around its patch graph, which is not changed.

    Args:
        patch_graph: of any precision, from :func:`trackctl.export.graphs.export_patch_graph` or the quantiser.
        role: ``template`` or ``search``.
        crop: crop constants.
        frame: size and layout of the frames.
    """
    patch = next(value for value in patch_graph.graph.input if value.name == PATCH_INPUT[role])
    channels = patch.type.tensor_type.shape.dim[1].dim_value
    spec = graph_frame_spec(frame.layout, frame.frame_hw)
    pixels = torch.zeros(spec.shape, dtype=torch.uint8)
    tone = example_tone(frame.layout)
    if role == "template":
        inputs = {FRAME: pixels, BOX: torch.ones(1, 4), **tone}
        cropping = export_module(TemplateCrop(crop, frame, channels), inputs, (STATE_OUT, FILL, TEMPLATE_PATCH))
    else:
        inputs = {
            FRAME: pixels,
            STATE_IN: torch.ones(1, len(STATE)),
            FILL: torch.zeros(1, channels_of(frame.layout)),
            **tone,
        }
        cropping = export_module(SearchCrop(crop, frame, channels), inputs, (SEARCH_PATCH,))
    return _join(cropping, patch_graph, PATCH_INPUT[role])


def _join(cropping: onnx.ModelProto, core: onnx.ModelProto, patch: str) -> onnx.ModelProto:
    """``core`` fed by ``cropping`` through the tensor ``patch``; inputs of one name become one input."""
    first = cropping.graph
    border = {value.name for value in (*first.input, *first.output)}

    def renamed(name: str) -> str:
        return name if name in border or not name else PREFIX + name

    joined = onnx.ModelProto()
    joined.CopyFrom(core)
    graph = joined.graph
    del graph.node[:], graph.input[:], graph.output[:]
    for source in first.node:
        node = graph.node.add()
        node.CopyFrom(source)
        node.name = PREFIX + source.name
        node.input[:] = [renamed(name) for name in source.input]
        node.output[:] = [renamed(name) for name in source.output]
    graph.node.extend(core.graph.node)
    for copies, originals in ((graph.initializer, first.initializer), (graph.value_info, first.value_info)):
        for original in originals:
            copied = copies.add()
            copied.CopyFrom(original)
            copied.name = renamed(original.name)
    shared = {value.name for value in first.input} | {patch}
    graph.input.extend([*first.input, *(value for value in core.graph.input if value.name not in shared)])
    graph.output.extend([*(value for value in first.output if value.name != patch), *core.graph.output])
    graph.value_info.extend(value for value in first.output if value.name == patch)
    return anonymous(joined)
