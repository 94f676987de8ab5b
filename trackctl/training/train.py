"""From a recipe to weights: data, model and processes are put together here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.training.data.mixed import ImageBatches, MixedPairs
from trackctl.training.data.pairs_bands import PairsBands
from trackctl.training.data.pairs_rgbt import PairsRGBT
from trackctl.training.data.render import Renderer
from trackctl.training.data.sources import read_all
from trackctl.training.data.spectral import SpectralPairs
from trackctl.training.data.store import INDEX_FILE, FrameStore, write_store
from trackctl.training.from_anchors import take_head
from trackctl.training.loop import PairBatches, PairSource, Report, Source, Training
from trackctl.training.model import TrackerModel
from trackctl.training.pairs import HELD_OUT, Pairs
from trackctl.training.processes import Group, run_together, started_by_torchrun, torchrun_group
from trackctl.training.qat import fake_quantise
from trackctl.training.recipe import DataSpec, Recipe
from trackctl.training.systems import FUSION_STAGE, build_system, take_backbone, trainable
from trackctl.training.validation import sequences_of, success
from trackctl.training.weights import load_weights, start_from
from trackctl.training.zoo import load

Build = Callable[[], nn.Module]
Tell = Callable[[Report], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe and the places of one run.

    Attributes:
        recipe: what is trained, how and on what.
        out: folder of the checkpoints; shared by all machines of the run.
        cache: folder of the frame store, filled from ``data`` if it is empty; only rendered pairs do without.
        data: folder of the training sets.
        weights: file to start from rather than from the seed; modules that are trained anew may be missing in it.
        backbone: in place of the recipe's, see :func:`trackctl.training.systems.take_backbone`.
        workers: processes per process that prepare batches.
        build: makes another model than the recipe's system; a function of a module.
    """

    recipe: Recipe
    out: Path
    cache: Path | None = None
    data: Path | None = None
    weights: Path | None = None
    backbone: str | None = None
    workers: int = 0
    build: Build | None = None


def train(job: Job, *, processes: int = 1, report: Tell | None = None) -> Path:
    """The file of the averaged weights after the last step; the same call again resumes an interrupted run.

    Args:
        job: what to do.
        processes: of this machine; torchrun's own number counts if it started this process.
        report: called in this process while it trains, if its rank is 0.

    Raises:
        InputError: the data, the cache, the weights or the state to resume from is missing or damaged.
    """
    torchrun = started_by_torchrun()
    if torchrun:
        group = torchrun_group()
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            _prepare(job)
        distributed.barrier()
        try:
            _work(job, group, report)
        finally:
            distributed.destroy_process_group()
    else:
        _prepare(job)
        # What is wrong with the job is said here in one line; from another process it would come as a traceback.
        if processes > 1:
            assemble(job, Group())
        run_together(partial(_work, job, report=report), partial(_work, job), processes=processes, folder=job.out)
    return job.out / f"step-{job.recipe.training.steps:06d}.safetensors"


def _prepare(job: Job) -> None:
    if job.cache is not None and not (job.cache / INDEX_FILE).is_file():
        if job.data is None:
            raise InputError(f"got no frame store in {job.cache} and no data to make it from, expected one of them: give --data")
        write_store(job.cache, read_all(job.data))
    job.out.mkdir(parents=True, exist_ok=True)


def _work(job: Job, group: Group, report: Tell | None = None) -> None:
    assemble(job, group, report).run()


def assemble(job: Job, group: Group, report: Tell | None = None) -> Training:
    """The part of one process: model, data and loop."""
    recipe = job.recipe
    spec = recipe.training
    kept = _model(job)
    model = trainable(kept, recipe.system, recipe.stage, job.backbone) if job.build is None else kept
    validation = recipe.validation
    validate = None
    if validation is not None and group.rank == 0:
        judged = cast(TrackerModel, _model(job))
        sequences = sequences_of(validation.dataset, validation.sequences)

        def validate(state: Mapping[str, Tensor]) -> dict[str, float]:
            judged.load_state_dict(dict(state))
            return success(judged, sequences, validation.frames)

    data = source(job, kept)
    return Training(spec, model, data, job.out, group, kept=kept, workers=job.workers, report=report, validate=validate)


