"""train: from a recipe to weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app

if TYPE_CHECKING:
    from trackctl.training.loop import Report
    from trackctl.training.recipe import Recipe


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="recipe: a name such as dcfg-edge, or a TOML file", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder of checkpoints; a run that was stopped in it goes on")],
    cache: Annotated[
        Path | None, typer.Option(help="frame store, about 3 GB, made from --data on the first run", show_default=False)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="training sets; read only while the cache is empty")] = None,
    processes: Annotated[int, typer.Option(min=1, help="one per core; torchrun's number counts if it starts this")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="processes that prepare batches, for each of those")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="the same schedule in so many steps")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="pairs per step in place of the recipe's")] = None,
    shares: Annotated[int | None, typer.Option(min=1, help="parts of the batch in place of the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="in place of the recipe's")] = None,
    weights: Annotated[Path | None, typer.Option(help="weights to start from; whole parts that are trained may lack")] = None,
    backbone: Annotated[str | None, typer.Option(help="weights, or a model of the zoo, to take the backbone from")] = None,
    validate: Annotated[str | None, typer.Option(help="track this data set, KIND:PATH, at every checkpoint")] = None,
    qat: Annotated[bool, typer.Option("--qat", help="train with the rounding of int8")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write scalars to OUT/tensorboard")] = False,
) -> None:
    """Train a system by a recipe; the same command again resumes an interrupted run. Prints the file of the weights."""
    from trackctl.training.recipe import ValidationSpec, load_recipe
    from trackctl.training.train import Job, lacking, scalars_to
    from trackctl.training.train import train as run

    recipe = load_recipe(config)
    spec = recipe.training
    given = {"batch": batch, "shares": shares, "seed": seed, "qat": qat or None}
    spec = replace(spec, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if steps is not None:
        spec = replace(spec, schedule=spec.schedule.stretched(steps, spec.batch))
    recipe = replace(recipe, training=spec)
    if validate is not None:
        recipe = replace(recipe, validation=ValidationSpec(dataset=validate))
    job = Job(recipe=recipe, out=out, cache=cache, data=data, weights=weights, backbone=backbone, workers=workers)
    if weights is not None and (missing := lacking(job)):
        typer.echo(f"note: {weights.name} has no {', '.join(missing)}: trained from the seed {spec.seed}", err=True)
    with _reports(recipe) as tell:
        listeners = [tell, scalars_to(out / "tensorboard")] if tensorboard else [tell]

        def report(said: Report) -> None:
            for listener in listeners:
                listener(said)

        done = run(job, processes=processes, report=report)
    typer.echo(str(done))


@contextmanager
def _reports(recipe: Recipe) -> Iterator[Callable[[Report], None]]:
    """A bar on a terminal, otherwise a line per report; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda said: typer.echo(f"step {said.step}  {_numbers(said)}", err=True)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console) as progress:
        task = progress.add_task(recipe.system, total=recipe.training.steps, numbers="")
        yield lambda said: progress.update(task, completed=said.step, numbers=_numbers(said))


def _numbers(said: Report) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in said.scalars.items())
