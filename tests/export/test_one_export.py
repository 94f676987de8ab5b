"""What is exported once stands for nothing but the same module with the same arguments."""

from __future__ import annotations

import copy

import pytest
import torch
from one_export import content, one_export
from tiny_tracker import tiny_tracker
from torch import nn

from trackctl.export.graphs import export_module, fold_batch_norm


def test_equal_modules_have_the_same_content_whoever_made_them(tiny):
    assert content(tiny_tracker()) == content(tiny) == content(copy.deepcopy(tiny))
    assert content(fold_batch_norm(tiny_tracker())) == content(fold_batch_norm(tiny))


@pytest.mark.parametrize("change", ["weight", "buffer", "option", "layer", "precision", "input"])
def test_any_difference_is_another_content(tiny, change):
    other, patch = copy.deepcopy(tiny), torch.zeros(1, 3, 127, 127)
    plain = content(tiny, patch)
    if change == "weight":
        next(other.parameters()).data.reshape(-1)[0] += 1e-3
    elif change == "buffer":
        other.decode.select.hann.reshape(-1)[0] += 1e-3
    elif change == "option":
        other.near_margin += 1
    elif change == "layer":
        other.added = nn.Identity()
    elif change == "precision":
        other.half()
    else:
        patch = torch.zeros(1, 3, 127, 255)
    assert content(other, patch) != plain


def test_what_is_kept_cannot_be_changed(tmp_path):
    module, inputs = nn.Linear(3, 2), {"x": torch.zeros(1, 3)}
    with one_export(tmp_path):
        first = export_module(module, inputs, ("y",))
        first.graph.node[0].op_type = "Relu"
        second, third = export_module(module, inputs, ("y",)), export_module(module, inputs, ("z",))
    assert len(list(tmp_path.iterdir())) == 2
    assert second.graph.node[0].op_type == "Gemm"
    assert third.graph.output[0].name == "z"