def lacking(job: Job) -> tuple[str, ...]:
    """The top-level modules that the job's weights lack and that therefore start from the seed, see :func:`start_from`.

    Raises:
        InputError, WeightsError: as :func:`train`.
    """
    return _start(_initial(job), job)


def _model(job: Job) -> nn.Module:
    model = _initial(job)
    _start(model, job)
    if job.recipe.training.qat:
        fake_quantise(cast(TrackerModel, model))
    return model


def _start(model: nn.Module, job: Job) -> tuple[str, ...]:
    if job.weights is None:
        return ()
    if job.recipe.stage:
        # A stage freezes parts later, which must not be those that lack.
        load_weights(model, job.weights)
        return ()
    return start_from(model, job.weights)


def _initial(job: Job) -> nn.Module:
    """The model before the job's weights are put in."""
    recipe = job.recipe
    if job.build is None:
        model = build_system(recipe.system, recipe.training.seed)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed)
            model = job.build()
    backbone = job.backbone or recipe.backbone
    if backbone is not None and recipe.stage != FUSION_STAGE:
        take_backbone(model, backbone)
    if recipe.head is not None:
        take_head(model, load(recipe.head))
    return model


def source(job: Job, model: nn.Module) -> Source:
    """What the model learns from, as the recipe says.

    Raises:
        InputError: there is no frame store and not all pairs are rendered, or the model wants patches of another kind.
    """
    data, seed = job.recipe.data, job.recipe.training.seed
    crop = model.crop if isinstance(model, TrackerModel) else CropSpec()
    channels = model.channels if isinstance(model, TrackerModel) else 4
    if channels != {"grey": 3, "rgbt": 4, "fusion": 4}.get(data.modality, channels):
        raise InputError(f"got the modality {data.modality!r} for {job.recipe.system} with {channels} channels: change it")
    rendered: PairSource = Renderer(crop, data.scenes, camera="grey" if data.modality == "grey" else "rgbt", seed=seed)
    if data.modality == "bands":
        spectral = data.spectral if data.spectral.view == "pca" else replace(data.spectral, bands=channels)
        rendered = SpectralPairs(spectral, crop, seed=seed)
    if data.rendered == 1.0:
        pairs: PairSource = rendered
    elif job.cache is None:
        raise InputError("got no frame store, expected one unless all pairs are rendered: give --cache, or set rendered = 1.0")
    else:
        pairs = MixedPairs(_stored(job.cache, data, crop, channels, seed), rendered, share=data.rendered, seed=seed)
    return ImageBatches(pairs) if data.modality == "fusion" else PairBatches(pairs)


def _stored(cache: Path, data: DataSpec, crop: CropSpec, channels: int, seed: int) -> PairSource:
    store = FrameStore(cache)
    if data.modality == "bands":
        return PairsBands(store, data.pairs, crop, bands=channels, seed=seed, held_out=HELD_OUT)
    kind = Pairs if data.modality == "grey" else PairsRGBT
    return kind(store, data.pairs, crop, seed=seed, held_out=HELD_OUT)


def scalars_to(folder: Path) -> Tell:
    """A listener that writes TensorBoard's files.

    Raises:
        MissingDependency: tensorboard is not installed.
    """
    from trackctl.runtime.errors import MissingDependency

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency("tensorboard", "writing scalars", "tensorboard") from error
    writer = cast(Any, SummaryWriter)(str(folder))

    def write(report: Report) -> None:
        for name, value in report.scalars.items():
            writer.add_scalar(name, value, report.step)
        writer.flush()

    return write
