"""NanoTrack against the outputs of the authors' published graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from trackctl.runtime.crop import HostCrop, frame_fill
from trackctl.runtime.frame import BGR8, GRAY8
from trackctl.runtime.geometry import Box, iou
from trackctl.training import zoo
from trackctl.training.decode import MAX_LOG_SIZE
from trackctl.training.model import TrackerModel
from trackctl.training.nanotrack import NanoTrack

VERSIONS = (1, 2, 3)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "data/weights/nanotrack_golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def model(version: int, shared: Path) -> TrackerModel:
    return zoo.load(f"nanotrack-v{version}", shared / f"data/weights/nanotrack_v{version}.npz")


def patches(golden: dict[str, np.ndarray], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "real":
        return tuple(torch.from_numpy(golden[f"real_{side}_gray"]).float().expand(1, 3, -1, -1) for side in "zx")
    template = np.random.RandomState(101).randint(0, 256, (3, 127, 127))
    search = np.random.RandomState(202).randint(0, 256, (3, 255, 255))
    assert [template.sum(), search.sum()] == golden["rand_sum"].tolist()
    return tuple(torch.from_numpy(array).float()[None] for array in (template, search))


@pytest.mark.parametrize("kind", ["rand", "real"])
def test_equals_the_published_graphs(model: NanoTrack, golden: dict[str, np.ndarray], version: int, kind: str) -> None:
    template, search = patches(golden, kind)
    with torch.inference_mode():
        template_features, search_features = model.backbone(template)[0], model.backbone(search)[0]
        cls, loc = model.search(search, model.template(template))

    def want(name: str) -> np.ndarray:
        return golden[f"v{version}_{kind}_{name}"]

    step = 2 if kind == "real" else 1
    np.testing.assert_allclose(template_features.numpy()[::step], want("zf"), rtol=0, atol=2e-4)
    np.testing.assert_allclose(search_features.numpy()[::8, ::2, ::2], want("xf_sub"), rtol=0, atol=2e-4)
    total, absolute, most, least = want("xf_stat")
    everything = search_features.numpy().astype(np.float64)
    assert everything.sum() == pytest.approx(total, abs=1e-5 * absolute)
    assert np.abs(everything).sum() == pytest.approx(absolute, rel=1e-5)
    assert (everything.max(), everything.min()) == (pytest.approx(most, abs=2e-4), pytest.approx(least, abs=2e-4))
    np.testing.assert_allclose(cls.numpy()[0], want("cls"), rtol=0, atol=2e-4)
    np.testing.assert_allclose(loc.numpy()[0], want("loc"), rtol=5e-5, atol=0)


def test_one_step_equals_the_reference(model: NanoTrack, golden: dict[str, np.ndarray], version: int, shared: Path) -> None:
    """From frames to a box: host crop, network, decode."""
    folder = shared / "data/sequences/tir_airplane/img"
    first, tenth = (cv2.imread(str(sorted(folder.iterdir())[index]), cv2.IMREAD_GRAYSCALE) for index in (0, 10))
    box = Box(*golden["real_state"])
    crop = model.crop
    template = HostCrop(crop.template_size)(
        first, GRAY8, box.centre_xy, crop.template_side_px(box.width, box.height), frame_fill(first)
    )
    search = HostCrop(crop.search_size)(
        tenth, GRAY8, box.centre_xy, crop.search_side_px(box.width, box.height), frame_fill(first)
    )
    assert np.abs(np.rint(template[0, 0]) - golden["real_z_gray"]).max() <= 1
    assert np.abs(np.rint(search[0, 0]) - golden["real_x_gray"]).max() <= 1

    template, search = patches(golden, "real")
    height, width = golden["real_imhw"]
    state = torch.tensor([[*box.centre_xy, box.width, box.height, width, height]], dtype=torch.float32)
    with torch.inference_mode():
        moved, score, _, _ = model.decode(*model.search(search, model.template(template)), state)
    got = [*Box.from_centre(*moved[0, :4].tolist()), score.item()]
    np.testing.assert_allclose(got, golden[f"v{version}_real_step"], rtol=0, atol=1e-3)


def synthetic_clip() -> Iterator[np.ndarray]:
    background = np.kron(np.random.RandomState(7).randint(60, 110, (15, 20)), np.ones((16, 16)))
    target = np.kron(np.random.RandomState(8).randint(120, 256, (4, 4)), np.ones((10, 10)))
    for k in range(16):
        frame = background.copy()
        frame[80 + 2 * k : 120 + 2 * k, 60 + 3 * k : 100 + 3 * k] = target
        yield np.repeat(frame.astype(np.uint8)[..., None], 3, axis=2)


def test_follows_the_synthetic_clip_like_the_reference(model: NanoTrack, golden: dict[str, np.ndarray], version: int) -> None:
    want = golden[f"v{version}_synth_clean"]
    box, crop = Box(60, 80, 40, 40), model.crop
    rows = [[*box, 1.0]]
    frames = synthetic_clip()
    first = next(frames)
    fill = frame_fill(first)
    cut_template, cut_search = HostCrop(crop.template_size), HostCrop(crop.search_size)
    with torch.inference_mode():
        patch = cut_template(first, BGR8, box.centre_xy, crop.template_side_px(box.width, box.height), fill)
        memory = model.template(torch.from_numpy(patch))
        for frame in frames:
            patch = cut_search(frame, BGR8, box.centre_xy, crop.search_side_px(box.width, box.height), fill)
            state = torch.tensor([[*box.centre_xy, box.width, box.height, 320, 240]], dtype=torch.float32)
            moved, score, _, _ = model.decode(*model.search(torch.from_numpy(patch), memory), state)
            box = Box.from_centre(*moved[0, :4].tolist())
            rows.append([*box, score.item()])
    got = np.array(rows)
    assert iou(got[:, :4], want[:, :4]).min() >= 0.95
    np.testing.assert_allclose(got[1:, 4], want[1:, 4], atol=0.01)


def test_a_checkpoint_fills_every_tensor(version: int, shared: Path) -> None:
    with np.load(shared / f"data/weights/nanotrack_v{version}.npz") as arrays:
        published = {key for key in arrays.files if not key.startswith("neck.")}
    assert len(published) == {1: 225, 2: 292, 3: 432}[version]
    assert set(zoo.build(f"nanotrack-v{version}").state_dict()) == published


@pytest.mark.parametrize(("name", "count"), [("nanotrack-v1", 287_966), ("nanotrack-v2", 334_078), ("nanotrack-v3", 541_446)])
def test_has_the_published_number_of_parameters(name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in zoo.build(name).parameters()) == count


@pytest.mark.parametrize(("name", "cells"), [("nanotrack-v1", 16), ("nanotrack-v2", 16), ("nanotrack-v3", 15)])
def test_samples_of_a_batch_do_not_mix(name: str, cells: int) -> None:
    model = zoo.build(name)
    generator = torch.Generator().manual_seed(1)
    templates = torch.rand((2, 3, 127, 127), generator=generator) * 255
    searches = torch.rand((2, 3, 255, 255), generator=generator) * 255
    with torch.inference_mode():
        memory = model.template(templates)
        cls, loc = model.search(searches, memory)
        alone_cls, alone_loc = model.search(searches[1:], model.template(templates[1:]))
    assert len(memory) == len(model.memory_names)
    assert (cls.shape, loc.shape) == ((2, 2, cells, cells), (2, 4, cells, cells))
    torch.testing.assert_close(cls[1:], alone_cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loc[1:], alone_loc, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cls[:1], alone_cls, atol=1e-5)


@pytest.mark.parametrize("name", ["nanotrack-v1", "nanotrack-v2", "nanotrack-v3"])
def test_absurd_distances_fit_half_precision(name: str) -> None:
    model = zoo.build(name)
    torch.nn.init.constant_(model.ban_head.bbox_pred[0].bias, 100.0)
    with torch.inference_mode():
        _, loc = model.search(torch.zeros(1, 3, 255, 255), model.template(torch.zeros(1, 3, 127, 127)))
    assert torch.isfinite(loc.half()).all()
    torch.testing.assert_close(loc, torch.full_like(loc, np.exp(MAX_LOG_SIZE)))
