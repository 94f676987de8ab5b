"""Recipes: what a system is trained with, as TOML that people edit. Those of the package are in ``training/recipes``.

    system = "dcffnet"     name in the zoo, or lrrnet
    stage = "tracking"     for systems that are trained in stages
    backbone = "dcfg-edge" model of the zoo whose backbone the training starts from, optional
    head = "dcfg-edge"     model of the zoo whose neck and head a box-adaptive head starts as, optional
    [training]             TrainSpec
    [training.schedule]    Schedule
    [data]                 DataSpec
    [validation]           ValidationSpec, optional

Published numbers and where they come from stand beside them as comments.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trackctl.runtime.errors import InputError
from trackctl.training.config import from_table, read_toml
from trackctl.training.data.scene import RenderSpec
from trackctl.training.data.spectral import SpectralSpec
from trackctl.training.loop import TrainSpec
from trackctl.training.pairs import PairSpec

RECIPES = Path(__file__).parent / "recipes"

Modality = Literal["grey", "bands", "rgbt", "fusion"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What is learnt from.

    Attributes:
        modality: ``grey`` patches repeated to three channels; ``bands``, hyperspectral cubes with the system's number of bands;
            ``rgbt``, visible and thermal patches in four channels; ``fusion``, registered visible and infrared images.
        rendered: share, 0..1, of the pairs that are rendered; the others are cut from the frame store.
        pairs: how pairs are drawn from the store.
        scenes: what rendered pairs show.
        spectral: what rendered pairs of bands show; the number of bands is the system's, unless it sees principal components.

    Raises:
        InputError: the share is outside 0..1.
    """

    modality: Modality = "grey"
    rendered: float = 0.0
    pairs: PairSpec = field(default_factory=PairSpec)
    scenes: RenderSpec = field(default_factory=RenderSpec)
    spectral: SpectralSpec = field(default_factory=SpectralSpec)

    def __post_init__(self) -> None:
        if not 0.0 <= self.rendered <= 1.0:
            raise InputError(f"got a share of {self.rendered:g} rendered pairs, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ValidationSpec:
    """Tracking on annotated sequences at every checkpoint.

    Attributes:
        dataset: ``KIND:PATH`` as for ``trackctl eval``.
        sequences: names of those to track; all if empty.
        frames: most frames of each.
    """

    dataset: str
    sequences: tuple[str, ...] = ()
    frames: int = 200


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training, whole.

    Attributes:
        system: name of what is trained, see :mod:`trackctl.training.systems`.
        stage: of a system that is trained in several, see there; empty for the others.
        backbone: model of the zoo, or file of weights, to take the backbone from; None starts it from the seed.
        head: model of the zoo with anchors to take neck and head from, see :mod:`trackctl.training.from_anchors`.
        training: how.
        data: on what.
        validation: how checkpoints are judged; None judges nothing.
    """

    system: str
    stage: str = ""
    backbone: str | None = None
    head: str | None = None
    training: TrainSpec
    data: DataSpec = field(default_factory=DataSpec)
    validation: ValidationSpec | None = None


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of that name in the package, or of that file.

    Raises:
        InputError: there is none, or it is malformed: a key is unknown, a value of another type or out of range.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in recipe_names():
            near = difflib.get_close_matches(str(name), recipe_names(), n=1, cutoff=0.0)[0]
            raise InputError(
                f"got the recipe {str(name)!r}, do you mean {near}? Known: {', '.join(recipe_names())}; or give a .toml file"
            )
        path = RECIPES / f"{name}.toml"
    try:
        return from_table(Recipe, read_toml(path), path.name)
    except InputError as error:
        message = str(error)
        raise InputError(message if path.name in message else f"{path.name}: {message}") from error
