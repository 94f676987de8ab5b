"""Rendered pairs: an unlimited source of scenes with targets, rivals and occluders, for grey and visible+thermal cameras.

A scene (:mod:`trackctl.training.data.scene`) is drawn into the template and the search patch directly, at the grain that the
sensor would have there: a background from the rendered clip's worlds or of fractal noise, objects, occluders, then the sensor:
optics, halo, gain control, fixed pattern, noise, dead pixels. Pixels are made by torch, so a batch is rendered on the CPU or on a
GPU by the same code. Everything is [ours].

Shapes: B pairs, C channels, S patch side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trackctl.runtime.geometry import CropSpec, Float64Array
from trackctl.runtime.sources.synth_scene import World, texture
from trackctl.training.data.scene import (
    BACKGROUNDS,
    CANVAS_HW,
    NOISE_PX,
    OBJECTS,
    OCCLUDERS,
    Camera,
    RenderSpec,
    Scene,
    draw_scene,
)
from trackctl.training.data.shapes import stamps
from trackctl.training.pairs import Pair

WORLDS = 6  # of the backgrounds; the others are fractal noise
BLUR_REACH = 12


class Renderer:
    """Draws scene number n.

    Args:
        crop: crop constants, those of the deployed tracker.
        spec: what scenes look like.
        camera: ``grey`` has one channel; ``rgbt`` blue, green, red, thermal.
        seed: of all choices, >= 0.
    """

    def __init__(self, crop: CropSpec, spec: RenderSpec | None = None, *, camera: Camera = "grey", seed: int = 0) -> None:
        self.crop, self.spec, self.camera, self.seed = crop, spec or RenderSpec(), camera, seed

    def __getitem__(self, number: int) -> Pair:
        """Pair ``number`` >= 0, the same for the same seed. Patches (S, S) uint8 for ``grey``, (C, S, S) otherwise."""
        template, search, boxes, positive = self.batch([number])
        first = (0, 0) if self.camera == "grey" else (0,)
        return Pair(template[first].numpy(), search[first].numpy(), boxes[0].numpy(), bool(positive[0]))

    def batch(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pairs of these numbers on a device.

        Returns:
            template (B, C, 127, 127) and search (B, C, 255, 255) uint8, boxes_xyxy (B, 4) float64, positive (B,) bool.
        """
        scenes = [draw_scene(number, self.spec, self.crop, self.camera, self.seed) for number in numbers]
        sizes = self.crop.template_size, self.crop.search_size
        template, search = (draw(scenes, view, size, torch.device(device)) for view, size in enumerate(sizes))
        boxes = torch.from_numpy(np.stack([scene.box_xyxy for scene in scenes]))
        positive = torch.tensor([scene.positive for scene in scenes])
        return template, search, boxes.to(device), positive.to(device)


def draw(scenes: Sequence[Scene], which: int, size: int, device: torch.device) -> Tensor:
    """The template (``which`` 0) or search patches (1) of scenes, (B, C, size, size) uint8."""
    views = [scene.views[which] for scene in scenes]
    worlds, sprites, noise = _assets(str(device))
    grid = torch.arange(size, dtype=torch.float32, device=device) + 0.5
    patch = torch.stack((grid.expand(size, size), grid[:, None].expand(size, size), torch.ones(size, size, device=device)))
    points = _apply(_stack([view.matrix for view in views], device), patch)  # (B, 3, S, S) scene px and 1
    ground = worlds[[scene.background for scene in scenes]]  # (B, 1, H, W)
    detail = _sample(ground, _apply(_stack([scene.anchor for scene in scenes], device), points), "reflection")
    base, slope = (_stack([getattr(scene, name) for scene in scenes], device)[..., None, None] for name in ("base", "slope"))
    image = base[:, 0] + slope[:, 0] * detail  # (B, C, S, S)
    for layer in range(OBJECTS):
        # Painted from the last rival to the target.
        index = OBJECTS - 1 - layer
        if all(np.isnan(view.objects[index][1]).any() for view in views):
            continue
        stamp = sprites[[view.objects[index][0] for view in views]]  # (B, 2, SIDE, SIDE)
        place = _apply(_stack([_somewhere(view.objects[index][1]) for view in views], device), points)
        cover, warmth = torch.split(_sample(stamp, place, "zeros"), 1, dim=1)
        image = image * (1.0 - cover) + base[:, 1 + index] * cover + slope[:, 1 + index] * warmth
    for index in range(OCCLUDERS):
        if all(np.isnan(view.occluders[index]).any() for view in views):
            continue
        place = _apply(_stack([_somewhere(view.occluders[index]) for view in views], device), points)
        inside = ((place[:, :2].abs().amax(dim=1, keepdim=True) + 0.06 * detail) < 1.0).float()
        shade = base[:, 1 + OBJECTS + index] + slope[:, 1 + OBJECTS + index] * detail
        image = image * (1.0 - inside) + shade * inside
    return _sensor(image, scenes, which, points, noise)


