"""The command line: the only room that prints. Heavy imports stay inside the commands.

bands.py      bands
calibrate.py  calibrate
rig.py        rig
export.py     export, verify, models
track.py      track, profile, doctor
evaluate.py   eval, compare, serve-trax
train.py      train
tune.py       tune
fuse.py       fuse, export-fusion
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trackctl import __version__
from trackctl.runtime.errors import TrackctlError

app = typer.Typer(
    help="Single-object tracking on thermal, RGB-T and hyperspectral cameras: train, export, calibrate, track, profile.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)


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


# The modules below add their commands to the application above.
from trackctl.cli import bands, calibrate, evaluate, export, fuse, rig, track, train, tune  # noqa: E402, F401
