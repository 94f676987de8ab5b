"""DFAT: the decision of two cameras, the fused branch, the missing camera, the updated template."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trackctl.runtime.errors import InputError
from trackctl.training.dfat import BRANCHES, DFAT, dfat_edge, dfat_lrr_edge, dfat_lrr_r50
from trackctl.training.feature_fusion import (
    PAPER_TARGETS,
    SINGLE_TARGET,
    LevelTarget,
    LowRankFusion,
    ResidualFusion,
    gram,
    resemblance,
)
from trackctl.training.model import SearchGraph, patch_contrast

STATE = torch.tensor([[80.0, 60.0, 30.0, 20.0, 160.0, 120.0]])


def patches(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    template, search = (torch.rand(1, 4, side, side, generator=generator) * 255.0 for side in (127, 255))
    return template, search


def edge(variant: str = "dfat", **options: object) -> DFAT:
    torch.manual_seed(0)
    return dfat_edge(variant=variant, code=8, blocks=1, targets=SINGLE_TARGET, **options).eval()


def kernels_and_maps(model: DFAT, modality: int) -> tuple[Tensor, Tensor]:
    """One camera's raw maps, by the plain SiamRPN++ of the same weights."""
    template, search = patches()
    chosen = [model.modal_patches(patch)[0][modality] for patch in (template, search)]
    levels = [level[:, :, 4:11, 4:11] for level in model.levels(chosen[0])]
    cls, loc = model.rpn.template(levels)
    features = model.rpn.search(model.levels(chosen[1]))
    made = (
        model._correlate(part, torch.stack(kernel, dim=1).flatten(0, 1))
        for part, kernel in zip(features, (cls, loc), strict=True)
    )
    return model.rpn(*made)


