"""DCFG: suppression, blocks, fusion, variants, losses and its graphs."""

from __future__ import annotations

import math

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from trackctl.export.graphs import export_patch_graph
from trackctl.runtime.errors import InputError
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.dcfg import (
    DCCFG,
    DCFG,
    DenseFusionUnit,
    FineGrainedBlock,
    FusionUnit,
    Suppression,
    dcfg_edge,
    dcfg_r50,
    dense_block,
    frozen_statistics,
    suppression_masks,
)
from trackctl.training.model import SearchGraph, TemplateGraph
from trackctl.training.siamrpn import SiamRPN

BOXES = torch.tensor([[90.0, 90.0, 160.0, 165.0], [60.0, 70.0, 140.0, 150.0]])
BOTH_POSITIVE = torch.tensor([True, True])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(*, weights_seed: int = 0, **options: object) -> DCFG:
    torch.manual_seed(weights_seed)
    return DCFG(backbone=EdgeBackbone(stem=(8, 8, 16), dilations=(1,)), width=16, **options)  # type: ignore[arg-type]


def patches(batch: int) -> tuple[Tensor, Tensor]:
    generator = seeded(3)
    return tuple(torch.rand(batch, 3, side, side, generator=generator) * 255 for side in (127, 255))  # type: ignore[return-value]


def suppression(groups: int, width: int = 32, **options: object) -> Suppression:
    settings = {"alpha": 0.7, "sigma": 0.4, "gauss": "density", "peak_region": "full"} | options
    return Suppression(width, groups, **settings)  # type: ignore[arg-type]


def wake(model: nn.Module) -> None:
    """Batch normalisations away from their initial values, as training leaves them."""
    generator = seeded(11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.0, 0.2, generator=generator)


# Suppression


