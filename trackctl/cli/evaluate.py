"""eval, compare, serve-trax: how well bundles and result files track."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import BundleArgument, RuntimeOption, ThreadsOption, progress_bar, stdout_console
from trackctl.runtime.errors import InputError

if TYPE_CHECKING:
    from trackctl.evaluation.compare import Comparison
    from trackctl.evaluation.report import Report
    from trackctl.evaluation.scoring import Scores


@app.command("eval")
def evaluate(
    dataset: Annotated[str, typer.Option("--dataset", help="KIND:PATH, such as otb:DIR or antiuav:DIR", show_default=False)],
    bundles: Annotated[list[Path] | None, typer.Argument(help="bundle folders to run", show_default=False)] = None,
    results: Annotated[Path | None, typer.Option(help="score these result files; nothing is run")] = None,
    out: Annotated[Path, typer.Option(help="folder of results, scores.json and report.html")] = Path("eval"),
    jobs: Annotated[int, typer.Option(min=0, help="sequences at a time; measure speed with 1")] = 1,
    protocol: Annotated[str | None, typer.Option(help="another protocol than the data set's own")] = None,
    realtime: Annotated[float | None, typer.Option(help="also run with a camera of this many frames per second")] = None,
    runtime: RuntimeOption = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each engine")] = 1,
    cluster: Annotated[str | None, typer.Option(help="spread the sequences over Ray: local or ray://HOST:PORT")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False,
) -> None:
    """Score bundles, or result files of any tracker, on an annotated data set. A killed run goes on where it was."""
    from trackctl.evaluation.datasets import open_dataset
    from trackctl.evaluation.run import evaluate as run
    from trackctl.evaluation.scoring import protocol_for, score_results

    if (results is None) == (not bundles):
        raise InputError("got neither or both of BUNDLES and --results, expected one of them: name what to run or to score")
    opened = open_dataset(dataset)
    chosen = protocol_for(opened, protocol)
    with progress_bar("scoring" if results else "evaluating") as advance:
        if results is not None:
            scores = score_results(results, opened, protocol=chosen, on_progress=advance)
        else:
            report = run(
                bundles or [],
                opened,
                out,
                jobs=jobs,
                engine=runtime,
                threads=threads,
                realtime_fps=realtime,
                protocol=chosen,
                cluster=cluster,
                on_progress=advance,
            )
    if results is not None:
        typer.echo(json.dumps(scores.to_json(), indent=2)) if as_json else _print_scores(scores)
        return
    typer.echo(json.dumps(report.to_json(), indent=2)) if as_json else _print_bundles(report)
    typer.echo(f"wrote {out / 'report.html'}", err=as_json)


@app.command()
def compare(
    reports: Annotated[list[Path], typer.Argument(help="folders of trackctl eval, or their scores.json", show_default=False)],
    margin: Annotated[float, typer.Option(help="how much worse still counts as good")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False,
) -> None:
    """Bundles side by side with paired bootstrap intervals; the first is the one the others are measured against."""
    from trackctl.evaluation.compare import compare as run

    comparison = run(reports, margin=margin)
    typer.echo(json.dumps(comparison.to_json(), indent=2)) if as_json else _print_comparison(comparison)


@app.command("serve-trax")
def serve_trax(bundle: BundleArgument, runtime: RuntimeOption = "auto", threads: ThreadsOption = None) -> None:
    """Serve a bundle over the TraX protocol, for the official VOT toolkit."""
    from trackctl.evaluation.trax import serve_trax as run

    raise typer.Exit(run(bundle, engine=runtime, threads=threads))


def _print_scores(scores: Scores) -> None:
    from rich.table import Table

    table = Table("score", "value")
    for name, value in scores.overall.items():
        table.add_row(name, f"{value:.4f}")
    if success := scores.plots.get("success"):
        for threshold, value in zip(success.x.tolist(), success.y.tolist(), strict=True):
            if 0.499 < threshold < 0.801:
                table.add_row(f"success, IoU > {threshold:.2f}", f"{value:.4f}")
    console = stdout_console()
    console.print(f"{scores.kind}: {len(scores.sequences)} sequences, {scores.frames} frames", highlight=False)
    console.print(table)


def _print_bundles(report: Report) -> None:
    from rich.table import Table

    names = list(report.entries[0].scores.overall)
    table = Table("bundle", "engine", *names, "fps", "p50 ms", "p99 ms", title=f"{report.kind}, {report.frames} frames")
    for entry in report.entries:
        speed = (f"{entry.speed.fps:.1f}", f"{entry.speed.p50_ms:.2f}", f"{entry.speed.p99_ms:.2f}")
        table.add_row(entry.name, entry.engine, *(f"{entry.scores.overall[name]:.4f}" for name in names), *speed)
        if entry.realtime is not None:
            live = entry.realtime
            label = f"  at {live.fps:g} fps, {live.late:.0%} late"
            table.add_row(label, "", *(f"{live.scores.overall[name]:.4f}" for name in names), "", "", "")
    stdout_console().print(table)


def _print_comparison(comparison: Comparison) -> None:
    from rich.table import Table

    names = list(comparison.rows[0].scores)
    table = Table("bundle", "precision", "engine", *names, "p50 ms", "p99 ms", title=f"{comparison.sequences} sequences")
    for row in comparison.rows:
        cells = [f"{row.scores[name].value:.4g} ({row.scores[name].low:.4g}..{row.scores[name].high:.4g})" for name in names]
        table.add_row(row.name, row.precision, row.engine, *cells, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
    console = stdout_console()
    console.print(table)
    for sentence in comparison.statements():
        console.print(sentence, highlight=False)
