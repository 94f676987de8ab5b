"""DCFFNet: its sizes and places, its fusion, its variants, its losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.errors import InputError
from trackctl.training.correlation import Lowering
from trackctl.training.dcffnet import FUSED, CorrelationFusion, DCFFNet, Variant, dcffnet

PARAMETERS = {
    "conv1": 9_536,
    "conv2": 36_992,
    "conv3": 36_992,
    "block2": 215_808,
    "block3": 1_219_584,
    "conv4": 1_180_160,
    "conv5": 590_336,
    "conv6": 590_336,
}
MEMORY = {"z1": (1, 64, 44, 44), "z2": (1, 512, 22, 22), "z3": (1, 256, 20, 20)}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shapes_only(variant: Variant = "CF-double") -> DCFFNet:
    """Without weights: computes shapes."""
    with torch.device("meta"):
        return DCFFNet(variant=variant).eval()


@pytest.fixture(scope="module")
def model() -> DCFFNet:
    torch.manual_seed(0)
    model = dcffnet().train()
    # Running statistics of the very patches, so that activations are as large as a trained model's.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.backbone.third(model.backbone.second(model.backbone.first(patch(255))))
    return model.eval()


def patch(side: int, batch: int = 1, seed: int = 3) -> Tensor:
    """Blobs and noise."""
    coarse = F.interpolate(torch.rand(batch, 3, 17, 17, generator=seeded(seed)), side, mode="bilinear")
    return (coarse + 0.3 * torch.rand(batch, 3, side, side, generator=seeded(seed + 1))) * 196.0


# Sizes and places


def test_no_three_convolutions_with_usual_paddings_give_the_published_size() -> None:
    def sides(before: set[int]) -> set[int]:
        return {
            (side + 2 * padding - kernel) // stride + 1
            for side in before
            for kernel in (1, 3, 5, 7, 9, 11)
            for stride in (1, 2, 3, 4)
            for padding in range(kernel // 2 + 1)
            if side + 2 * padding >= kernel
        }

    # The identity (kernel 1, stride 1) is among them, so this covers fewer layers too.
    reachable = sides(sides(sides({255})))
    assert (max(side for side in reachable if side <= 87), min(side for side in reachable if side >= 87)) == (85, 103)
    assert divmod(255 + 2 * 5 - 7, 3) == (86, 0)


@pytest.mark.parametrize(("side", "first", "second"), [(255, 87, 44), (127, 44, 22)])
def test_maps_have_the_published_sizes(side: int, first: int, second: int) -> None:
    backbone = shapes_only().backbone
    x1 = backbone.first(torch.empty(1, 3, side, side, device="meta"))
    x2 = backbone.second(x1)
    assert backbone.block2(x1).shape == (1, 256, first, first)
    assert [x.shape for x in (x1, x2, backbone.third(x2))] == [
        (1, 64, first, first),
        (1, 512, second, second),
        (1, 256, second, second),
    ]


def test_parameters_are_those_of_the_layer_table() -> None:
    model = shapes_only()
    assert {name: count(model.backbone.get_submodule(name)) for name in PARAMETERS} == PARAMETERS
    assert count(model.backbone) == 3_879_744 and count(model.head) == 4_738_566
    assert all(count(shapes_only(variant)) == 3_879_744 + 4_738_566 for variant in FUSED)


@pytest.mark.parametrize("variant", FUSED)
def test_a_variant_remembers_what_it_needs(variant: Variant) -> None:
    model = shapes_only(variant)
    names = {"baseline": "z3", "CF-1st": "z1 z3", "CF-2nd": "z2 z3", "CF-double": "z1 z2 z3"}[variant].split()
    assert list(model.memory_names) == names
    memory = model.template(torch.empty(1, 3, 127, 127, device="meta"))
    assert [tensor.shape for tensor in memory] == [MEMORY[name] for name in names]
    cls, loc = model.search(torch.empty(1, 3, 255, 255, device="meta"), memory)
    assert (cls.shape, loc.shape) == ((1, 2, 25, 25), (1, 4, 25, 25))


@pytest.mark.parametrize("target", [93, 117, 129, 153])
def test_a_template_pasted_into_the_search_patch_gives_its_own_features(model: DCFFNet, target: int) -> None:
    """The pixel (63, 63) of the template on the pixel (target, target) of the search patch."""
    response, rest = divmod(target - 57, 6)
    assert rest == 0 and float(model.decode.points[0, 0, response]) == target - 127
    template, search = patch(127, seed=11), patch(255, seed=12)
    start = target - 63
    search[:, :, start : start + 127, start : start + 127] = template
    with torch.inference_mode():
        z2, x2 = (model.backbone.second(model.backbone.first(image)) for image in (template, search))
    # Cells 7 to 14 see nothing outside of the template (39 px to either side); the kernel's first cell is 1.
    inner = slice(7, 15)
    moved = slice(response - 1 + 7, response - 1 + 15)
    torch.testing.assert_close(x2[:, :, moved, moved], z2[:, :, inner, inner], rtol=1e-5, atol=1e-5)
    assert float(z2[:, :, inner, inner].std()) > 0.1
    off = slice(response + 7, response + 15)
    assert float((x2[:, :, off, off] - z2[:, :, inner, inner]).abs().max()) > 0.1


def test_points_lie_six_pixels_apart_round_a_centre_two_pixels_off() -> None:
    points = DCFFNet(variant="baseline").decode.points[0].reshape(2, 25, 25)
    assert torch.equal(points[0, 0] + 127.0, 57.0 + 6.0 * torch.arange(25))
    assert torch.equal(points[1, :, 0], points[0, 0])


# Fusion


def test_trilinear_resizing_of_a_map_as_a_volume_is_bilinear() -> None:
    response = torch.randn(2, 5, 44, 44, generator=seeded())
    volume = F.interpolate(response[:, None], size=(5, 87, 87), mode="trilinear", align_corners=False)[:, 0]
    flat = F.interpolate(response, size=(87, 87), mode="bilinear", align_corners=False)
    torch.testing.assert_close(volume, flat, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "kernel_side"), [(87, 44), (44, 22)])
@pytest.mark.parametrize("lowering", ["conv", "matmul", "fourier"])
def test_fusion_is_the_written_out_formula(side: int, kernel_side: int, lowering: Lowering) -> None:
    x = torch.randn(2, 3, side, side, generator=seeded(1))
    z = torch.randn(2, 3, kernel_side, kernel_side, generator=seeded(2))
    fusion = CorrelationFusion(3, "mean", "stretch")
    response = F.conv2d(x.reshape(1, 6, side, side).double(), z.reshape(6, 1, kernel_side, kernel_side).double(), groups=6)
    response = response.reshape(2, 3, *response.shape[2:]) / kernel_side**2
    wanted = x.double() + F.interpolate(response, size=(side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fusion(x, fusion.kernel(z), lowering).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("norm", "gain"), [("mean", 1.0), ("none", 22.0 * 22.0)])
def test_constant_maps_multiply(norm: str, gain: float) -> None:
    fusion = CorrelationFusion(2, norm, "stretch")  # type: ignore[arg-type]
    fused = fusion(torch.full((1, 2, 44, 44), 3.0), fusion.kernel(torch.full((1, 2, 22, 22), 0.5)), "fourier")
    torch.testing.assert_close(fused, torch.full_like(fused, 3.0 + 1.5 * gain))


def test_bn_normalises_the_response() -> None:
    fusion = CorrelationFusion(2, "bn", "stretch").train()
    x, z = torch.randn(2, 2, 44, 44, generator=seeded()), torch.randn(2, 2, 22, 22, generator=seeded(1))
    seen = []
    fusion.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    fusion(x, fusion.kernel(z), "fourier")
    assert seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(seen[0].std(dim=(0, 2, 3)), torch.ones(2), rtol=0.1, atol=0)


def test_pad_puts_a_response_where_its_kernel_was_centred_and_stretch_enlarges() -> None:
    """A spot at the centre answers in all 44 places of a kernel of ones, which were centred 21.5 to 64.5."""
    x, ones = torch.zeros(1, 1, 87, 87), torch.ones(1, 1, 44, 44)
    x[0, 0, 43, 43] = 1936.0
    padded, stretched = (
        CorrelationFusion(1, "mean", align)(x, ones / 1936, "fourier")[0, 0] - x[0, 0]  # type: ignore[arg-type]
        for align in ("pad", "stretch")
    )
    torch.testing.assert_close(stretched, torch.ones(87, 87), rtol=0, atol=2e-3)
    row = torch.zeros(87)
    row[22:65] = 1.0
    row[21] = row[65] = 0.5
    torch.testing.assert_close(padded, torch.outer(row, row), rtol=0, atol=2e-3)


@pytest.mark.parametrize("lowering", ["conv", "fourier"])
def test_float16_needs_the_mean(lowering: Lowering) -> None:
    """Features as large as those behind a ReLU without normalisation: the sum of 1936 products is beyond 65504."""
    x = 12.0 * torch.rand(1, 4, 87, 87, generator=seeded(1))
    z = 12.0 * torch.rand(1, 4, 44, 44, generator=seeded(2))
    scaled, plain = CorrelationFusion(4, "mean", "stretch"), CorrelationFusion(4, "none", "stretch")
    wanted = scaled(x, scaled.kernel(z), lowering)
    half = scaled(x.half(), scaled.kernel(z.half()), lowering)
    assert half.dtype == torch.float16
    assert float((half.float() - wanted).abs().max() / wanted.abs().max()) < 1e-2
    assert plain(x.half(), plain.kernel(z.half()), lowering).isinf().any()
    assert plain(x, plain.kernel(z), lowering).isfinite().all()


def test_fusion_changes_the_search_branch_alone(model: DCFFNet) -> None:
    baseline = DCFFNet(variant="baseline").eval()
    baseline.load_state_dict(model.state_dict())
    template, search = patch(127), patch(255)
    with torch.inference_mode():
        memory = model.template(template)
        (plain,) = baseline.template(template)
        assert torch.equal(memory[-1], plain)
        z1 = model.backbone.first(template)
        torch.testing.assert_close(memory[0], z1 / 1936)
        torch.testing.assert_close(memory[1], model.backbone.second(z1) / 484)
        _, z3 = model.template_features(template)
        torch.testing.assert_close(memory[2], z3[:, :, 1:21, 1:21] / 400)
        fused, alone = model.search_features(search, memory[:2]), baseline.search_features(search, ())
        assert float((fused - alone).abs().max()) > 0.1
        silent = [torch.zeros_like(kernel) for kernel in memory[:2]]
        torch.testing.assert_close(model.search_features(search, silent), alone)


def test_the_lowering_does_not_change_the_maps(model: DCFFNet) -> None:
    search = patch(255)
    with torch.inference_mode():
        memory = model.template(patch(127))
        wanted = model.search(search, memory)
        model.lowering = "conv"
        got = model.search(search, memory)
        model.lowering = None
    for a, b in zip(wanted, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "CF-3rd"}, "got variant 'CF-3rd', expected one of baseline, CF-1st, CF-2nd, CF-double"),
        ({"cf_norm": "sum"}, "got cf_norm 'sum', expected one of mean, none, bn"),
        ({"cf_align": "crop"}, "got cf_align 'crop', expected one of stretch, pad"),
        ({"pos_shrink": 1.0}, "got pos_shrink 1, expected 0 .the whole box. up to, not including, 1"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DCFFNet(**options)  # type: ignore[arg-type]


# Losses


def test_gradients_reach_every_parameter_and_the_template(model: DCFFNet) -> None:
    template = patch(127, 2).requires_grad_()
    boxes = torch.tensor([[90.0, 90.0, 160.0, 165.0], [60.0, 70.0, 140.0, 150.0]])
    parts = model.train().losses(template, patch(255, 2), boxes, torch.tensor([True, True]))
    assert set(parts) == {"total", "cls", "loc"}
    torch.testing.assert_close(parts["total"], parts["cls"] + parts["loc"])
    parts["total"].backward()  # type: ignore[no-untyped-call]
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []
    assert template.grad is not None and template.grad.isfinite().all() and template.grad.any()
    model.zero_grad()
    model.eval()


@pytest.mark.parametrize(("side", "kernel_side"), [(87, 44), (44, 22)])
def test_a_fusion_has_a_gradient_of_its_kernel(side: int, kernel_side: int) -> None:
    fusion = CorrelationFusion(2, "mean", "stretch")
    z = torch.rand(1, 2, kernel_side, kernel_side, generator=seeded(1), requires_grad=True)
    fusion(torch.rand(1, 2, side, side, generator=seeded()), fusion.kernel(z), "fourier").square().mean().backward()
    assert z.grad is not None and z.grad.isfinite().all() and (z.grad > 0).all()


@pytest.mark.parametrize(("shrink", "positives"), [(0.0, 100), (0.6, 16)])
def test_the_positive_area_can_be_shrunk(monkeypatch: pytest.MonkeyPatch, shrink: float, positives: int) -> None:
    model = DCFFNet(variant="baseline", pos_shrink=shrink)
    cls = torch.zeros(1, 2, 25, 25, requires_grad=True)
    monkeypatch.setattr(model, "template", lambda template: ())
    monkeypatch.setattr(model, "search", lambda search, memory: (cls, torch.ones(1, 4, 25, 25)))
    box = torch.tensor([[97.5, 97.5, 157.5, 157.5]])  # 60 px, at the patch's centre
    loss = model.losses(patch(127), patch(255), box, torch.tensor([True]))["cls"]
    (gradient,) = torch.autograd.grad(loss, cls)
    assert int((gradient[0, 1] < 0).sum()) == positives
