"""bands: which bands of a hyperspectral target a tracker looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import BundleArgument, InitOption, first_box, stdout_console
from trackctl.runtime.errors import InputError

if TYPE_CHECKING:
    from trackctl.evaluation.band_picture import BandReport


@app.command()
def bands(
    bundle: BundleArgument,
    source: Annotated[str, typer.Argument(help="hyperspectral source: mosaic:, cubes: or synth:hsi", show_default=False)],
    init: InitOption = None,
    out: Annotated[Path, typer.Option(help="picture; the numbers go into a .json of the same name")] = Path("bands.svg"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than a table")] = False,
) -> None:
    """Print and draw how important each band of the target in the first frame is."""
    from collections.abc import Mapping

    from trackctl.calibration.record import Tap
    from trackctl.evaluation.band_picture import BandReport
    from trackctl.runtime.atomic import write_whole
    from trackctl.runtime.bundle import Bundle
    from trackctl.runtime.contract import Array
    from trackctl.runtime.select import open_engines
    from trackctl.runtime.sources import open_source
    from trackctl.runtime.tracker import Tracker

    opened = Bundle.open(bundle)
    made: dict[str, Array] = {}

    def keep(_: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        made.update({name: tensor.copy() for name, tensor in outputs.items()})

    engines, _ = open_engines(opened, "onnxruntime", 1)
    manifest = opened.manifest
    with (
        open_source(source) as clip,
        Tracker(Tap(engines.template, keep), engines.search, crop=manifest.crop, channels=manifest.channels) as tracker,
    ):
        frame = next(iter(clip))
        if frame.sensor is None:
            raise InputError(f"got {clip.name}, which has no bands, expected a mosaic:, cubes: or synth:hsi source")
        tracker.init(frame, first_box(clip, init))
        report = BandReport.read(made, frame.sensor)
        title = f"{bundle.name} on {clip.name}"
    text = json.dumps(report.to_json(), indent=2)
    write_whole(out, (report.svg(title) + "\n").encode())
    write_whole(out.with_suffix(".json"), (text + "\n").encode())
    typer.echo(text) if as_json else _print_report(report, title)
    typer.echo(f"wrote {out} and {out.with_suffix('.json')}", err=as_json)


def _print_report(report: BandReport, title: str) -> None:
    from rich.table import Table

    table = Table("band", "importance", "composite", "", title=title)
    top = max(report.importance)
    for band in sorted(range(len(report.importance)), key=lambda band: -report.importance[band]):
        composite = report.composite_of(band)
        told = "dropped" if composite is None else f"{composite + 1} (weight {report.weights[composite]:.3f})"
        bar = "█" * round(24 * report.importance[band] / top)
        table.add_row(report.name(band), f"{report.importance[band]:.4f}", told, bar)
    stdout_console().print(table)
