"""trackctl: single-object tracking on thermal, RGB-T and hyperspectral cameras at the edge.

>>> import trackctl
>>> tracker = trackctl.Tracker.open("out/dcfg-edge-fp16.trk")  # doctest: +SKIP
>>> tracker.init(frame, (120, 80, 40, 30))  # doctest: +SKIP
>>> result = tracker.update(frame)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trackctl.runtime.errors import TrackctlError
    from trackctl.runtime.geometry import Box
    from trackctl.runtime.tracker import Result, Tracker

__all__ = ["Box", "Result", "TrackctlError", "Tracker", "__version__"]

_HOME = {
    "Box": "trackctl.runtime.geometry",
    "Result": "trackctl.runtime.tracker",
    "Tracker": "trackctl.runtime.tracker",
    "TrackctlError": "trackctl.runtime.errors",
}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use so that ``import trackctl`` stays instant."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'trackctl' has no attribute {name!r}")