def test_masks_are_the_formula_at_every_peak() -> None:
    masks = suppression_masks(0.4, "density")
    assert masks.shape == (225, 1, 15, 15)
    for peak in range(225):
        for cell in range(225):
            squared = (cell // 15 - peak // 15) ** 2 + (cell % 15 - peak % 15) ** 2
            wanted = 1 - math.exp(-squared / (2 * 0.4**2)) / (2 * math.pi * 0.4**2)
            assert float(masks[peak, 0, cell // 15, cell % 15]) == pytest.approx(wanted, abs=1e-6)
    assert float(masks.min()) == pytest.approx(0.00528, abs=1e-5)
    assert float(masks[112, 0, 7, 8]) == pytest.approx(0.956, abs=5e-4)


def test_a_gaussian_without_its_prefactor_removes_the_peak_entirely() -> None:
    masks = suppression_masks(1.0, "peak1")
    assert float(masks.min()) == 0.0
    assert float(masks[112, 0, 7, 8]) == pytest.approx(1 - math.exp(-0.5), abs=1e-6)


def test_a_sigma_that_would_amplify_negatively_is_refused() -> None:
    with pytest.raises(InputError, match=r"got sigma 0.3, expected at least 0.3989"):
        suppression_masks(0.3, "density")


@pytest.mark.parametrize("groups", [1, 2, 8, 16])
def test_a_copy_loses_its_groups_peak_and_weakens_the_others(groups: int) -> None:
    feature = torch.randn(2, 32, 15, 15, generator=seeded())
    copies = suppression(groups)(feature)
    assert copies.shape == (2, groups, 32, 15, 15)
    masks, per_group = suppression_masks(0.4, "density"), 32 // groups
    for sample in range(2):
        for group in range(groups):
            own = slice(group * per_group, (group + 1) * per_group)
            peak = int(feature[sample, own].mean(dim=0).argmax())
            assert torch.equal(copies[sample, group, own], feature[sample, own] * masks[peak])
            others = torch.ones(32, dtype=torch.bool)
            others[own] = False
            assert torch.equal(copies[sample, group, others], feature[sample, others] * 0.7)


def test_the_first_of_equal_peaks_counts() -> None:
    feature = torch.zeros(1, 8, 15, 15)
    feature[:, :, 3, 4] = feature[:, :, 9, 2] = 1.0
    assert suppression(2, 8).peaks(feature).tolist() == [[3 * 15 + 4] * 2]


def test_peaks_within_the_cells_of_the_kernel() -> None:
    feature = torch.zeros(1, 8, 15, 15)
    feature[:, :, 0, 0], feature[:, :, 5, 6] = 2.0, 1.0
    assert float(suppression(2, 8).outside(feature)) == 1.0
    central = suppression(2, 8, peak_region="center7")
    assert float(central.outside(feature)) == 0.0
    assert torch.equal(central(feature)[0, 0, 0], feature[0, 0] * suppression_masks(0.4, "density")[5 * 15 + 6, 0])
    feature[:, :4, 0, 0] = 0.0  # now the first group's peak is inside
    assert float(suppression(2, 8).outside(feature)) == 0.5


def test_no_gradient_through_the_choice_of_the_peak() -> None:
    feature = torch.randn(1, 8, 15, 15, requires_grad=True)
    copies = suppression(2, 8)(feature)
    (gradient,) = torch.autograd.grad(copies.sum(), feature)
    scale = (copies / feature).detach().sum(dim=1)
    torch.testing.assert_close(gradient, scale, rtol=1e-4, atol=1e-4)


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(InputError, match="got 3 groups for 32 channels"):
        suppression(3)


# Blocks and fusion


def test_parameter_counts_of_the_paper_width() -> None:
    assert count(FineGrainedBlock(256, seeded())) == 34_688
    assert count(FusionUnit(256)) == 11_520
    assert count(dense_block(256)) == 214_016
    assert count(DenseFusionUnit(256)) == 512 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    assert count(DCCFG(256, suppression(8, 256), balanced=True, generator=seeded())) == 369_664


def test_parameter_counts_of_the_paper_model() -> None:
    model = dcfg_r50()
    assert count(model.dccfg) == 1_108_992
    assert count(model) == 45_528_128 + 919_040 + 7_503_456 + 1_108_992


def test_a_permutation_is_a_fixed_bijection() -> None:
    model, twin = small(), small(weights_seed=1)
    other = small(seed=5)
    orders = [block.order for block in model.dccfg[0].blocks]
    assert all(sorted(order.tolist()) == list(range(16)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 8
    assert all(torch.equal(a, block.order) for a, block in zip(orders, twin.dccfg[0].blocks, strict=True))
    assert not all(torch.equal(a, block.order) for a, block in zip(orders, other.dccfg[0].blocks, strict=True))


def test_a_permutation_travels_with_the_weights() -> None:
    block, other = FineGrainedBlock(16, seeded(0)), FineGrainedBlock(16, seeded(1))
    x = torch.randn(2, 16, 15, 15)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other.eval()(x), block.eval()(x))
    before = block.order.clone()
    block.train()(x)
    assert torch.equal(block.order, before)


def test_a_block_keeps_half_of_its_channels_and_permutes_all() -> None:
    block = FineGrainedBlock(16, seeded()).eval()
    x = torch.randn(1, 16, 15, 15)
    restored = block(x)[:, block.order.argsort()]
    assert torch.equal(restored[:, :8], x[:, :8])
    torch.testing.assert_close(restored[:, 8:], block.process(x[:, 8:]))


def test_the_fusion_shuffles_across_its_groups() -> None:
    """After the shuffle neighbouring channels come from different groups: channel 8 k + g is channel k of group g."""
    unit = FusionUnit(32).eval()
    unit.pointwise = nn.Identity()
    conv, norm = unit.depthwise[0], unit.depthwise[1]
    conv.weight.data.zero_()
    conv.weight.data[:, :, 1, 1] = 1.0
    norm.weight.data.fill_(math.sqrt(1 + norm.eps))
    fine = torch.arange(32.0)[None, :, None, None].expand(1, 32, 15, 15)
    shuffled = unit(torch.zeros_like(fine), fine)[0, :, 0, 0]
    assert torch.equal(shuffled.round().long(), torch.arange(32).reshape(8, 4).T.flatten())


@pytest.mark.parametrize("variant", ["baseline", "Siam_DCCFG", "Siam_CBL", "DCFG"])
def test_an_untrained_module_is_exactly_the_baseline(variant: str) -> None:
    model = small(variant=variant).eval()
    torch.manual_seed(1)
    baseline = SiamRPN(backbone=EdgeBackbone(stem=(8, 8, 16), dilations=(1,)), width=16).eval()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("dccfg.")}
    baseline.load_state_dict(shared)
    template, _ = patches(2)
    with torch.inference_mode():
        for got, wanted in zip(model.template(template), baseline.template(template), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("variant", ["Siam_DCCFG", "DCFG"])
def test_a_trained_module_changes_the_template_alone(variant: str) -> None:
    model = small(variant=variant).eval()
    template, search = patches(1)
    with torch.inference_mode():
        before = model.template(template)
        maps = model.search(search, before)
        wake(model.dccfg)
        assert not torch.equal(model.template(template)[0], before[0])
        assert all(torch.equal(a, b) for a, b in zip(model.search(search, before), maps, strict=True))


@pytest.mark.parametrize(("groups", "blocks"), [(0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 16)])
def test_as_many_blocks_as_groups(groups: int, blocks: int) -> None:
    module = small(groups=groups).dccfg[0]
    wake(module)
    fused, fine = module(torch.randn(2, 16, 15, 15))
    assert fused.shape == (2, 16, 15, 15) and len(fine) == len(module.units) == blocks


@pytest.mark.parametrize("name", ["variant", "gauss", "peak_region", "overlap", "norm_on"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"got {name} 'dcfgg', expected one of"):
        small(**{name: "dcfgg"})


def test_a_width_that_cannot_be_shuffled_is_refused() -> None:
    with pytest.raises(InputError, match="got a width of 12, expected a multiple of 8"):
        FusionUnit(12)


# Losses


def losses_of(model: DCFG, **options: bool) -> dict[str, Tensor]:
    template, search = patches(2)
    return model.losses(template, search, BOXES, BOTH_POSITIVE, generator=seeded(7), **options)


def test_total_is_the_sum_of_equation_9() -> None:
    parts = {name: value.detach() for name, value in losses_of(small(mu=3.0).train()).items()}
    assert set(parts) == {"total", "cls", "loc", "fine", "div", "outside"}
    torch.testing.assert_close(parts["total"], parts["fine"] + 3.0 * (parts["cls"] + parts["loc"]) + parts["div"])
    assert 0.0 <= float(parts["div"]) <= 56.0 and 0.0 <= float(parts["outside"]) <= 1.0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"variant": "baseline"}, {"cls", "loc"}),
        ({"variant": "Siam_DCCFG"}, {"cls", "loc", "fine", "outside"}),
        ({"variant": "Siam_CBL"}, {"cls", "loc", "fine", "outside"}),
        ({"groups": 0}, {"cls", "loc", "fine", "div", "outside"}),
        ({"groups": 1}, {"cls", "loc", "fine", "div", "outside"}),
    ],
)
def test_variants_have_their_own_losses(options: dict[str, object], names: set[str]) -> None:
    parts = losses_of(small(**options).train())
    assert set(parts) == {"total", *names}
    if "groups" in options:
        assert float(parts["div"].detach()) == 0.0


def test_the_fine_loss_is_the_sum_over_the_maps_and_search_runs_once() -> None:
    model = small().eval()
    wake(model)
    calls = {"search": 0, "kernels": 0}
    branch = model.rpn.branches[0][0]

    def count_search(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        calls["search"] += 1

    def count_kernels(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        calls["kernels"] += output.shape[0]

    hooks = [branch.search.register_forward_hook(count_search), branch.template.register_forward_hook(count_kernels)]
    parts = losses_of(model)
    for hook in hooks:
        hook.remove()
    # N + 1 kernels for each of the two pairs.
    assert calls == {"search": 1, "kernels": 9 * 2}

    template, search = patches(2)
    targets = model.targets(BOXES, BOTH_POSITIVE, seeded(7))
    features = model.rpn.search(model.levels(search))
    _, fine = model.dccfg[0](model.levels(template)[0])
    wanted = sum(sum(model.track_loss(features, [fine_map], targets)) for fine_map in fine)
    torch.testing.assert_close(parts["fine"], wanted, rtol=1e-4, atol=1e-4)


def test_only_the_fused_map_moves_the_heads_statistics() -> None:
    with_fine, without = small().train(), small().train()
    losses_of(with_fine)
    losses_of(without, with_fine=False)
    for name, value in with_fine.rpn.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(value, without.rpn.state_dict()[name]), name


def test_frozen_statistics_end_with_the_block_even_on_an_error() -> None:
    norm = nn.BatchNorm2d(3).train()
    with pytest.raises(RuntimeError, match="stop"), frozen_statistics(norm):
        out = norm(torch.randn(4, 3, 5, 5) * 3 + 2)
        raise RuntimeError("stop")
    assert not norm.running_mean.any() and float(out.detach().mean().abs()) < 1e-5
    norm(torch.ones(4, 3, 5, 5))
    assert float(norm.running_mean[0]) == pytest.approx(0.1)


def test_gradients_reach_every_parameter() -> None:
    model = small().train()
    wake(model)
    losses_of(model)["total"].backward()  # type: ignore[no-untyped-call]
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert idle == []


def test_a_fresh_fusion_starts_to_learn() -> None:
    model = small().train()
    losses_of(model)["total"].backward()  # type: ignore[no-untyped-call]
    assert all(unit.depthwise[1].weight.grad.any() for unit in model.dccfg[0].units)


def test_on_the_raw_map_alone_the_fusion_has_no_gradient() -> None:
    raw, both = small(norm_on="raw").train(), small(norm_on="both").train()
    for model in (raw, both):
        wake(model)
        losses_of(model)["total"].backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is None for value in raw.dccfg[0].units.parameters())
    assert all(value.grad.any() for value in both.dccfg[0].units.parameters())


def test_the_same_seed_gives_the_same_losses_under_bfloat16() -> None:
    results = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(losses_of(small().train()))
    assert all(value.dtype == torch.float32 for value in results[0].values())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# Graphs


@pytest.mark.slow
def test_exported_graphs_are_the_model() -> None:
    torch.manual_seed(0)
    model = dcfg_edge().train()
    wake(model)
    template, search = patches(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.search(search, model.template(template))  # activations of a trained model's size
    model.eval()
    state = torch.tensor([[320.0, 256.0, 60.0, 40.0, 640.0, 512.0]])
    with torch.inference_mode():
        memory = TemplateGraph(model)(template)
        wanted = SearchGraph(model)(search, state, *memory)
    for role, feeds, outputs in (
        ("template", (template,), memory),
        ("search", (search, state, *memory), wanted),
    ):
        graph = export_patch_graph(model, role)  # type: ignore[arg-type]
        # Data-dependent shapes and run-time indices beyond a plain Gather would break engines.
        assert not {node.op_type for node in graph.graph.node} & {"GatherND", "ScatterND", "If", "Loop", "Range", "NonZero"}
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [tensor.name for tensor in session.get_inputs()]
        results = session.run(None, {name: feed.numpy() for name, feed in zip(names, feeds, strict=True)})
        for got, want in zip(results, outputs, strict=True):
            assert got.dtype == "float32"
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-4)
