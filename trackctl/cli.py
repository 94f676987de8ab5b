"""The command line: the only module that prints. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackctl import __version__
from trackctl.runtime.errors import InputError, TrackctlError
from trackctl.runtime.geometry import Box

if TYPE_CHECKING:
    from rich.console import Console

    from trackctl.export.verify import Report
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

DEFAULT_FRAMES = ["640x512"]

BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, such as out/dcfg-edge-fp16.trk", show_default=False)]
InitOption = Annotated[str | None, typer.Option("--init", help="first box: left,top,width,height in pixels")]
RuntimeOption = Annotated[str, typer.Option("--runtime", help="auto (measured on this machine), openvino or onnxruntime")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of the engine")]
FramesOption = Annotated[int | None, typer.Option("--frames", min=2, help="stop after this many frames")]


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
def export(
    model: Annotated[
        str | None, typer.Argument(help="a name from trackctl models; none: the default", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option("--engine", help="precision of the engine: fp32, fp16 or int8")] = "fp32",
    weights: Annotated[Path | None, typer.Option(help=".safetensors of ours, or .npz with the authors' keys")] = None,
    out: Annotated[Path, typer.Option(help="folder for the bundle")] = Path("out"),
    frame: Annotated[
        list[str], typer.Option(help="make frame graphs for WIDTHxHEIGHT[:gray8|bgr8|gray16]; may be repeated")
    ] = DEFAULT_FRAMES,
    calibration: Annotated[str, typer.Option(help="clip to verify on, and to take the ranges of int8 from")] = "synth:",
    init: InitOption = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="most frames of that clip to use")] = 100,
    tensorrt: Annotated[bool, typer.Option("--tensorrt/--no-tensorrt", help="also build TensorRT engines where possible")] = True,
    force: Annotated[bool, typer.Option("--force", help="write the bundle even if it fails its verification")] = False,
) -> None:
    """Split a model into graphs, lower its precision, prove it against PyTorch and write a bundle."""
    from trackctl.calibration.footage import Footage
    from trackctl.export.frame_graph import FrameFormat
    from trackctl.export.pipeline import Calibration
    from trackctl.export.pipeline import export as run
    from trackctl.runtime.engines.tensorrt import ADVICE, installed_kinds
    from trackctl.runtime.sources import open_source
    from trackctl.training.zoo import DEFAULT_MODEL

    formats = [FrameFormat.parse(text) for text in frame]
    with open_source(calibration) as clip, _spinner() as tell:
        footage = Footage(source=clip, box=first_box(clip, init), frames=frames)
        exported = run(
            model or DEFAULT_MODEL,
            out=out,
            precision=precision,  # type: ignore[arg-type]
            weights=weights,
            frames=formats,
            calibration=Calibration(footage=footage) if precision == "int8" else None,
            footage=footage,
            engines=installed_kinds() if tensorrt else (),
            force=force,
            progress=tell,
        )
    if exported.report is not None:
        _print_report(exported.report)
    if exported.untrained:
        typer.echo(f"warning: no weights of {model} are shipped and none were given: it will not track (--weights)", err=True)
    if precision == "int8" and calibration.startswith("synth:"):
        typer.echo("note: int8 ranges come from a rendered clip; give --calibration CLIP --init BOX of your camera", err=True)
    for built in exported.engines:
        typer.echo(f"built {built.path.name} in {built.seconds:.1f} s, {built.size_bytes / 1e6:.1f} MB")
    if tensorrt and not installed_kinds():
        typer.echo(f"no TensorRT library here, so no engine was built; the ONNX bundle works without: {ADVICE['tensorrt_rtx']}")
    typer.echo(f"wrote {exported.bundle.path}")


@app.command()
def verify(
    bundle: BundleArgument,
    source: Annotated[str, typer.Option("--source", help="clip to compare on; synth: renders one")] = "synth:",
    init: InitOption = None,
    weights: Annotated[
        Path | None, typer.Option(help="the weights the bundle was exported from, if not the shipped ones")
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="most frames to compare")] = 100,
) -> None:
    """Compare every graph of a bundle with PyTorch, tensor by tensor and box by box; exit 1 if it drifts too far."""
    from trackctl.calibration.footage import Footage
    from trackctl.export.pipeline import model_of
    from trackctl.export.verify import verify as run
    from trackctl.runtime.bundle import Bundle
    from trackctl.runtime.sources import open_source

    opened = Bundle.open(bundle)
    model = model_of(opened, weights)
    with open_source(source) as clip, _spinner() as tell:
        report = run(opened, model, Footage(source=clip, box=first_box(clip, init), frames=frames), progress=tell)
    _print_report(report)
    if report.failures:
        raise typer.Exit(1)


@app.command()
def track(
    source: Annotated[str, typer.Argument(help="video, image folder, .npy or TIFF stack, or synth:", show_default=False)],
    bundle: Annotated[Path, typer.Option("--bundle", help="bundle folder of the tracker", show_default=False)],
    init: InitOption = None,
    save: Annotated[Path | None, typer.Option(help="write the annotated video here")] = None,
    jsonl: Annotated[Path | None, typer.Option(help="write one JSON line per frame here")] = None,
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


def _print_report(report: Report) -> None:
    from rich.table import Table

    table = Table("graphs", "tensor", "max abs diff", "relative", title=f"{report.precision} on {report.engine} beside PyTorch")
    for cut, drift in report.cuts.items():
        for name, difference in drift.tensors.items():
            table.add_row(cut, name, f"{difference.absolute:.2e}", f"{difference.mixed:.2e}")
    console = _console()
    console.print(table)
    for cut, drift in report.cuts.items():
        console.print(
            f"{cut}: {drift.frames} frames of {report.footage}: mean IoU with PyTorch {drift.step_iou:.4f} step by step, "
            f"{drift.loop_iou:.4f} in closed loop",
            highlight=False,
        )
    for failure in report.failures:
        console.print(f"[red]beyond the budget[/] {failure}", highlight=False)


@contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr; yields the function that changes its text."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


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
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
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
