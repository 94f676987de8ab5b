"""BCR-Net: memory, both sortings, fusion, ablations, template update and losses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, iou
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.bcrnet import BCRNet, bcrnet_edge, bcrnet_r50, fuse
from trackctl.training.decode import DecodeSpec
from trackctl.training.model import SearchGraph, TemplateGraph

BOXES = torch.tensor([[90.0, 90.0, 160.0, 165.0], [60.0, 70.0, 140.0, 150.0]])
BOTH_POSITIVE = torch.tensor([True, True])
STATE = torch.tensor([[320.0, 256.0, 60.0, 40.0, 640.0, 512.0]])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(bands: int = 7, *, weights_seed: int = 0, **options: object) -> BCRNet:
    torch.manual_seed(weights_seed)
    return BCRNet(backbone=EdgeBackbone(stem=(8, 8, 16), dilations=(1,)), bands=bands, width=16, **options)  # type: ignore[arg-type]


def wake(model: BCRNet) -> BCRNet:
    """Normalisations and whatever starts at zero away from their initial values, as training leaves them."""
    generator = seeded(11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.0, 0.2, generator=generator)
    for name, value in model.named_parameters():
        if "value" in name or "step" in name:
            value.data.normal_(0.0, 0.1, generator=generator)
    return model


def patches(bands: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = seeded(3)
    gain = torch.rand(1, bands, 1, 1, generator=generator) * 255
    return tuple(torch.rand(batch, bands, side, side, generator=generator) * gain for side in (127, 255))  # type: ignore[return-value]


# Memory and maps


@pytest.mark.parametrize(("bands", "branches"), [(15, 5), (16, 5), (25, 8), (31, 10), (3, 1)])
def test_memory_and_maps(bands: int, branches: int) -> None:
    model = small(bands).eval()
    template, search = patches(bands)
    with torch.inference_mode():
        memory = model.template(template)
        cls, loc = model.search(search, memory)
        state, score, _, _ = model.decode(cls, loc, STATE)
    assert model.branches == branches and model.channels == bands
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(model.memory_names, memory, strict=True)}
    assert shapes == {
        "z_cls": (branches, 16, 5, 5),
        "z_loc": (branches, 16, 5, 5),
        "band_select": (3 * branches, bands),
        "branch_weight": (1, branches),
    }
    assert torch.equal(memory[2].sum(dim=1), torch.ones(3 * branches)) and set(memory[2].unique().tolist()) <= {0.0, 1.0}
    assert (memory[2].sum(dim=0) <= 1).all(), "a band is used twice"
    assert float(memory[3].sum()) == pytest.approx(1.0)
    assert (tuple(cls.shape), tuple(loc.shape)) == ((1, 2, 25, 25), (1, 4, 25, 25))
    assert torch.isfinite(state).all() and 0 <= float(score) <= 1


@pytest.mark.slow
def test_the_paper_model() -> None:
    model = bcrnet_r50().eval()
    assert count(model.backbone) + count(model.neck) == 45_528_128 + 919_040
    assert (count(model.cfrm), count(model.ban), count(model.ranking)) == (3 * 213_568, 7_484_955, 55_729)
    template, _ = patches(16)
    with torch.inference_mode():
        memory = model.template(template)
    assert [tuple(kernel.shape) for kernel in memory[:2]] == [(15, 256, 5, 5)] * 2


@pytest.mark.parametrize("sorting", ["template", "per_frame"])
def test_a_batch_is_its_samples(sorting: str) -> None:
    model = wake(small(sorting=sorting)).eval()
    template, search = patches(7, 2)
    with torch.inference_mode():
        together = model.search(search, model.template(template))
        for i in range(2):
            alone = model.search(search[i : i + 1], model.template(template[i : i + 1]))
            for many, single in zip(together, alone, strict=True):
                torch.testing.assert_close(many[i : i + 1], single, rtol=1e-3, atol=1e-4)


def fix_importance(model: BCRNet, *orders: Sequence[int]) -> None:
    """Let the ranking answer with these orders of bands, one per call."""
    answers = iter([[float(len(order) - order.index(band)) for band in range(len(order))] for order in orders])
    model.ranking.importance = lambda patch: torch.tensor([next(answers)])  # type: ignore[method-assign]


def test_both_sortings_agree_where_the_orders_coincide() -> None:
    by_template, by_frame = (wake(small(sorting=sorting)).eval() for sorting in ("template", "per_frame"))
    assert by_frame.memory_names == ("z_cls", "z_loc")
    template, search = patches(7)
    order = [6, 0, 2, 5, 1, 3, 4]
    fix_importance(by_template, order)
    fix_importance(by_frame, order, order)
    with torch.inference_mode():
        wanted = by_template.search(search, by_template.template(template))
        got = by_frame.search(search, by_frame.template(template))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_where_the_orders_differ_only_one_sorting_compares_other_bands() -> None:
    template, search = patches(7)
    order, other = [6, 0, 2, 5, 1, 3, 4], [5, 1, 3, 6, 0, 2, 4]
    maps = {}
    with torch.inference_mode():
        for sorting, orders in {"template": (order,), "per_frame": (order, other), "same": (order, order)}.items():
            model = wake(small(sorting="per_frame" if sorting == "same" else sorting)).eval()
            fix_importance(model, *orders)
            maps[sorting] = model.search(search, model.template(template))[0]
    assert torch.equal(maps["template"], maps["same"])
    assert not torch.allclose(maps["per_frame"], maps["same"], atol=1e-3)


def test_the_ranking_reads_the_patch_on_a_scale_of_one() -> None:
    model = wake(small()).eval()
    template, _ = patches(7)
    with torch.inference_mode():
        assert torch.equal(model.ranking.matrix(template), model.ranking.bimm(template / 255))


# Fusion


def test_fused_classes_are_the_weighted_mean_of_probabilities() -> None:
    cls, loc = torch.randn(6, 2, 5, 5) * 4, torch.rand(6, 4, 5, 5) * 50
    weight = torch.rand(2, 3)
    weight = weight / weight.sum(dim=1, keepdim=True)
    fused, distances = fuse(cls, loc, weight)
    for sample in range(2):
        wanted = sum(weight[sample, n] * torch.softmax(cls[3 * sample + n], 0) for n in range(3))
        torch.testing.assert_close(torch.softmax(fused[sample], 0), wanted)
        torch.testing.assert_close(distances[sample], sum(weight[sample, n] * loc[3 * sample + n] for n in range(3)))
    again = fuse(cls, loc, weight * 1.001)  # as float16 would leave them
    torch.testing.assert_close(again, (fused, distances))


def test_one_branch_with_all_the_weight_is_that_branch() -> None:
    cls, loc = torch.randn(3, 2, 5, 5), torch.rand(3, 4, 5, 5) * 50
    fused, distances = fuse(cls, loc, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(torch.softmax(fused, 1), torch.softmax(cls[1:2], 1))
    torch.testing.assert_close(distances, loc[1:2])


def test_a_certain_background_keeps_its_logarithm_finite() -> None:
    cls = torch.tensor([200.0, -200.0])[None, :, None, None].expand(2, 2, 5, 5)
    fused, _ = fuse(cls, torch.ones(2, 4, 5, 5), torch.tensor([[0.5, 0.5]]))
    assert torch.isfinite(fused).all() and float(torch.softmax(fused, 1)[0, 1].max()) < 1e-11


# Ablations


@pytest.mark.parametrize(
    ("variant", "ranked", "weighted", "refined", "branches"),
    [
        ("base", False, False, False, 2),
        ("group", True, False, False, 2),
        ("fusion", True, True, False, 2),
        ("cfrm", False, False, True, 2),
        ("full", True, True, True, 2),
        ("random_group", True, True, True, 2),
        ("single_composite", True, True, True, 1),
    ],
)
def test_what_each_variant_has(variant: str, ranked: bool, weighted: bool, refined: bool, branches: int) -> None:
    model = wake(small(variant=variant)).eval()
    template, search = patches(7)
    with torch.inference_mode():
        memory = model.template(template)
        model.search(search, memory)
        importance = model.ranking.importance(template)
    assert (model.ranking.bimm is not None, len(model.cfrm) == 1, model.branches) == (ranked, refined, branches)
    bands = memory[2].argmax(dim=1).tolist()
    if variant == "random_group":
        assert bands == small(variant=variant, weights_seed=9).ranking.groups.order[:6].tolist()
    elif ranked:
        assert bands == importance[0].argsort(descending=True)[: 3 * branches].tolist()
    else:
        assert bands == [0, 1, 2, 3, 4, 5]
    shares = importance[0, bands].reshape(branches, 3).sum(dim=1)
    wanted = shares / shares.sum() if weighted else torch.full((branches,), 1 / branches)
    torch.testing.assert_close(memory[3][0], wanted)
    losses = model.train().losses(*patches(7, 2), BOXES, BOTH_POSITIVE)
    assert ("rec" in losses) == ranked


@pytest.mark.parametrize("name", ["variant", "sorting", "importance", "gate"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"got {name} 'fulll', expected one of"):
        small(**{name: "fulll"})


def test_parts_of_the_band_matrix_and_the_kind_of_importance_are_passed_on() -> None:
    assert small(without=("refine",)).ranking.bimm.step is None
    assert small(gate="both").ranking.bimm.refine[0].gate == "both"
    model, rows = (wake(small(importance=kind)).eval() for kind in ("column", "row"))
    template, _ = patches(7)
    with torch.inference_mode():
        matrix = model.ranking.matrix(template)
        torch.testing.assert_close(model.ranking.importance(template), matrix.sum(dim=1))
        torch.testing.assert_close(rows.ranking.importance(template), matrix.sum(dim=2))


# Template update


def test_the_first_frame_forgets_what_was_kept() -> None:
    model = wake(small()).eval()
    template, _ = patches(7)
    with torch.inference_mode():
        first = model.refresh(template)
        kept = [torch.rand_like(dict(zip(model.template_outputs, first, strict=True))[name]) for name in model.kept_names]
        same = model.refresh(template, kept, torch.ones(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))


@pytest.mark.parametrize("sorting", ["template", "per_frame"])
def test_an_update_blends_features_of_the_bands_first_chosen(sorting: str) -> None:
    model = wake(small(sorting=sorting)).eval()
    template, search = patches(7)
    later = search[:, :, 64:191, 64:191]
    order, other = [6, 0, 2, 5, 1, 3, 4], [5, 1, 3, 6, 0, 2, 4]
    fix_importance(model, order, other, other)
    graph = TemplateGraph(model)

    def named(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(model.template_outputs, outputs, strict=True))

    with torch.inference_mode():
        first, fresh = named(graph(template)), named(graph(later))
        assert not torch.equal(first["band_select"], fresh["band_select"])
        kept = [first[name] for name in model.kept_names]
        updated = named(graph(later, torch.full((1, 1), 0.25), *kept))
        for name in ("band_select", "branch_weight", "band_importance"):
            assert torch.equal(updated[name], first[name])
        own = model.centres(later, first["band_select"][None])
        torch.testing.assert_close(updated["z_levels"], 0.75 * first["z_levels"] + 0.25 * own)
        for name, kernel in zip(("z_cls", "z_loc"), model.kernels(updated["z_levels"]), strict=True):
            torch.testing.assert_close(updated[name], kernel)
            assert not torch.equal(updated[name], first[name])


# Training


def test_total_is_equation_18() -> None:
    model = wake(small(reconstruction_weight=3.0)).eval()
    template, search = patches(7, 2)
    parts = model.losses(template, search, BOXES, BOTH_POSITIVE, generator=seeded(7))
    assert set(parts) == {"total", "cls", "loc", "rec"}
    torch.testing.assert_close(parts["total"], parts["cls"] + parts["loc"] + 3.0 * parts["rec"])
    by_frame = wake(small(sorting="per_frame")).eval()
    parts = by_frame.losses(template, search, BOXES, BOTH_POSITIVE, generator=seeded(7))
    assert set(parts) == {"total", "cls", "loc", "rec", "reordered"} and 0.0 <= float(parts["reordered"]) <= 1.0


def test_composites_count_by_their_weight() -> None:
    """The loss of two composites is the mean of what each gives alone, weighted."""
    model = small(6, variant="group").eval()
    template, search = patches(6, 2)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    results = []
    for weight in weights:
        groups = model.ranking.groups
        select = torch.eye(6)[None].expand(2, -1, -1)
        model.ranking.groups.forward = lambda _, weight=weight, select=select: (select, weight.expand(2, -1))  # type: ignore[method-assign]
        results.append(model.losses(template, search, BOXES, BOTH_POSITIVE, generator=seeded(7)))
        del groups.forward
    for name in ("cls", "loc"):
        first, second, mixed = (result[name].detach() for result in results)
        assert not torch.allclose(first, second, rtol=1e-4)
        torch.testing.assert_close(mixed, 0.3 * first + 0.7 * second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sorting", ["template", "per_frame"])
def test_gradients_reach_everything_but_the_frozen_backbone(sorting: str) -> None:
    model = wake(small(16, sorting=sorting)).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.losses(*patches(16, 2), BOXES, BOTH_POSITIVE, generator=seeded())["total"].backward()  # type: ignore[no-untyped-call]
    idle = [
        name
        for name, value in model.named_parameters()
        if not name.startswith("backbone.") and (value.grad is None or not value.grad.isfinite().all() or not value.grad.any())
    ]
    # A bias that shifts all scores of a softmax alike changes nothing, so its gradient is rounding or 0.
    assert set(idle) <= {"cfrm.0.key.bias"}
    assert all(value.grad is None for value in model.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_a_backbone_can_be_trained_on_request() -> None:
    model = small(frozen=False).train()
    model.losses(*patches(7, 2), BOXES, BOTH_POSITIVE)["total"].backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.any() for value in model.backbone.parameters())


def test_only_negative_pairs_leave_the_boxes_alone() -> None:
    model = small().train()
    losses = model.losses(*patches(7, 2), BOXES, ~BOTH_POSITIVE)
    assert float(losses["loc"].detach()) == 0.0 and float(losses["cls"].detach()) > 0.0
    losses["loc"].backward()  # type: ignore[no-untyped-call]
    assert not any(value.grad.any() for value in model.ban.loc.parameters() if value.grad is not None)


def test_bfloat16_does_not_reach_the_band_matrix() -> None:
    results = []
    for enabled in (True, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(small().train().losses(*patches(7, 2), BOXES, BOTH_POSITIVE, generator=seeded(7)))
    first, again, full = results
    assert all(value.dtype == torch.float32 for value in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["rec"], full["rec"]) and not torch.equal(first["cls"], full["cls"])


def scenes(bands: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Squares that differ from what surrounds them in spectrum and not in luminance."""
    tilt = torch.linspace(-60.0, 60.0, bands)[None, :, None, None]
    template, search = (torch.full((batch, bands, side, side), 120.0) - tilt for side in (127, 255))
    template[:, :, 32:95, 32:95] += 2 * tilt
    corner = torch.randint(30, 162, (batch, 2), generator=generator)
    for patch, (x, y) in zip(search, corner.tolist(), strict=True):
        patch[:, y : y + 63, x : x + 63] += 2 * tilt[0]
    template += 10.0 * torch.randn(template.shape, generator=generator)
    search += 10.0 * torch.randn(search.shape, generator=generator)
    return template, search, torch.cat((corner, corner + 63), dim=1).float()


def test_it_overfits_one_batch_of_equal_luminance() -> None:
    torch.manual_seed(0)
    model = bcrnet_edge(bands=6, decode=DecodeSpec(penalty_k=0.0, window=0.0, lr=1.0)).train()
    template, search, boxes = scenes(6, 1, seeded(1))
    assert float(search.mean(dim=1).std()) < 5.0, "the luminance shows the target"
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad])
    steps = 40
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        losses = model.losses(template, search, boxes, torch.ones(1, dtype=torch.bool), generator=seeded(0))
        optimizer.zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(losses["cls"].detach()) < 0.05
    assert float(losses["loc"].detach()) < 0.1
    assert float(losses["rec"].detach()) < 0.05
    # The running statistics of so short a run lag behind the weights; normalised by the batch, the graph finds the target.
    state = torch.tensor([[127.5, 127.5, 63.5, 63.5, 255.0, 255.0]])
    with torch.inference_mode():
        found, score, *_ = SearchGraph(model)(search, state, *model.template(template))
    left, top, right, bottom = boxes[0].tolist()
    assert float(iou(Box.from_centre(*found[0, :4].tolist()), (left, top, right - left, bottom - top))) > 0.6
    assert float(score) > 0.8
