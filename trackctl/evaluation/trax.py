"""A bundle as a tracker that the official VOT toolkit runs, over the TraX protocol.

Čehovin, TraX: The visual Tracking eXchange protocol and library, Neurocomputing 2017. The protocol itself is the official
library's (package ``vot-trax``). It talks over stdin and stdout, so nothing else may print there.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackctl.runtime.bundle import Bundle
from trackctl.runtime.errors import InputError, MissingDependency, TrackctlError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box
from trackctl.runtime.select import AUTO
from trackctl.runtime.sources import DEFAULT_FPS
from trackctl.runtime.sources.images import read_image
from trackctl.runtime.tracker import Tracker

if TYPE_CHECKING:
    from trackctl.runtime.loop import TracksFrames


def serve_trax(bundle: str | Path, *, engine: str = AUTO, threads: int | None = None) -> int:
    """Track for a client until it says goodbye; the number of frames that were tracked or learnt.

    Args:
        bundle: the bundle folder.
        engine: ``auto``, ``onnxruntime``, ``openvino``.
        threads: CPU threads of the engine.

    Raises:
        MissingDependency: ``vot-trax`` is not installed.
        InputError: there is no client, or it breaks the protocol.
        TrackctlError: the bundle or a frame is at fault; the client is told, too.
    """
    try:
        from trax import Image, Region, Server, TraxException  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingDependency("vot-trax", "the TraX protocol", "trax") from error
    manifest = Bundle.open(bundle).manifest
    with Tracker.open(bundle, engine=engine, threads=threads) as tracker:
        try:
            server = Server(
                [Region.RECTANGLE], [Image.PATH], tracker_name=manifest.system, tracker_description=manifest.precision
            )
        except TraxException as error:
            raise InputError(f"no TraX client answers ({error}): let the VOT toolkit start this command") from error
        try:
            frames = _serve(server, tracker)
        except TraxException as error:
            raise InputError(f"the TraX client broke off: {error}") from error
        except TrackctlError as error:
            server.quit(str(error))
            raise
        server.quit()
        return frames


def _serve(server: Any, tracker: TracksFrames) -> int:
    from trax import Rectangle, TraxStatus

    for index in count():
        request = server.wait()
        if request.type == TraxStatus.QUIT:
            return index
        frame = Frame(read_image(Path(request.image["color"].path())), round(index * 1e9 / DEFAULT_FPS), index)
        if request.type == TraxStatus.INITIALIZE:
            if len(request.objects) != 1:
                raise InputError(f"got {len(request.objects)} targets, expected one")
            region = request.objects[0][0]
            box, confidence = Box(*region.bounds()).checked(), 1.0
            tracker.init(frame, box)
        else:
            result = tracker.update(frame)
            box, confidence = result.box, result.score
        server.status([(Rectangle.create(*box), {"confidence": f"{confidence:.6f}"})])
    return 0
