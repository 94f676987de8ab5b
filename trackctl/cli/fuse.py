"""fuse, export-fusion: an infrared and a visible picture as one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import FramesOption, RuntimeOption, ThreadsOption, progress_bar, spinner, stdout_console
from trackctl.runtime.errors import InputError

if TYPE_CHECKING:
    from trackctl.evaluation.fusion import FusionScores
    from trackctl.runtime.fusion import Fuser

WeightsOption = Annotated[Path | None, typer.Option(help="LRRNet: .npz with the authors' names, or .safetensors of ours")]
EngineOption = Annotated[str, typer.Option("--engine", help="precision of the engine: fp32 or fp16")]


@app.command()
def fuse(
    ir: Annotated[str | None, typer.Argument(help="infrared image, folder, video or camera", show_default=False)] = None,
    vi: Annotated[str | None, typer.Argument(help="visible one, of the same kind", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="image, folder or video to write")] = None,
    weights: WeightsOption = None,
    graph: Annotated[Path | None, typer.Option(help="folder of trackctl export-fusion, instead of weights")] = None,
    precision: EngineOption = "fp32",
    rig: Annotated[Path | None, typer.Option(help="rig file, if the two videos or cameras are not registered")] = None,
    runtime: RuntimeOption = "auto",
    threads: ThreadsOption = None,
    frames: FramesOption = None,
    evaluate: Annotated[Path | None, typer.Option("--eval", help="score a folder with ir, vi and a folder of fused ones")] = None,
    method: Annotated[str | None, typer.Option(help="with --eval: the folder of fused images, if there are several")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="with --eval: print JSON rather than a table")] = False,
) -> None:
    """Fuse infrared and visible images, folders, videos or live cameras, or score fused images with --eval."""
    if evaluate is not None:
        _evaluate(evaluate, method, as_json)
        return
    if ir is None or vi is None or out is None:
        raise InputError("got no pair or no output, expected IR VI -o OUT, or --eval DIR: name all three")
    from trackctl.runtime.fusion import Fuser

    pairs = _image_pairs(Path(ir), Path(vi), out)
    folder = graph or _exported(weights, precision, _frame_hw(ir))
    with Fuser.open(folder, engine=runtime, threads=threads) as fuser:
        if pairs:
            _fuse_images(fuser, pairs[:frames])
        else:
            _fuse_videos(fuser, ir, vi, out, rig, frames)
    typer.echo(f"wrote {out}")


@app.command("export-fusion")
def export_fusion(
    out: Annotated[Path, typer.Argument(help="folder for trackctl fuse, or FILE.onnx for one graph of whole pictures")],
    weights: WeightsOption = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the pictures; none: any, in a .onnx alone")] = None,
    precision: EngineOption = "fp32",
) -> None:
    """Export the fusion network: tiles for CPUs, or one ONNX graph of whole pictures for GPUs."""
    from trackctl.export.frame_graph import FrameFormat
    from trackctl.export.fusion import export_frame_fusion, write_fusion
    from trackctl.runtime.atomic import write_whole
    from trackctl.training.lrrnet import LRRNet
    from trackctl.training.weights import load_weights

    frame_hw = FrameFormat.parse(size).frame_hw if size else None
    given, model = _given(weights), LRRNet()
    with spinner() as tell:
        tell("exporting")
        if out.suffix == ".onnx":
            load_weights(model, given)
            onnx = export_frame_fusion(model.eval(), frame_hw, precision=precision)  # type: ignore[arg-type]
            write_whole(out, onnx.SerializeToString(deterministic=True))
        else:
            write_fusion(out, model, given, frame_hw=frame_hw or (512, 640), precision=precision)  # type: ignore[arg-type]
    typer.echo(f"wrote {out}")


def _given(weights: Path | None) -> Path:
    if weights is None:
        raise InputError("got no weights of LRRNet, none are shipped: give the authors' tensors as .npz with --weights")
    return weights


def _exported(weights: Path | None, precision: str, frame_hw: tuple[int, int]) -> Path:
    """The folder of the exported weights, made at the first call and remembered."""
    from trackctl import __version__
    from trackctl.runtime.errors import BundleError
    from trackctl.runtime.fusion_bundle import FusionBundle
    from trackctl.runtime.select import cache_folder

    given = _given(weights)
    try:
        from trackctl.training.weights import weights_sha256
    except ImportError as error:
        from trackctl.runtime.errors import MissingDependency

        raise MissingDependency("torch", "fusing with --weights", "export") from error
    digest, (height, width) = weights_sha256(given)[:16], frame_hw
    folder = cache_folder() / "fusion" / f"{digest}-{__version__}-{precision}-{width}x{height}.fuse"
    try:
        FusionBundle.open(folder)
    except BundleError:
        from trackctl.export.fusion import write_fusion
        from trackctl.training.lrrnet import LRRNet

        with spinner() as tell:
            tell("exporting, once for these weights and this size")
            write_fusion(folder, LRRNet(), given, frame_hw=frame_hw, precision=precision)  # type: ignore[arg-type]
    return folder


def _frame_hw(ir: str) -> tuple[int, int]:
    from trackctl.runtime.sources import open_source

    with open_source(ir) as source:
        return source.frame_hw


def _image_pairs(ir: Path, vi: Path, out: Path) -> list[tuple[Path, Path, Path]]:
    """The files to read and to write, if images or folders of them were given; else none."""
    from trackctl.runtime.sinks.fused import CODECS
    from trackctl.runtime.sources.images import SUFFIXES, list_images

    if all(path.is_file() and path.suffix.lower() in SUFFIXES for path in (ir, vi)):
        return [(ir, vi, out / ir.name if out.is_dir() else out)]
    if not (ir.is_dir() and vi.is_dir()) or out.suffix.lower() in CODECS:
        return []
    visible = {path.stem: path for path in list_images(vi)}
    pairs = [(path, visible[path.stem], out / f"{path.stem}.png") for path in list_images(ir) if path.stem in visible]
    if not pairs:
        raise InputError(f"got {ir} and {vi}, which share no image name: expected pairs of equal names")
    return pairs


def _fuse_images(fuser: Fuser, pairs: list[tuple[Path, Path, Path]]) -> None:
    import cv2

    from trackctl.runtime.atomic import write_whole
    from trackctl.runtime.sources.images import SUFFIXES, read_image

    with progress_bar("fusing") as advance:
        for done, (ir, vi, out) in enumerate(pairs, start=1):
            if out.suffix.lower() not in SUFFIXES:
                raise InputError(f"got the output {out}, expected a name that ends in one of {', '.join(SUFFIXES)}")
            _, data = cv2.imencode(out.suffix, fuser.fuse(read_image(ir), read_image(vi)))
            write_whole(out, data.data)
            advance(ir.stem, done, len(pairs))


def _fuse_videos(fuser: Fuser, ir: str, vi: str, out: Path, rig: Path | None, frames: int | None) -> None:
    from trackctl.runtime.fusion_loop import fuse_pairs
    from trackctl.runtime.sinks.fused import FusedVideo
    from trackctl.runtime.sources.pair import PairSpec, open_pair

    with open_pair(PairSpec(visible=vi, thermal=ir, rig=rig)) as pairs, FusedVideo(out, pairs.fps) as video:
        summary = fuse_pairs(pairs, fuser, video.write, max_frames=frames)
    typer.echo(f"{summary.frames} pairs, {summary.fuse_ms:.0f} ms each with {fuser.engine.name}, {summary.fps:.2f} fps in all")
    for camera, count in summary.missing.items():
        typer.echo(f"{count} pairs lacked the {camera} camera and show the other one alone", err=True)


def _evaluate(folder: Path, method: str | None, as_json: bool) -> None:
    from rich.table import Table

    from trackctl.evaluation.fusion import evaluate_folder, mean_scores

    with progress_bar("scoring") as advance:
        scores = evaluate_folder(folder, method, advance)
    rows: dict[str, FusionScores] = {**scores, "mean": mean_scores(scores)}
    if as_json:
        typer.echo(json.dumps({name: asdict(score) for name, score in rows.items()}, indent=2))
        return
    console = stdout_console()
    for title, kind in (("by definition", "textbook"), ("as published tables compute them", "published")):
        columns = {name: getattr(score, kind) for name, score in rows.items()}
        table = Table("image", *columns["mean"], title=title)
        for name, values in columns.items():
            table.add_row(name, *(f"{value:.4f}" for value in values.values()), end_section=name == list(scores)[-1])
        console.print(table)
