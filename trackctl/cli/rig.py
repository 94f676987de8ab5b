"""rig: how the thermal picture of a pair of cameras lies in the visible one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackctl.cli import app
from trackctl.cli.screen import stdout_console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trackctl.runtime.geometry import Float64Array


@app.command()
def rig(
    out: Annotated[Path, typer.Argument(help="rig file to write, such as rig.json", show_default=False)],
    visible: Annotated[list[Path], typer.Option(help="picture of the visible camera; repeat for more views", show_default=False)],
    thermal: Annotated[
        list[Path], typer.Option(help="picture of the thermal camera at the same moment; as often", show_default=False)
    ],
    points: Annotated[
        Path | None, typer.Option(help="text file, per line thermal x, thermal y, visible x, visible y in pixels")
    ] = None,
    board: Annotated[str | None, typer.Option(help="find a checkerboard of so many inner corners, such as 9x6")] = None,
    circles: Annotated[str | None, typer.Option(help="find a grid of heated circles or holes, such as 7x5")] = None,
    picture: Annotated[Path | None, typer.Option(help="write the two pictures laid over each other here")] = None,
) -> None:
    """Find the homography between two mounted cameras from point pairs or from a board that both see, and store it."""
    import cv2
    import numpy as np

    from trackctl.runtime.errors import InputError
    from trackctl.runtime.rig import Rig, rig_picture

    if sum(option is not None for option in (points, board, circles)) != 1:
        raise InputError("got none or several of --points, --board and --circles, expected one of them: say where the points are")
    if len(visible) != len(thermal):
        raise InputError(f"got {len(visible)} visible and {len(thermal)} thermal pictures, expected as many: one pair per moment")
    pairs = [(_read(first), _read(second)) for first, second in zip(visible, thermal, strict=True)]
    sizes = {(_wh(first), _wh(second)) for first, second in pairs}
    if len(sizes) > 1:
        raise InputError("got pictures of several sizes, expected one size per camera: take those of one mode")
    visible_wh, thermal_wh = sizes.pop()
    seen, wanted = _read_points(points) if points is not None else _on_boards(pairs, thermal, board or circles or "", circles)
    made, kept = Rig.fit(seen, wanted, thermal_wh=thermal_wh, visible_wh=visible_wh)
    made.save(out)
    if picture is not None and not cv2.imwrite(str(picture), rig_picture(made, *pairs[0], seen[kept], wanted[kept])):
        raise InputError(f"cannot write {picture}: give a .png in a folder that exists")
    console = stdout_console()
    console.print(
        f"{made.points} of {len(seen)} points agree, reprojection error {made.error_px:.2f} px (rms, in the visible picture)",
        highlight=False,
    )
    if (dropped := int(np.sum(~kept))) > 0:
        console.print(f"{dropped} points were left out as mistakes", highlight=False)
    for path in (out, picture):
        if path is not None:
            typer.echo(f"wrote {path}")


def _read(path: Path) -> NDArray[np.uint8]:
    """A picture of 8 bits; 16-bit counts are spread over the grey levels."""
    import cv2
    import numpy as np

    from trackctl.runtime.errors import InputError
    from trackctl.runtime.tone import ToneMapper

    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if pixels is None:
        raise InputError(f"cannot read the picture {path}: check the path")
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        return ToneMapper.apply(pixels, *ToneMapper().update(pixels))
    shown: NDArray[np.uint8] = pixels[:, :, :3].astype(np.uint8) if pixels.ndim == 3 else pixels.astype(np.uint8)
    return np.ascontiguousarray(shown)


def _wh(picture: NDArray[np.uint8]) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def _read_points(path: Path) -> tuple[Float64Array, Float64Array]:
    import numpy as np

    from trackctl.runtime.errors import InputError

    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
        table = np.array([[float(part) for part in re.split(r"[,;\s]+", line.strip())] for line in lines], dtype=np.float64)
    except OSError as error:
        raise InputError(f"cannot read the points {path}: {error.strerror}: check the path") from error
    except ValueError as error:
        raise InputError(f"cannot read the points {path} ({error}): expected four numbers per line") from error
    if table.ndim != 2 or table.shape[1] != 4:
        raise InputError(f"got {path}, expected per line four numbers: thermal x, thermal y, visible x, visible y")
    return table[:, :2], table[:, 2:]


def _on_boards(
    pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], names: list[Path], text: str, circles: str | None
) -> tuple[Float64Array, Float64Array]:
    import numpy as np

    from trackctl.runtime.errors import InputError
    from trackctl.runtime.rig import board_points

    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(int(match[1]), int(match[2])) < 2:
        raise InputError(f"got the board {text!r}, expected the points across and down, such as 9x6")
    found = []
    for (first, second), name in zip(pairs, names, strict=True):
        points = board_points(first, second, (int(match[1]), int(match[2])), circles=circles is not None)
        if points is None:
            typer.echo(f"note: {name.name} and its partner do not both show the whole board; they are left out", err=True)
        else:
            found.append(points)
    if not found:
        raise InputError(
            f"found no board of {text} that both cameras see whole, expected one: move it, heat it, or give --points"
        )
    seen, wanted = (np.concatenate(side) for side in zip(*found, strict=True))
    return seen, wanted
