"""The command line: the only module that prints. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from trackctl import __version__
from trackctl.runtime.errors import InputError, TrackctlError
from trackctl.runtime.geometry import Box

if TYPE_CHECKING:
    from rich.console import Console

    from trackctl.runtime.frame import Frame
    from trackctl.runtime.loop import Summary
    from trackctl.runtime.sinks import Sink
    from trackctl.runtime.sources import Source
    from trackctl.runtime.tracker import Result, Tracker

app = typer.Typer(
    help="Single-object tracking on thermal, RGB-T and hyperspectral cameras: train, export, calibrate, track, profile.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, such as out/dcfg-edge-fp16.trk", show_default=False)]
InitOption = Annotated[Optional[str], typer.Option("--init", help="first box: left,top,width,height in pixels")]  # noqa: UP045
RuntimeOption = Annotated[str, typer.Option("--runtime", help="auto (measured on this machine), openvino or onnxruntime")]
ThreadsOption = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads of the engine")]  # noqa: UP045
FramesOption = Annotated[Optional[int], typer.Option("--frames", min=2, help="stop after this many frames")]  # noqa: UP045


def main() -> None:
    """Run the command line; a TrackctlError becomes one line on stderr and exit code 2."""
    try:
        app()
    except TrackctlError as error:
        typer.echo(f"trackctl: {error}", err=True)
        sys.exit(2)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"trackctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass


@app.command()
def track(
    source: Annotated[str, typer.Argument(help="video, image folder, .npy or TIFF stack, or synth:", show_default=False)],
    bundle: Annotated[Path, typer.Option("--bundle", help="bundle folder of the tracker", show_default=False)],
    init: InitOption = None,
    save: Annotated[Optional[Path], typer.Option(help="write the annotated video here")] = None,  # noqa: UP045
    jsonl: Annotated[Optional[Path], typer.Option(help="write one JSON line per frame here")] = None,  # noqa: UP045
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    frames: FramesOption = None,
) -> None:
    """Follow a target through a clip."""
    from trackctl.runtime.sinks.jsonl import JsonLinesSink
    from trackctl.runtime.sinks.video import VideoSink
    from trackctl.runtime.sources import open_source
    from trackctl.runtime.tracker import Tracker

    with open_source(source) as clip, Tracker.open(bundle, engine=runtime, threads=threads) as tracker:
        box = first_box(clip, init)
        sinks: list[Sink] = []
        if jsonl is not None:
            sinks.append(JsonLinesSink(jsonl))
        if save is not None:
            sinks.append(VideoSink(save, clip.fps))
        summary = _run(clip, tracker, box, sinks, frames)
        _print_summary(f"{bundle.name} on {clip.name}", tracker.engine_name, summary)
    for path in (save, jsonl):
        if path is not None:
            typer.echo(f"wrote {path}")


@app.command()
def profile(
    bundle: BundleArgument,
    source: Annotated[str, typer.Option("--source", help="clip to track; synth: renders one")] = "synth:",
    init: InitOption = None,
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    frames: FramesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False,
) -> None:
    """Measure every stage of a bundle on this machine: p50, p95, p99 and frames per second."""
    from trackctl.runtime.sources import open_source
    from trackctl.runtime.tracker import Tracker

    with open_source(source) as clip, Tracker.open(bundle, engine=runtime, threads=threads) as tracker:
        summary = _run(clip, tracker, first_box(clip, init), [], frames, quiet=as_json)
        if as_json:
            report = {"bundle": bundle.name, "engine": tracker.engine_name, "source": clip.name, **_summary_dict(summary)}
            typer.echo(json.dumps(report, indent=2))
        else:
            _print_summary(f"{bundle.name} on {clip.name}", tracker.engine_name, summary)


@app.command()
def models() -> None:
    """List the models that can be exported."""
    from rich.table import Table

    from trackctl.training.zoo import DEFAULT_MODEL, MODELS

    table = Table("model", "what it is", "weights in the package", "source")
    for name, entry in MODELS.items():
        label = f"{name} (default)" if name == DEFAULT_MODEL else name
        table.add_row(label, entry.description, "yes" if entry.weights else "no", entry.source)
    _console().print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False) -> None:
    """Say what this machine has, what is missing and how to get it."""
    from dataclasses import asdict

    from rich.table import Table

    from trackctl.runtime.doctor import report

    checks = report()
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    table = Table("what", "state", "found", "advice")
    colour = {"ok": "green", "warning": "yellow", "missing": "dim"}
    for check in checks:
        table.add_row(check.name, f"[{colour[check.state]}]{check.state}[/]", check.detail, check.advice)
    _console().print(table)


def first_box(source: Source, text: str | None) -> Box:
    """The first box: what the user gave, or the one that a rendered source knows."""
    if text is not None:
        return Box.parse(text)
    known: Box | None = getattr(source, "initial_box", None)
    if known is None:
        raise InputError(f"got no box for {source.name}, expected --init left,top,width,height on its first frame: add --init")
    return known


def _run(clip: Source, tracker: Tracker, box: Box, sinks: list[Sink], frames: int | None, *, quiet: bool = False) -> Summary:
    """Track with a progress bar on stderr; an interrupt ends the run like the end of the clip."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trackctl.runtime.loop import track as run

    columns = (
        TextColumn("tracking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    total = clip.count if frames is None else min(frames, clip.count or frames)
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("tracking", total=total, status="")

        def show(_: Frame, result: Result) -> None:
            progress.update(task, advance=1, status=f"{result.status.value} {result.score:.2f}")

        return run(clip, tracker, box, sinks, on_frame=show, max_frames=frames)


def _summary_dict(summary: Summary) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(summary)


def _print_summary(title: str, engine: str, summary: Summary) -> None:
    from rich.table import Table

    statuses = ", ".join(f"{count} {name}" for name, count in summary.status_counts.items())
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", title=title)
    for stage, times in summary.stages.items():
        table.add_row(stage, f"{times.p50_ms:.3f}", f"{times.p95_ms:.3f}", f"{times.p99_ms:.3f}")
    console = _console()
    console.print(table)
    console.print(
        f"{summary.frames} frames ({statuses}), mean score {summary.mean_score:.3f}, {summary.fps:.1f} fps with {engine}",
        highlight=False,
    )


def _console() -> Console:
    from rich.console import Console

    return Console()


if __name__ == "__main__":
    main()
