"""Neck, head and SiamRPN++ as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from trackctl.runtime.geometry import Box, iou
from trackctl.training.backbones import Backbone
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.decode import DecodeSpec
from trackctl.training.model import SearchGraph
from trackctl.training.neck import Neck, centre_crop
from trackctl.training.rpn import RPNHead
from trackctl.training.siamrpn import SiamRPN, siamrpn_r50


class TwoLevels(Backbone):
    """The light backbone, thin, and its features once more through a convolution."""

    channels = (16, 24)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EdgeBackbone(stem=(8, 8, 16), dilations=(1,))
        self.more = nn.Conv2d(16, 24, 3, padding=1)

    def forward(self, patch: Tensor) -> list[Tensor]:
        (level,) = self.trunk(patch)
        return [level, self.more(level)]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(*, levels: int = 2, seed: int = 0, **options: object) -> SiamRPN:
    torch.manual_seed(seed)
    backbone = TwoLevels() if levels == 2 else EdgeBackbone(stem=(8, 8, 16), dilations=(1,))
    return SiamRPN(backbone=backbone, width=16, **options)  # type: ignore[arg-type]


def patches(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.rand(batch, 3, side, side, generator=generator) * 255 for side in (127, 255))  # type: ignore[return-value]


def test_parameter_counts() -> None:
    assert count(RPNHead(levels=1, width=256, anchors=5)) == 2_501_150
    assert count(RPNHead(levels=3, width=256, anchors=5)) == 7_503_456
    assert count(Neck((512, 1024, 2048), 256)) == 919_040


def test_centre_crop_keeps_cells_4_to_10() -> None:
    grid = torch.arange(15.0).expand(1, 1, 15, 15)
    assert centre_crop(grid)[0, 0, 0].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert torch.equal(centre_crop(grid, 15), grid)


def test_memory_and_maps_of_the_paper_model() -> None:
    model = siamrpn_r50().eval()
    template, search = patches(1)
    with torch.inference_mode():
        memory = model.template(template)
        cls, loc = model.search(search, memory)
    assert [tuple(kernel.shape) for kernel in memory] == [(3, 256, 5, 5)] * 2
    assert (tuple(cls.shape), tuple(loc.shape)) == ((1, 10, 25, 25), (1, 20, 25, 25))
    assert cls.isfinite().all() and loc.isfinite().all()


def test_a_batch_is_its_samples() -> None:
    model = small().eval()
    template, search = patches(3)
    with torch.inference_mode():
        memory = model.template(template)
        maps = model.search(search, memory)
        for i in range(3):
            alone = model.template(template[i : i + 1])
            for kernels, kernel in zip(memory, alone, strict=True):
                torch.testing.assert_close(kernels[2 * i : 2 * i + 2], kernel, rtol=1e-4, atol=1e-4)
            for together, single in zip(maps, model.search(search[i : i + 1], alone), strict=True):
                torch.testing.assert_close(together[i : i + 1], single, rtol=1e-4, atol=1e-4)


def test_training_and_inference_paths_agree() -> None:
    """Several templates against one search patch give what each gives alone."""
    model = small().eval()
    _, search = patches(1)
    templates = torch.rand(3, 3, 127, 127) * 255
    with torch.inference_mode():
        levels = [centre_crop(level)[None] for level in model.levels(templates)]  # (1, 3, C, 7, 7)
        together = model.maps_of_many(model.rpn.search(model.levels(search)), levels)
        for i in range(3):
            alone = model.search(search, model.template(templates[i : i + 1]))
            for many, single in zip(together, alone, strict=True):
                torch.testing.assert_close(many[i : i + 1], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lowering", ["shift", "matmul"])
def test_lowerings_of_the_model_agree(lowering: str) -> None:
    model = small(levels=1).eval()
    template, search = patches(1)
    with torch.inference_mode():
        memory = model.template(template)
        wanted = model.search(search, memory)
        model.lowering = lowering  # type: ignore[assignment]
        for got, want in zip(model.search(search, memory), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_level_weights_are_softmaxed() -> None:
    head = RPNHead(levels=2, width=8, anchors=5).eval()
    responses = [torch.randn(1, 8, 25, 25) for _ in range(2)]
    with torch.inference_mode():
        first, second = (branch(response) for branch, response in zip(head.branches[0], responses, strict=True))
        cls, _ = head(responses, responses)
        torch.testing.assert_close(cls, (first + second) / 2)
        head.cls_weight.copy_(torch.tensor([0.0, 1.0]).log() + 40)
        cls, _ = head(responses, responses)
        torch.testing.assert_close(cls, second)


def test_losses_and_their_gradients() -> None:
    model = small().train()
    template, search = patches(4)
    boxes = torch.tensor(
        [[90.0, 90.0, 160.0, 165.0], [20.0, 30.0, 60.0, 130.0], [100.0, 100.0, 104.0, 104.0], [0.0, 0.0, 254.0, 254.0]]
    )
    positive = torch.tensor([True, True, True, False])
    losses = model.losses(template, search, boxes, positive, generator=torch.Generator().manual_seed(0))
    assert set(losses) == {"total", "cls", "loc"}
    assert float(losses["total"].detach()) == pytest.approx(
        float(losses["cls"].detach() + 1.2 * losses["loc"].detach()), rel=1e-6
    )
    losses["total"].backward()  # type: ignore[no-untyped-call]
    missing = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert missing == []
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.rpn.loc.parameters())


def test_only_negative_pairs_leave_the_boxes_alone() -> None:
    model = small(levels=1).train()
    template, search = patches(2)
    losses = model.losses(template, search, torch.tensor([[90.0, 90.0, 160.0, 165.0]] * 2), torch.tensor([False, False]))
    assert float(losses["loc"].detach()) == 0.0
    losses["loc"].backward()  # type: ignore[no-untyped-call]
    assert not any(value.grad.any() for value in model.rpn.loc.parameters() if value.grad is not None)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_learns_to_find_a_bright_square(one_thread: None) -> None:
    """A few dozen steps on squares of random place; then unseen ones are found, through the graph that is deployed."""
    model = small(levels=1, decode=DecodeSpec(penalty_k=0.0, window=0.0, lr=1.0))
    generator = torch.Generator().manual_seed(5)

    def scenes(batch: int) -> tuple[Tensor, Tensor, Tensor]:
        template = torch.full((batch, 3, 127, 127), 100.0)
        template[:, :, 32:95, 32:95] = 160.0
        search = torch.full((batch, 3, 255, 255), 100.0)
        corner = torch.randint(30, 162, (batch, 2), generator=generator)
        for patch, (x, y) in zip(search, corner.tolist(), strict=True):
            patch[:, y : y + 63, x : x + 63] = 160.0
        template += 25.0 * torch.randn(template.shape, generator=generator)
        search += 25.0 * torch.randn(search.shape, generator=generator)
        return template, search, torch.cat((corner, corner + 63), dim=1).float()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(70):
        # The running statistics of so short a run lag behind the weights, which therefore get used to them at the end.
        model.train(step < 40)
        template, search, boxes = scenes(4)
        losses = model.losses(template, search, boxes, torch.ones(4, dtype=torch.bool), generator=generator)
        optimizer.zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    template, search, boxes = scenes(4)
    graph = SearchGraph(model.eval())
    # A frame whose search window is the search patch itself: a 63.5 px box in the middle of 255 px.
    state = torch.tensor([[127.5, 127.5, 63.5, 63.5, 255.0, 255.0]])
    with torch.inference_mode():
        for i in range(4):
            memory = model.template(template[i : i + 1])
            next_state, score, *_ = graph(search[i : i + 1], state, *memory)
            left, top, right, bottom = boxes[i].tolist()
            found = Box.from_centre(*next_state[0, :4].tolist())
            assert float(iou(found, (left, top, right - left, bottom - top))) > 0.6
            assert float(score) > 0.7
