"""Options, tables and progress that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box

if TYPE_CHECKING:
    from rich.console import Console

    from trackctl.runtime.multi import MultiTracker
    from trackctl.runtime.sources import Source
    from trackctl.runtime.tracker import Tracker

BundleArgument = Annotated[Path, typer.Argument(help="bundle folder, such as out/dcfg-edge-fp16.trk", show_default=False)]
InitOption = Annotated[str | None, typer.Option("--init", help="first box: left,top,width,height in pixels")]
InitsOption = Annotated[
    list[str] | None,
    typer.Option("--init", help="first box: left,top,width,height in pixels; once per target, if there are several"),
]
RENDERED = "synth:, for pairs synth:pair, for bands synth:hsi"
RUNTIME_HELP = "auto (measured on this machine), openvino, onnxruntime; on an NVIDIA GPU tensorrt, tensorrt_rtx, onnxruntime_cuda"
RuntimeOption = Annotated[str, typer.Option("--runtime", help=RUNTIME_HELP)]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of the engine")]
FramesOption = Annotated[int | None, typer.Option("--frames", min=2, help="stop after this many frames")]


def first_box(source: Source, text: str | None) -> Box:
    """The first box: what the user gave, or the one that a rendered source knows."""
    if text is not None:
        return Box.parse(text)
    known: Box | None = getattr(source, "initial_box", None)
    if known is None:
        raise InputError(f"got no box for {source.name}, expected --init left,top,width,height on its first frame: add --init")
    return known


def first_boxes(source: Source, texts: list[str] | None, bundle: Path, targets: int) -> list[Box]:
    """The first box of each target; fewer than a bundle has room for are allowed, and said on stderr.

    Args:
        source: the clip.
        texts: what the user gave; without any, the box that a rendered source knows.
        bundle: for messages.
        targets: how many the bundle follows at a time.
    """
    boxes = [first_box(source, text) for text in texts] if texts else [first_box(source, None)]
    if len(boxes) > targets:
        raise InputError(
            f"got {len(boxes)} boxes for {bundle.name}, which follows {targets} at a time, expected as many or fewer: "
            f"leave out an --init, or export with --targets {len(boxes)}"
        )
    if len(boxes) < targets:
        typer.echo(
            f"note: got {len(boxes)} of the {targets} boxes that {bundle.name} has room for, expected an --init for each: "
            f"every frame costs as much as {targets}, give more or export with --targets {len(boxes)}",
            err=True,
        )
    return boxes


def rendered_source(channels: int) -> str:
    """The rendered clip for patches of so many channels: what commands use when no source is given."""
    from trackctl.runtime.frame import CHANNELS, PAIR8
    from trackctl.runtime.sensor import LEAST_BANDS

    if channels >= LEAST_BANDS:
        return f"synth:hsi?bands={channels}"
    return "synth:pair" if channels == CHANNELS[PAIR8] else "synth:"


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr; yields the function that changes its text."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def stdout_console() -> Console:
    """A console on stdout."""
    from rich.console import Console

    return Console()


def open_tracker(bundle: Path, runtime: str, threads: int | None) -> Tracker:
    """The tracker of a bundle; a bar on stderr shows the building of an engine, which may take minutes."""
    from trackctl.runtime.tracker import Tracker

    with progress_bar("opening") as told:
        return Tracker.open(bundle, engine=runtime, threads=threads, progress=told)


def open_trackers(bundle: Path, runtime: str, threads: int | None) -> MultiTracker:
    """The tracker of a bundle for several targets, otherwise as :func:`open_tracker`."""
    from trackctl.runtime.multi import MultiTracker

    with progress_bar("opening") as told:
        return MultiTracker.open(bundle, engine=runtime, threads=threads, progress=told)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr; yields the function that takes a name, how many are done and how many there are."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda name, done, total: progress.update(task, description=f"{what} {name}", completed=done, total=total)
