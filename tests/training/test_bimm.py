"""The band matrix: its layers, what it learns, and the composites that follow from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.errors import InputError
from trackctl.training.bimm import (
    BIMM,
    BandConv,
    BandGroups,
    ChannelEnhance,
    Refine,
    SpatialEnhance,
    Upsample,
    band_importance,
    composites,
    reconstruction,
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def woken(module: nn.Module, seed: int = 5) -> nn.Module:
    """Every parameter and running statistic away from its initial value."""
    generator = seeded(seed)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if name.endswith("running_var"):
            value.data.uniform_(0.5, 2.0, generator=generator)
        elif value.is_floating_point() and not name.endswith(("off_diagonal", "neighbours", "handicap")):
            value.data.add_(0.2 * torch.randn(value.shape, generator=generator))
    return module


# Layers


@pytest.mark.parametrize(("bands", "parameters"), [(15, 49_704), (16, 55_729), (25, 124_932)])
def test_parameter_counts(bands: int, parameters: int) -> None:
    assert count(BIMM(bands)) == parameters


@pytest.mark.parametrize(("bands", "side"), [(15, 127), (16, 127), (16, 255), (25, 127), (31, 127)])
def test_sizes_of_the_levels(bands: int, side: int) -> None:
    model = BIMM(bands).eval()
    with torch.inference_mode():
        levels = model.encode(torch.rand(1, bands, side, side))
        sides = {127: (127, 64, 32, 16), 255: (255, 128, 64, 32)}[side]
        assert [tuple(level.shape) for level in levels] == [
            (1, features * bands, n, n) for features, n in zip((1, 2, 4, 8), sides, strict=True)
        ]
        decoded = model.decode(levels)
        assert decoded.shape == (1, bands, side, side)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("bands", "inputs", "outputs", "stride"), [(16, 1, 2, 2), (7, 4, 8, 1)])
def test_the_band_convolution_is_the_3d_convolution(training: bool, bands: int, inputs: int, outputs: int, stride: int) -> None:
    layer = woken(BandConv(bands, inputs, outputs, stride=stride)).train(training)
    assert isinstance(layer, BandConv)
    x = torch.randn(2, bands * inputs, 12, 13, generator=seeded())
    got = layer(x)
    volume = x.reshape(2, bands, inputs, 12, 13).transpose(1, 2)
    layer.norm.momentum = 0.0
    wanted = F.relu(layer.norm(F.conv3d(volume, layer.weight, stride=(1, stride, stride), padding=1)))
    torch.testing.assert_close(got, wanted.transpose(1, 2).flatten(1, 2), rtol=1e-4, atol=1e-5)


def test_spatial_attention_is_equation_3() -> None:
    layer, x = SpatialEnhance(), torch.randn(2, 6, 9, 11)
    pooled = torch.stack((x.max(dim=1).values, x.mean(dim=1)), dim=1)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(F.conv2d(pooled, layer.conv.weight, padding=3)))


def test_channel_attention_is_equation_2() -> None:
    layer, x = ChannelEnhance(16), torch.randn(2, 16, 9, 11)
    first, _, last = layer.fc

    def f(pooled: Tensor) -> Tensor:
        return last(torch.relu(first(pooled)))

    gate = torch.log1p(torch.exp(f(x.flatten(2).mean(2)) + f(x.flatten(2).max(2).values)))
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_the_shuffle_gathers_one_feature_of_every_band() -> None:
    """Band-major c K + k becomes k C + c: neighbours are the same feature of neighbouring bands."""
    layer = Upsample(5, 4, 2, plain=False)
    layer.separable = nn.Identity()
    layer.out = nn.Identity()
    x = torch.arange(20.0)[None, :, None, None].expand(1, 20, 3, 3)
    shuffled = layer(x, (3, 3))[0, :, 0, 0]
    assert torch.equal(shuffled.long(), torch.arange(20).reshape(5, 4).T.flatten())


@pytest.mark.parametrize("size", [(32, 32), (127, 127)])
def test_enlargement_reaches_the_size_of_the_skip(size: tuple[int, int]) -> None:
    layer = Upsample(5, 2, 1, plain=True)
    x = torch.randn(1, 10, 64, 64)
    assert layer(x, size).shape == (1, 5, *size)
    torch.testing.assert_close(layer(x, size), layer.out(F.interpolate(x, size, mode="bilinear")))


@pytest.mark.parametrize("gate", ["decoder", "encoder", "both"])
def test_what_the_gate_multiplies(gate: str) -> None:
    layer = Refine(5, 2, gate).eval()  # type: ignore[arg-type]
    encoder, decoder = torch.randn(2, 1, 10, 8, 8)
    weight = torch.sigmoid(layer.out(torch.relu(layer.encoder(encoder) + layer.decoder(decoder))))
    assert weight.shape == (1, 1, 8, 8)
    gated = {"decoder": decoder, "encoder": encoder, "both": encoder + decoder}[gate]
    torch.testing.assert_close(layer(encoder, decoder), weight * gated)


def test_guidance_stays_within_a_band() -> None:
    layer = Refine(5, 2, "decoder")
    assert layer.encoder[0].groups == layer.decoder[0].groups == 5


# The matrix


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 9), st.booleans())
def test_the_matrix_is_not_negative_and_has_no_diagonal(seed: int, bands: int, fresh: bool) -> None:
    torch.manual_seed(seed)
    model = BIMM(bands).eval() if fresh else woken(BIMM(bands), seed).eval()
    with torch.inference_mode():
        matrix = model(torch.rand(2, bands, 24, 24, generator=seeded(seed)))
    assert matrix.shape == (2, bands, bands)
    assert torch.isfinite(matrix).all() and (matrix >= 0).all()
    assert (torch.diagonal(matrix, dim1=1, dim2=2) == 0).all()


def test_a_fresh_matrix_is_the_initial_one() -> None:
    torch.manual_seed(0)
    model, bare = BIMM(16).eval(), BIMM(16, without=("refine",)).eval()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("step")})
    cube = torch.rand(2, 16, 64, 64, generator=seeded())
    with torch.inference_mode():
        matrix, pooled = model(cube), model.decode(model.encode(cube)).mean(dim=(2, 3))
        assert torch.equal(matrix, bare(cube))
    assert torch.equal(matrix, matrix.transpose(1, 2))
    assert float(matrix[1, 2, 5]) == pytest.approx(math.log1p(math.exp(float(pooled[1, 2] * pooled[1, 5]))) / 15, rel=1e-5)
    assert float(matrix.sum(dim=2).mean()) == pytest.approx(math.log(2.0), abs=0.02)
    torch.testing.assert_close(band_importance(matrix, "column"), band_importance(matrix, "row"))


@pytest.mark.parametrize("part", ["CEM", "SEM", "SDUB", "SGRM", "refine"])
def test_each_part_can_be_left_out(part: str) -> None:
    torch.manual_seed(0)
    model = BIMM(6, without=(part,))  # type: ignore[arg-type]
    assert count(model) < count(BIMM(6))
    cube = torch.rand(2, 6, 31, 31)
    reconstruction(model(cube), cube).backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def smooth(bands: int, generator: torch.Generator) -> Tensor:
    return F.interpolate(torch.rand(4, bands, 8, 8, generator=generator), 16, mode="bilinear")


def low_rank(bands: int, generator: torch.Generator) -> Tensor:
    """Bands that are mixtures of three."""
    mixture = torch.rand(bands, 3, generator=generator)
    return torch.einsum("cr,brhw->bchw", mixture / mixture.sum(dim=1, keepdim=True), smooth(3, generator))


def fitted(cube: Tensor, steps: int) -> tuple[list[float], Tensor]:
    """The reconstruction errors while a band matrix is trained on a cube alone, and the last matrix."""
    torch.manual_seed(0)
    model = BIMM(cube.shape[1]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(steps):
        matrix = model(cube)
        error = reconstruction(matrix, cube)
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(error.item())
    return errors, matrix.detach()


def test_reconstruction_is_the_mean_square_of_equation_18() -> None:
    matrix, cube = torch.rand(2, 4, 4), torch.rand(2, 4, 3, 5)
    rebuilt = torch.einsum("bij,bjhw->bihw", matrix, cube)
    torch.testing.assert_close(reconstruction(matrix, cube), F.mse_loss(rebuilt, cube))
    assert float(reconstruction(torch.eye(4).expand(2, 4, 4), cube)) == 0.0


def test_it_learns_to_rebuild_the_bands_of_a_low_rank_cube() -> None:
    errors, _ = fitted(low_rank(16, seeded(1)), 15)
    assert errors[-1] < 0.4 * errors[0]


def cube_of_two_kinds() -> Tensor:
    """Twelve bands that are mixtures of three, and four that are like no other."""
    generator = seeded(0)
    return torch.cat((low_rank(12, generator), smooth(4, generator)), dim=1)


def advantage(matrix: Tensor) -> float:
    """Mean importance of the first twelve bands over that of the others."""
    importance = band_importance(matrix).mean(dim=0)
    return float(importance[:12].mean() / importance[12:].mean())


def test_the_best_matrix_makes_bands_that_explain_others_important() -> None:
    """Equation 1 solved by projected gradient."""
    cube = cube_of_two_kinds()
    matrix = torch.full((1, 16, 16), 0.05, requires_grad=True)
    for _ in range(1500):
        (slope,) = torch.autograd.grad(reconstruction(matrix, cube), matrix)
        with torch.no_grad():
            matrix -= 2.0 * slope
            matrix.clamp_(min=0.0)
            torch.diagonal(matrix, dim1=1, dim2=2).zero_()
    assert advantage(matrix.detach()) > 2.0


def test_training_makes_bands_that_explain_others_important() -> None:
    errors, matrix = fitted(cube_of_two_kinds(), 60)
    assert errors[-1] < 0.5 * errors[0]
    assert advantage(matrix) > 1.5


def test_importance_is_what_a_band_gives_to_others() -> None:
    matrix = torch.zeros(1, 4, 4)
    matrix[0, 1, 2] = 0.75  # band 1 is rebuilt from band 2
    assert band_importance(matrix, "column").argmax() == 2
    assert band_importance(matrix, "row").argmax() == 1
    torch.testing.assert_close(band_importance(matrix, "both"), torch.tensor([[0.0, 0.375, 0.375, 0.0]]))


# Composites


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=3, max_size=31))
def test_equal_bands_keep_their_order(values: list[int]) -> None:
    importance = torch.tensor([values], dtype=torch.float32) + 1e-12
    groups = BandGroups(len(values), len(values) // 3)
    wanted = torch.sort(importance, dim=1, descending=True, stable=True).indices
    assert torch.equal(groups.ranking(importance), wanted)


def test_without_any_importance_all_bands_count_alike() -> None:
    groups = BandGroups(16, 5)
    importance = band_importance(torch.zeros(1, 16, 16))
    _, weight = groups(importance)
    assert groups.ranking(importance)[0].tolist() == list(range(16))
    torch.testing.assert_close(weight, torch.full((1, 5), 0.2))


@pytest.mark.parametrize(("bands", "groups"), [(15, 5), (16, 5), (25, 8), (31, 10), (3, 1)])
def test_the_product_with_the_selection_is_indexing(bands: int, groups: int) -> None:
    importance = torch.rand(2, bands, generator=seeded())
    cube = torch.rand(2, bands, 5, 7, generator=seeded(1))
    chooser = BandGroups(bands, groups)
    select, weight = chooser(importance)
    order = importance.argsort(dim=1, descending=True)[:, : 3 * groups]
    wanted = torch.stack([cube[sample, order[sample]] for sample in range(2)]).reshape(2 * groups, 3, 5, 7)
    assert torch.equal(composites(cube, select), wanted)
    shares = importance.gather(1, order)
    torch.testing.assert_close(weight, shares.reshape(2, groups, 3).sum(dim=2) / shares.sum(dim=1, keepdim=True))
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(2))
    assert (weight.diff(dim=1) <= 0).all()


def test_the_other_orders_ignore_the_importance() -> None:
    importance = torch.rand(1, 16, generator=seeded())
    assert BandGroups(16, 5, order="sequential").ranking(importance)[0].tolist() == list(range(16))
    drawn = BandGroups(16, 5, order="random").ranking(importance)[0].tolist()
    assert sorted(drawn) == list(range(16)) != drawn
    assert BandGroups(16, 5, order="random", seed=1).ranking(importance)[0].tolist() != drawn
    _, weight = BandGroups(16, 5, weighted=False)(importance)
    torch.testing.assert_close(weight, torch.full((1, 5), 0.2))


def test_the_weights_have_a_gradient_and_the_choice_has_none() -> None:
    importance = torch.rand(1, 16, requires_grad=True)
    select, weight = BandGroups(16, 5)(importance)
    assert not select.requires_grad
    (weight * torch.arange(5.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert importance.grad is not None and importance.grad.count_nonzero() == 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BIMM(2), "got 2 bands, expected at least 3"),
        (lambda: BIMM(16, gate="input"), "got gate 'input', expected one of decoder, encoder, both"),  # type: ignore[arg-type]
        (lambda: BIMM(16, without=("PCA",)), "got part 'PCA', expected one of CEM"),  # type: ignore[arg-type]
        (lambda: BandGroups(16, 6), "got 6 composites of 16 bands, expected 1 to 5"),
        (lambda: BandGroups(16, 5, order="best"), "got order 'best', expected one of ranked"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
