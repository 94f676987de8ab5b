"""The tree of errors that trackctl raises on purpose.

    TrackctlError
    ├── InputError          a box, frame, file or option the user gave is wrong
    │   ├── BoxError
    │   ├── FrameError
    │   └── SourceError     a video, folder or camera cannot be read
    ├── BundleError         a bundle is missing, truncated, tampered with or too new
    ├── EngineError         an engine cannot load or run a graph
    ├── WeightsError        a checkpoint does not fit the model
    ├── ExportError         a graph does not track like its model
    └── MissingDependency   an optional package is not installed

Every message is one line: what was got, what was expected, what to do.
"""

from __future__ import annotations


class TrackctlError(Exception):
    """Base of all errors that trackctl raises on purpose; the CLI prints it as one line and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InputError(TrackctlError, ValueError):
    """Something the user gave is wrong."""


class BoxError(InputError):
    """A box is empty, not finite or outside the frame."""


class FrameError(InputError):
    """A frame has the wrong shape, dtype or size."""


class SourceError(InputError):
    """A video, folder or camera cannot be read."""


class BundleError(TrackctlError):
    """A bundle is missing, truncated, tampered with or of another version."""


class EngineError(TrackctlError):
    """An engine cannot load or run a graph."""


class WeightsError(TrackctlError):
    """A checkpoint does not fit the model."""


class ExportError(TrackctlError):
    """A graph does not track like its model."""


class MissingDependency(TrackctlError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: pip install 'trackctl[{extra}]'")
