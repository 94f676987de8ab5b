"""tune: inference constants and confidence thresholds for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import progress_bar


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="a name from trackctl models", show_default=False)],
    dataset: Annotated[str, typer.Option("--dataset", help="KIND:PATH of development sequences", show_default=False)],
    weights: Annotated[Path | None, typer.Option(help="weights of the model, if not the shipped ones")] = None,
    sequence: Annotated[list[str] | None, typer.Option(help="tune on this sequence; may be repeated; all otherwise")] = None,
    frames: Annotated[int, typer.Option(min=2, help="most frames of each sequence")] = 300,
    trials: Annotated[int, typer.Option(min=1, help="points to try")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="of the search")] = 0,
    out: Annotated[Path, typer.Option(help="file of the result")] = Path("tuned.toml"),
) -> None:
    """Search window, penalty, rate, context and confidence thresholds on development sequences, never on those you report."""
    from trackctl.training.tuning import tune as run
    from trackctl.training.tuning import write_tuned
    from trackctl.training.validation import sequences_of
    from trackctl.training.zoo import load

    chosen = sequences_of(dataset, sequence or ())
    with progress_bar("tuning") as advance:
        found = run(
            load(model, weights),
            chosen,
            frames=frames,
            trials=trials,
            seed=seed,
            tell=lambda done, total, best: advance(f"best AUC {best:.3f}", done, total),
        )
    write_tuned(found, out)
    typer.echo(f"success AUC {found.auc_before:.4f} before, {found.auc:.4f} with the constants in {out}")
