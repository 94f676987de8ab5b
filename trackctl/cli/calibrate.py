"""calibrate: a bundle in the precision that is best here, within a drift budget, with the reasons."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import RENDERED, ThreadsOption, first_box, rendered_source, spinner, stdout_console
from trackctl.runtime.errors import InputError

if TYPE_CHECKING:
    from trackctl.calibration.footage import Footage
    from trackctl.export.calibrate import Calibrated

# Layers shown in the terminal; the report has them all.
SHOWN_LAYERS = 12


@app.command()
def calibrate(
    model: Annotated[
        str | None, typer.Argument(help="a name from trackctl models; none: the default", show_default=False)
    ] = None,
    clips: Annotated[
        list[str] | None, typer.Option("--clip", help="clip that the ranges come from; may be repeated", show_default=RENDERED)
    ] = None,
    init: Annotated[
        list[str] | None, typer.Option("--init", help="first box of each clip in turn: left,top,width,height in pixels")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="KIND:PATH of annotated clips to judge on; may be repeated", show_default="the clips"),
    ] = None,
    budget: Annotated[str, typer.Option(help="auc=LOSS of AUC in closed loop, or step=LOSS of IoU in one step")] = "auc=0.01",
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="minmax, entropy, percentile; of several the best", show_default="minmax"),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help=".safetensors of ours, or .npz with the authors' keys")] = None,
    out: Annotated[Path, typer.Option(help="folder for the bundle")] = Path("out"),
    frame: Annotated[
        list[str] | None, typer.Option(help="make frame graphs for WIDTHxHEIGHT[:gray8|bgr8|gray16]; may be repeated")
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=2, help="most frames of each clip to track")] = None,
    gray: Annotated[
        bool | None, typer.Option("--gray/--colour", help="patches of one channel or of three", show_default="as trained")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="write int8 if it keeps the budget, also where fp16 is as fast")] = False,
    runtime: Annotated[str, typer.Option("--runtime", help="auto, openvino or onnxruntime")] = "auto",
    threads: ThreadsOption = None,
    force: Annotated[bool, typer.Option("--force", help="write the bundle even if it fails its verification")] = False,
) -> None:
    """Find out which layers int8 hurts, keep those in float until a drift budget holds, and write the best bundle."""
    from trackctl.export.calibrate import calibrate as run
    from trackctl.export.frame_graph import FrameFormat
    from trackctl.export.int8 import DEFAULT_METHOD
    from trackctl.export.judge import Material
    from trackctl.export.plan import DriftBudget
    from trackctl.training.zoo import DEFAULT_MODEL, build

    name = model or DEFAULT_MODEL
    with ExitStack() as stack:
        calibrated_on = _clips(clips or [rendered_source(build(name).channels)], init or [], frames, stack)
        judged_on = [footage for text in judge or [] for footage in _annotated(text, frames, stack)]
        with spinner() as tell:
            result = run(
                name,
                Material(clips=calibrated_on, judged=judged_on or calibrated_on),
                out=out,
                weights=weights,
                budget=DriftBudget.parse(budget),
                methods=methods or [DEFAULT_METHOD],  # type: ignore[arg-type]
                frames=[FrameFormat.parse(text) for text in frame or []],
                gray=gray,
                int8=int8,
                engine=runtime,
                threads=threads,
                force=force,
                progress=tell,
            )
    _print_result(result)
    if result.exported.untrained:
        typer.echo(f"warning: no weights of {name} are shipped and none were given: it will not track (--weights)", err=True)
    if not clips:
        typer.echo("note: int8 ranges come from a rendered clip; give --clip CLIP --init BOX of your camera", err=True)
    typer.echo(f"wrote {result.exported.bundle.path}")


def _clips(uris: list[str], boxes: list[str], frames: int | None, stack: ExitStack) -> list[Footage]:
    """The calibration clips with their first boxes; the boxes go to the clips that do not know theirs, in turn."""
    from trackctl.calibration.footage import Footage
    from trackctl.runtime.sources import open_source

    left = list(boxes)
    footage = []
    for uri in uris:
        clip = stack.enter_context(open_source(uri))
        known = getattr(clip, "initial_box", None) is not None
        box = first_box(clip, None if known or not left else left.pop(0))
        footage.append(Footage(source=clip, box=box, truth_ltwh=getattr(clip, "boxes_ltwh", None), frames=frames))
    if left:
        raise InputError(f"got {len(boxes)} boxes for {len(uris)} clips, expected one --init for each that is no rendered one")
    return footage


def _annotated(text: str, frames: int | None, stack: ExitStack) -> list[Footage]:
    """The sequences of a data set."""
    from trackctl.calibration.footage import Footage
    from trackctl.evaluation.datasets import open_dataset

    footage = []
    for sequence in open_dataset(text).sequences:
        if sequence.clip is None:
            raise InputError(f"{text}: the sequence {sequence.name!r} has no images, expected clips to track: add them")
        source = stack.enter_context(sequence.clip.open())
        source.name = sequence.name  # the file of many is called video.avi
        footage.append(Footage(source=source, box=sequence.box(0), truth_ltwh=sequence.truth_ltwh, frames=frames))
    return footage


def _print_result(result: Calibrated) -> None:
    from rich.table import Column, Table

    console = stdout_console()
    if len(result.methods) > 1:
        table = Table("method", "box drift", "noise of the maps", title="all layers in int8")
        for method, drift in result.methods.items():
            table.add_row(method, f"{drift.boxes:.4f}", f"{drift.maps:.4f}")
        console.print(table)
    shown = sorted(result.layers, key=lambda found: -found.drift.boxes)[:SHOWN_LAYERS]
    title = f"the {len(shown)} of {len(result.layers)} layers that int8 hurts most, {result.method}"
    table = Table(Column("layer", no_wrap=True), "box drift", "noise of the maps", "in the plan", title=title)
    for found in shown:
        kept = "float" if found.layer in result.chosen.float_layers else result.chosen.name.split()[0]
        table.add_row(found.layer.name, f"{found.drift.boxes:.4f}", f"{found.drift.maps:.4f}", kept)
    console.print(table)
    table = Table("candidate", "layers in float", "box drift", "AUC lost", "budget", "ms", "by fp16", title="candidates")
    for each in result.candidates:
        lost = "" if each.loss is None else f"{each.loss:+.4f}"
        pace = ("", "") if each.ms is None else (f"{each.ms:.2f}", f"{each.against_fp16:.2f}")
        holds = "holds" if each.holds else "broken"
        table.add_row(each.name, str(len(each.float_layers)), f"{each.drift.boxes:.4f}", lost, holds, *pace)
    console.print(table)
    if any(len(each.auc) > 1 for each in result.candidates):
        clips = list(result.candidates[0].auc)
        table = Table("success AUC", *clips)
        for each in result.candidates:
            table.add_row(each.name, *(f"{each.auc[clip]:.3f}" for clip in clips))
        console.print(table)
    console.print(f"chosen: {result.chosen.name}, because {result.why}", highlight=False)