def _sensor(image: Tensor, scenes: Sequence[Scene], which: int, points: Tensor, noise: Tensor) -> Tensor:
    """What the camera delivers of an image (B, C, S, S): uint8."""
    views, device = [scene.views[which] for scene in scenes], image.device

    def each(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None, None]

    image = _blurred(image, [min(scene.blur * scene.zoom[which], BLUR_REACH / 3) for scene in scenes])
    halo = each([scene.halo for scene in scenes])
    if bool((halo > 0).any()):
        small = F.avg_pool2d(image, 4, ceil_mode=True, count_include_pad=False)
        around = F.interpolate(_blurred(small, [3.5] * len(scenes)), size=image.shape[2:], mode="bilinear", align_corners=False)
        image = image + halo * (image - around)
    image = (image - 128.0) * each([view.gain for view in views]) + 128.0 + each([view.offset for view in views])
    inverted = each([float(scene.inverted) for scene in scenes])
    image = inverted * (255.0 - image) + (1.0 - inverted) * image
    # Fixed pattern and noise lie on the sensor's pixels: read from one field at scene coordinates, at another entry each.
    for strength, entries in (
        (
            each([scene.pattern for scene in scenes]),
            [(scene.seed * 37 % NOISE_PX, scene.seed * 91 % NOISE_PX) for scene in scenes],
        ),
        (each([view.noise for view in views]), [view.entry for view in views]),
    ):
        entry = torch.tensor(entries, dtype=torch.float32, device=device)[:, :, None, None]
        for channel in range(image.shape[1]):
            where = (points[:, :2] + entry + 61.0 * channel).floor().long() % NOISE_PX
            image[:, channel] += strength[:, 0] * noise[where[:, 1], where[:, 0]]
    for row, view in enumerate(views):
        rng = np.random.default_rng(view.entry)
        for y, x in rng.integers(0, image.shape[2], (view.dead, 2)).tolist():
            side = max(1, round(scenes[row].zoom[which]))
            image[row, :, y : y + side, x : x + side] = 255.0 * float(rng.integers(2))
    return image.round().clamp(0.0, 255.0).to(torch.uint8)


@lru_cache(maxsize=2)
def _assets(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Backgrounds (W, 1, H, W), stamps (N, 2, SIDE, SIDE) and a field of normal noise, on a device; the same in every process."""
    height, width = CANVAS_HW
    canvases = []
    for seed in range(WORLDS):
        world = World(np.random.default_rng((11, seed)), 640, 512)
        canvases.append(cv2.resize(world.canvas, (width, height), interpolation=cv2.INTER_AREA))
    for seed in range(BACKGROUNDS - WORLDS):
        rng = np.random.default_rng((12, seed))
        canvases.append(
            texture(rng, height, width, float(rng.choice((12.0, 60.0, 200.0))), stretch=float(rng.choice((1.0, 2.5))))
        )
    stacked = np.stack([(canvas - canvas.mean()) / max(float(canvas.std()), 1e-6) for canvas in canvases])
    sprites = np.stack([stamp.layers for stamp in stamps()])
    noise = np.random.default_rng(13).standard_normal((NOISE_PX, NOISE_PX), dtype=np.float32)
    where = torch.device(device)
    return torch.from_numpy(stacked)[:, None].to(where), torch.from_numpy(sprites).to(where), torch.from_numpy(noise).to(where)


def _somewhere(place: Float64Array) -> Float64Array:
    """The map of what is there, or one that puts all of the scene outside of what is not."""
    return np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]) if np.isnan(place).any() else place


def _stack(matrices: Sequence[Float64Array], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(matrices)).to(torch.float32).to(device)


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (B, 3, S, S) or (3, S, S) through maps (B, 2, 3); a 1 is appended again."""
    flat = points.flatten(-2)
    moved = (matrix @ flat).reshape(-1, 2, *points.shape[-2:])
    return torch.cat((moved, torch.ones_like(moved[:, :1])), dim=1)


def _sample(picture: Tensor, where: Tensor, outside: str) -> Tensor:
    """Bilinear values (B, D, S, S) of pictures (B, D, h, w) at coordinates -1..1."""
    return F.grid_sample(picture, where[:, :2].movedim(1, -1), mode="bilinear", padding_mode=outside, align_corners=False)


def _blurred(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Every image (B, C, S, S) smoothed by its own Gaussian (patch px)."""
    batch, channels = image.shape[:2]
    reach = max(1, min(BLUR_REACH, int(np.ceil(3.0 * max(sigmas)))))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    sigma = torch.tensor(sigmas, dtype=torch.float32, device=image.device).clamp(min=0.1)[:, None]
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]  # (B C, 1, taps)
    flat = F.pad(image.reshape(1, batch * channels, *image.shape[2:]), [reach] * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel[..., None], groups=batch * channels), kernel[:, :, None], groups=batch * channels)
    return flat.reshape(image.shape)