@torch.inference_mode()
@pytest.mark.parametrize("equalise", [True, False])
def test_two_branches_are_the_published_formula(equalise: bool) -> None:
    model = edge(equalise=equalise)
    template, search = patches()
    cls, loc = model.search(search, model.template(template))
    (cls_r, loc_r), (cls_i, loc_i) = (kernels_and_maps(model, modality) for modality in (0, 1))
    gates = [float(bool((part[:, 5:] > 0).any())) for part in (cls_r, cls_i)]
    w_r, w_i = gates if sum(gates) else (1.0, 1.0)
    torch.testing.assert_close(cls, 0.5 * (w_r * cls_r + w_i * cls_i) / (w_r + w_i), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loc, 0.5 * loc_r + 0.5 * loc_i, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positive", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_the_gate_is_exact(positive: tuple[int, int]) -> None:
    model = edge()
    generator = torch.Generator().manual_seed(3)
    cls, loc = torch.randn(2, 1, 10, 25, 25, generator=generator), torch.randn(2, 1, 20, 25, 25, generator=generator)
    for branch, any_positive in enumerate(positive):
        if not any_positive:
            cls[branch, :, 5:] = -cls[branch, :, 5:].abs()
    fused_cls, fused_loc = model.decide(cls, loc, torch.ones(2, 1))
    w_r, w_i = (float(value) for value in positive) if any(positive) else (1.0, 1.0)
    assert torch.equal(fused_cls, 0.5 * ((w_r * cls[0] + w_i * cls[1]) / (w_r + w_i)))
    assert torch.equal(fused_loc, (loc[0] + loc[1]) / 2.0)


def test_three_branches_share_the_decision() -> None:
    model = edge("dfat+lrr")
    cls, loc = torch.rand(3, 1, 10, 25, 25), torch.rand(3, 1, 20, 25, 25)
    cls[2, :, 5:] *= -1.0
    fused_cls, fused_loc = model.decide(cls, loc, torch.ones(3, 1))
    torch.testing.assert_close(fused_cls, 0.5 * (cls[0] + cls[1]) / 2.0)
    torch.testing.assert_close(fused_loc, loc.mean(dim=0))


def test_a_single_branch_is_left_as_it_is() -> None:
    cls, loc = torch.rand(1, 1, 10, 25, 25), torch.rand(1, 1, 20, 25, 25)
    fused_cls, fused_loc = edge("rgb").decide(cls, loc, torch.ones(1, 1))
    assert torch.equal(fused_cls, cls[0]) and torch.equal(fused_loc, loc[0])


@torch.inference_mode()
@pytest.mark.parametrize("variant", BRANCHES)
@pytest.mark.parametrize("fusion_rpn", ["shared", "own"])
def test_every_variant_tracks_a_patch(variant: str, fusion_rpn: str) -> None:
    model = edge(variant, fusion_rpn=fusion_rpn)
    template, search = patches()
    z_cls, z_loc, *kept = model.refresh(template)
    assert z_cls.shape == z_loc.shape == (len(BRANCHES[variant]), 96, 5, 5)
    assert [part.shape for part in kept] == [(1, 96, 7, 7)] * len(model.kept_names)
    cls, loc = model.search(search, (z_cls, z_loc))
    assert cls.shape == (1, 10, 25, 25) and loc.shape == (1, 20, 25, 25)
    assert (model.fusion_rpn is not None) == (fusion_rpn == "own" and "fusion" in model.branches)


@torch.inference_mode()
@pytest.mark.parametrize("fusion_rpn", ["shared", "own"])
def test_the_fused_branch_is_the_module_on_both_features(fusion_rpn: str) -> None:
    """Alone it must give what the third branch gives among three."""
    three, alone = edge("dfat+lrr", fusion_rpn=fusion_rpn), edge("fusion_only", fusion_rpn=fusion_rpn)
    alone.load_state_dict(three.state_dict())
    template, search = patches()
    memory = three.template(template)
    torch.testing.assert_close(alone.template(template)[0], memory[0][2:], rtol=1e-5, atol=1e-6)
    two = edge("dfat")
    two.load_state_dict({key: value for key, value in three.state_dict().items() if not key.startswith("fusion")})
    torch.testing.assert_close(two.template(template)[0], memory[0][:2], rtol=1e-5, atol=1e-6)
    head = alone.fusion_rpn or alone.rpn
    features = head.search([level[0] for level in alone.with_fusion(alone.modal_levels(search)[0])])
    expected = head(*(alone._correlate(part, kernels[2:]) for part, kernels in zip(features, memory, strict=True)))
    got = alone.search(search, [part[2:] for part in memory])
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("camera", ["visible", "thermal"])
def test_without_one_camera_the_other_decides_alone(camera: str) -> None:
    model = edge("dfat+lrr")
    template, search = patches()
    memory = model.template(template)
    blind = search.clone()
    planes = slice(0, 3) if camera == "visible" else slice(3, 4)
    blind[:, planes] = 77.0
    cls, loc = model.search(blind, memory)
    other = edge("ir" if camera == "visible" else "rgb")
    other.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("fusion")})
    single_cls, single_loc = other.search(blind, other.template(template))
    torch.testing.assert_close(cls, 0.5 * single_cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loc, single_loc, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_camera_that_was_covered_at_the_start_joins_when_the_template_is_updated() -> None:
    model = edge("dfat+lrr")
    template, search = patches()
    covered = template.clone()
    covered[:, 3] = 40.0
    z_cls, z_loc, zf_rgb, zf_ir = model.refresh(covered)
    assert not zf_ir.any() and not z_cls[1:].any() and z_cls[0].any()
    alone = edge("rgb")
    alone.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("fusion")})
    cls, _ = model.search(search, (z_cls, z_loc))
    torch.testing.assert_close(cls, 0.5 * alone.search(search, alone.template(template))[0], rtol=1e-4, atol=1e-4)
    updated = model.refresh(template, (zf_rgb, zf_ir), torch.full((1, 1), 0.1))
    whole = model.refresh(template)
    torch.testing.assert_close(updated[3], whole[3])  # the first sight of a camera is learnt as a whole
    again = model.refresh(covered, whole[2:], torch.full((1, 1), 0.1))
    assert torch.equal(again[3], whole[3])  # what it saw before is not forgotten under the cover


