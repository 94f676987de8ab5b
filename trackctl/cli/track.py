"""track, profile, doctor: what runs on the device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import (
    RENDERED,
    BundleArgument,
    FramesOption,
    InitsOption,
    RuntimeOption,
    ThreadsOption,
    first_boxes,
    open_tracker,
    open_trackers,
    rendered_source,
    stdout_console,
)
from trackctl.runtime.geometry import Box

if TYPE_CHECKING:
    from trackctl.runtime.frame import Frame
    from trackctl.runtime.loop import Summary
    from trackctl.runtime.multi import MultiTracker
    from trackctl.runtime.sinks import Sink
    from trackctl.runtime.sources import Source
    from trackctl.runtime.tracker import Result, Tracker

SourceArgument = Annotated[
    str | None,
    typer.Argument(help="video, image folder, .npy or TIFF stack; or mosaic:, cubes:, pair:, synth:", show_default=RENDERED),
]


@app.command()
def track(
    bundle: Annotated[Path, typer.Option("--bundle", help="bundle folder of the tracker", show_default=False)],
    source: SourceArgument = None,
    init: InitsOption = None,
    save: Annotated[Path | None, typer.Option(help="write the annotated video here")] = None,
    jsonl: Annotated[
        Path | None, typer.Option(help="write one JSON line per frame here, and per target if there are several")
    ] = None,
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    frames: FramesOption = None,
) -> None:
    """Follow a target through a clip, or several with a bundle made for them."""
    from trackctl.runtime.sinks.jsonl import JsonLinesSink
    from trackctl.runtime.sinks.video import VideoSink

    with _opened(bundle, source, init, runtime, threads) as (clip, tracker, boxes):
        sinks: list[Sink] = []
        if jsonl is not None:
            sinks.append(JsonLinesSink(jsonl))
        if save is not None:
            sinks.append(VideoSink(save, clip.fps))
        summary = _run(clip, tracker, boxes, sinks, frames)
        _print_summary(f"{bundle.name} on {clip.name}", tracker.engine_name, summary)
    for path in (save, jsonl):
        if path is not None:
            typer.echo(f"wrote {path}")


@app.command()
def profile(
    bundle: BundleArgument,
    source: Annotated[str | None, typer.Option("--source", help="clip to track", show_default=RENDERED)] = None,
    init: InitsOption = None,
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    frames: FramesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False,
) -> None:
    """Measure every stage of a bundle on this machine: p50, p95, p99 and frames per second."""
    with _opened(bundle, source, init, runtime, threads) as (clip, tracker, boxes):
        summary = _run(clip, tracker, boxes, [], frames, quiet=as_json)
        if as_json:
            report = {"bundle": bundle.name, "engine": tracker.engine_name, "source": clip.name, **asdict(summary)}
            typer.echo(json.dumps(report, indent=2))
        else:
            _print_summary(f"{bundle.name} on {clip.name}", tracker.engine_name, summary)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False) -> None:
    """Say what this machine has, what is missing and how to get it."""
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
    stdout_console().print(table)


@contextmanager
def _opened(
    bundle: Path, source: str | None, init: list[str] | None, runtime: str, threads: int | None
) -> Iterator[tuple[Source, Tracker | MultiTracker, list[Box]]]:
    """The clip, the tracker for as many targets as the bundle has, and their first boxes."""
    from trackctl.runtime.bundle import Bundle
    from trackctl.runtime.sources import open_source

    with open_source(source or rendered_source(Bundle.open(bundle).manifest.channels)) as clip:
        targets = Bundle.open(bundle).manifest.targets
        boxes = first_boxes(clip, init, bundle, targets)
        with (open_tracker if targets == 1 else open_trackers)(bundle, runtime, threads) as tracker:
            yield clip, tracker, boxes


def _run(
    clip: Source,
    tracker: Tracker | MultiTracker,
    boxes: list[Box],
    sinks: list[Sink],
    frames: int | None,
    *,
    quiet: bool = False,
) -> Summary:
    """Track with a progress bar on stderr; an interrupt ends the run like the end of the clip."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trackctl.runtime.loop import track as run
    from trackctl.runtime.loop import track_targets
    from trackctl.runtime.tracker import Tracker

    columns = (
        TextColumn("tracking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    total = clip.count if frames is None else min(frames, clip.count or frames)
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("tracking", total=total, status="")

        def show(_: Frame, result: Result) -> None:
            progress.update(task, advance=1, status=f"{result.status.value} {result.score:.2f}")

        def show_all(_: Frame, results: Mapping[int, Result]) -> None:
            told = ", ".join(f"{target} {result.status.value}" for target, result in results.items())
            progress.update(task, advance=1, status=told)

        if isinstance(tracker, Tracker):
            return run(clip, tracker, boxes[0], sinks, on_frame=show, max_frames=frames)
        return track_targets(clip, tracker, boxes, sinks, on_frame=show_all, max_frames=frames)


def _print_summary(title: str, engine: str, summary: Summary) -> None:
    from rich.table import Table

    statuses = ", ".join(f"{count} {name}" for name, count in summary.status_counts.items())
    many = f" of {summary.targets} targets" if summary.targets > 1 else ""
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", title=title)
    for stage, times in summary.stages.items():
        table.add_row(stage, f"{times.p50_ms:.3f}", f"{times.p95_ms:.3f}", f"{times.p99_ms:.3f}")
    console = stdout_console()
    console.print(table)
    console.print(
        f"{summary.frames} frames{many} ({statuses}), mean score {summary.mean_score:.3f}, {summary.fps:.1f} fps with {engine}",
        highlight=False,
    )
