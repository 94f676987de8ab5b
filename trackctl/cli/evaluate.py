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

    entries = report.entries
    table = Table("score", *(entry.name.removesuffix(".trk") for entry in entries))
    table.add_row("engine", *(entry.engine for entry in entries))
    for name in entries[0].scores.overall:
        table.add_row(name, *(f"{entry.scores.overall[name]:.4f}" for entry in entries))
    if all(entry.realtime for entry in entries):
        live = [entry.realtime for entry in entries if entry.realtime]
        for name in live[0].scores.overall:
            table.add_row(f"{name} at {live[0].fps:g} fps", *(f"{run.scores.overall[name]:.4f}" for run in live))
        table.add_row("frames that came late", *(f"{run.late:.1%}" for run in live))
    table.add_row("updates per second", *(f"{entry.speed.fps:.1f}" for entry in entries))
    table.add_row("update ms p50, p99", *(f"{entry.speed.p50_ms:.2f}, {entry.speed.p99_ms:.2f}" for entry in entries))
    console = stdout_console()
    console.print(f"{report.kind}: {len(entries[0].scores.sequences)} sequences, {report.frames} frames", highlight=False)
    console.print(table)


def _print_comparison(comparison: Comparison) -> None:
    from rich.table import Table

    rows = comparison.rows
    table = Table("score (interval)", *(row.name.removesuffix(".trk") for row in rows))
    table.add_row("precision, engine", *(f"{row.precision}, {row.engine}" for row in rows))
    for name in rows[0].scores:
        found = [row.scores[name] for row in rows]
        table.add_row(name, *(f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})" for score in found))
    table.add_row("update ms p50, p99", *(f"{row.p50_ms:.2f}, {row.p99_ms:.2f}" for row in rows))
    console = stdout_console()
    console.print(f"{comparison.dataset}: {comparison.sequences} sequences", highlight=False)
    console.print(table)
    for sentence in comparison.statements():
        console.print(sentence, highlight=False)
