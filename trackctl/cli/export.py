"""export, verify, models: from a checkpoint to a proven bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import RENDERED, BundleArgument, InitOption, first_box, rendered_source, spinner, stdout_console

if TYPE_CHECKING:
    from trackctl.calibration.footage import Footage
    from trackctl.export.verify import Report
    from trackctl.runtime.sources import Source

DEFAULT_FRAMES = ["640x512"]


@app.command()
def export(
    model: Annotated[
        str | None, typer.Argument(help="a name from trackctl models; none: the default", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option("--engine", help="precision of the engine: fp32, fp16 or int8")] = "fp32",
    weights: Annotated[Path | None, typer.Option(help=".safetensors of ours, or .npz with the authors' keys")] = None,
    out: Annotated[Path, typer.Option(help="folder for the bundle")] = Path("out"),
    frame: Annotated[
        list[str], typer.Option(help="make frame graphs for WIDTHxHEIGHT[:gray8|bgr8|gray16|pair8]; may be repeated")
    ] = DEFAULT_FRAMES,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="clip to verify on, and to take the ranges of int8 from",
            show_default=RENDERED,
        ),
    ] = None,
    init: InitOption = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="most frames of that clip to use")] = 100,
    tensorrt: Annotated[bool, typer.Option("--tensorrt/--no-tensorrt", help="also build TensorRT engines where possible")] = True,
    gray: Annotated[
        bool | None,
        typer.Option(
            "--gray/--colour", help="patches of one channel, faster; colour frames become gray", show_default="as trained"
        ),
    ] = None,
    targets: Annotated[int, typer.Option(min=1, help="targets that one search finds; several have no frame graphs")] = 1,
    force: Annotated[bool, typer.Option("--force", help="write the bundle even if it fails its verification")] = False,
) -> None:
    """Split a model into graphs, lower its precision, prove it against PyTorch and write a bundle."""
    from trackctl.export.frame_graph import FrameFormat
    from trackctl.export.pipeline import Calibration
    from trackctl.export.pipeline import export as run
    from trackctl.runtime.engines.tensorrt import ADVICE, installed_kinds
    from trackctl.runtime.frame import CHANNELS, PAIR8
    from trackctl.runtime.sensor import LEAST_BANDS
    from trackctl.runtime.sources import open_source
    from trackctl.training.zoo import DEFAULT_MODEL, build

    channels = build(model or DEFAULT_MODEL).channels
    calibration = calibration or rendered_source(channels)
    formats = [FrameFormat.parse(text) for text in frame] if targets == 1 or frame != DEFAULT_FRAMES else []
    if frame == DEFAULT_FRAMES and channels >= LEAST_BANDS:
        formats = []  # nobody but the user knows the camera's mosaic
    if frame == DEFAULT_FRAMES and channels == CHANNELS[PAIR8]:
        formats = [replace(form, layout=PAIR8) for form in formats]
    with open_source(calibration) as clip, spinner() as tell:
        footage = _footage(clip, init, frames)
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
            gray=gray,
            targets=targets,
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
    source: Annotated[
        str | None,
        typer.Option("--source", help="clip to compare on", show_default=RENDERED),
    ] = None,
    init: InitOption = None,
    weights: Annotated[
        Path | None, typer.Option(help="the weights the bundle was exported from, if not the shipped ones")
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=2, help="most frames to compare")] = 100,
) -> None:
    """Compare every graph of a bundle with PyTorch, tensor by tensor and box by box; exit 1 if it drifts too far."""
    from trackctl.export.pipeline import model_of
    from trackctl.export.verify import verify as run
    from trackctl.runtime.bundle import Bundle
    from trackctl.runtime.sources import open_source

    opened = Bundle.open(bundle)
    model = model_of(opened, weights)
    with open_source(source or rendered_source(opened.manifest.channels)) as clip, spinner() as tell:
        footage = _footage(clip, init, frames)
        report = run(opened, model, footage, progress=tell)
    _print_report(report)
    if report.failures:
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """List the models that can be exported."""
    from rich.table import Table

    from trackctl.training.zoo import DEFAULT_MODEL, MODELS

    table = Table("model", "what it is", "weights")
    for name, entry in MODELS.items():
        label = f"{name} (default)" if name == DEFAULT_MODEL else name
        table.add_row(label, entry.description, entry.weights_from)
    stdout_console().print(table)


def _footage(clip: Source, init: str | None, frames: int) -> Footage:
    """The clip with its first box, and with all boxes where a rendered clip knows them."""
    from trackctl.calibration.footage import Footage

    return Footage(source=clip, box=first_box(clip, init), truth_ltwh=getattr(clip, "boxes_ltwh", None), frames=frames)


def _print_report(report: Report) -> None:
    from rich.table import Table

    table = Table("graphs", "tensor", "max abs diff", "relative", title=f"{report.precision} on {report.engine} beside PyTorch")
    for cut, drift in report.cuts.items():
        for name, difference in drift.tensors.items():
            table.add_row(cut, name, f"{difference.absolute:.2e}", f"{difference.mixed:.2e}")
    console = stdout_console()
    console.print(table)
    for cut, drift in report.cuts.items():
        console.print(
            f"{cut}: {drift.frames} frames of {report.footage}: mean IoU with PyTorch {drift.step_iou:.4f} step by step, "
            f"{drift.loop_iou:.4f} in closed loop",
            highlight=False,
        )
        if drift.auc is not None and drift.reference_auc is not None:
            console.print(f"  success AUC {drift.auc:.3f}, PyTorch {drift.reference_auc:.3f}", highlight=False)
    for failure in report.failures:
        console.print(f"[red]beyond the budget[/] {failure}", highlight=False)