@torch.inference_mode()
def test_the_template_is_blended_and_the_first_one_forgets() -> None:
    model = edge("dfat+lrr")
    first, second = model.refresh(patches(1)[0]), model.refresh(patches(2)[0])
    blended = model.refresh(patches(2)[0], first[2:], torch.full((1, 1), 0.1))
    for modality in (2, 3):
        torch.testing.assert_close(blended[modality], 0.9 * first[modality] + 0.1 * second[modality])
    # The fused kernels come from the blended features.
    fused = model.with_fusion([torch.stack((blended[2], blended[3]))])[0][2]
    torch.testing.assert_close(blended[0][2:], model.rpn.template([fused])[0][0], rtol=1e-5, atol=1e-6)
    forgotten = model.refresh(patches(2)[0], first[2:], torch.ones(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(forgotten, second, strict=True))


@torch.inference_mode()
def test_a_pair_is_blank_only_if_both_cameras_are() -> None:
    _, search = patches()
    dark = search.clone()
    dark[:, :3] = 0.0
    model = edge()
    assert patch_contrast(dark, model.contrast_planes).item() > 1.0
    assert patch_contrast(dark).item() == 0.0
    memory = model.template(patches()[0])
    assert SearchGraph(model)(dark, STATE, *memory)[1].item() > 0.0
    dark[:, 3] = 9.0
    state, score, *_ = SearchGraph(model)(dark, STATE, *memory)
    assert score.item() == 0.0 and torch.equal(state, STATE)


def test_the_thermal_patch_is_shifted_to_the_visible_mean() -> None:
    _, search = patches()
    search[:, 3] *= 0.3
    shown, seen = edge(equalise=True).modal_patches(search)
    assert seen.tolist() == [[1.0], [1.0]]
    assert shown[1].mean().item() == pytest.approx(search[:, :3].mean().item(), abs=1e-3)
    torch.testing.assert_close(shown[1][:, 0] - shown[1].mean(), search[:, 3] - search[:, 3].mean(), atol=1e-3, rtol=0)
    search[:, :3] = 5.0
    assert torch.equal(edge(equalise=True).modal_patches(search)[0][1][:, 0], search[:, 3])


def test_the_low_rank_module_has_the_counted_parameters() -> None:
    module = LowRankFusion(256)
    assert sum(part.numel() for part in module.rgb.parameters()) == 1_476_225
    assert sum(part.numel() for part in module.parameters()) == 4_132_354


@pytest.mark.parametrize("module", [LowRankFusion(16, code=4, blocks=2), ResidualFusion(16)])
def test_a_fusion_keeps_the_size_and_uses_both(module: torch.nn.Module) -> None:
    rgb, ir = torch.randn(2, 16, 7, 7, requires_grad=True), torch.randn(2, 16, 7, 7, requires_grad=True)
    out = module(rgb, ir)
    assert out.shape == rgb.shape
    out.square().sum().backward()
    assert rgb.grad is not None and rgb.grad.abs().sum() > 0
    assert ir.grad is not None and ir.grad.abs().sum() > 0


def test_each_level_resembles_what_the_paper_says() -> None:
    modal = [torch.stack((torch.full((1, 2, 3, 3), 1.0), torch.full((1, 2, 3, 3), 10.0))) for _ in range(3)]
    exact = [3.0 * modal[0][0], 2.0 * modal[1][1] + modal[1][0]]
    # The third level compares Gram matrices: 2 * G(10) + G(1) with G(c) = 9 c^2 / 18.
    wanted = (2 * 100.0 + 1.0) * 9.0 / 18.0
    third = torch.full((1, 2, 3, 3), (wanted * 18.0 / 9.0) ** 0.5)
    assert resemblance([*exact, third], modal, PAPER_TARGETS).item() == pytest.approx(0.0, abs=1e-4)
    off = resemblance([exact[0] + 1.0, exact[1], third], modal, PAPER_TARGETS).item()
    assert off == pytest.approx(10.0, rel=1e-4)
    off = resemblance([exact[0], exact[1] + 1.0, third], modal, PAPER_TARGETS).item()
    assert off == pytest.approx(2.0, rel=1e-4)
    off = resemblance([*exact, torch.zeros_like(third)], modal, PAPER_TARGETS).item()
    assert off == pytest.approx(2000.0 * wanted**2, rel=1e-4)
    assert gram(torch.ones(1, 2, 3, 3)).tolist() == [[[0.5, 0.5], [0.5, 0.5]]]
    with pytest.raises(InputError, match="one per level"):
        resemblance(exact, modal, PAPER_TARGETS)


def test_only_the_fusion_learns_when_there_is_one() -> None:
    model = dfat_lrr_edge(code=8, blocks=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parts = model.train().losses(
        torch.rand(2, 4, 127, 127) * 255,
        torch.rand(2, 4, 255, 255) * 255,
        torch.tensor([[90.0, 90.0, 160.0, 160.0]] * 2),
        torch.tensor([True, False]),
        generator=torch.Generator().manual_seed(0),
    )
    assert set(parts) == {"total", "cls", "loc", "alike"}
    torch.testing.assert_close(parts["total"], parts["cls"] + 1.2 * parts["loc"] + 0.1 * parts["alike"])
    parts["total"].backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning and all(name.startswith("fusion.") for name in learning)
    # Also the running statistics of the frozen parts stand, and the model is left in training mode.
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items() if not key.startswith("fusion."))
    assert model.backbone.training


def test_without_one_every_camera_is_a_sample_of_its_own() -> None:
    model = edge()
    boxes, positive = torch.tensor([[90.0, 90.0, 160.0, 160.0]]), torch.tensor([True])
    template, search = patches()
    parts = model.losses(template, search, boxes, positive, generator=torch.Generator().manual_seed(0))
    assert set(parts) == {"total", "cls", "loc"}
    parts["total"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_options_are_named() -> None:
    with pytest.raises(InputError, match=r"variant 'rbg'"):
        dfat_edge(variant="rbg")
    with pytest.raises(InputError, match="one per level"):
        dfat_edge(variant="dfat+lrr", targets=PAPER_TARGETS)
    with pytest.raises(InputError, match="one per level"):
        dfat_edge(variant="dfat+lrr", targets=(LevelTarget(weight=1.0, rgb=1.0, ir=1.0),) * 2)


@pytest.mark.slow
def test_the_published_size() -> None:
    model = dfat_lrr_r50()
    assert sum(part.numel() for part in model.fusion.parameters()) == 3 * 4_132_354
    assert model.branches == ("rgb", "ir", "fusion")
