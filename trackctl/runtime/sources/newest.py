"""The newest frame of a camera, so that a slow tracker lags by one frame and never by a queue."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Condition, Thread

from trackctl.runtime.frame import Frame
from trackctl.runtime.sources import Source


class Newest(Source):
    """Another source read by a thread of its own; whoever iterates gets the newest frame, and older ones count as skipped.

    Overtaken frames are added to those that the source skipped itself. The thread owns the source once iteration has begun and
    closes it. An error of the source is raised after the last frame before it was delivered. Iterate once.

    Args:
        source: a live source.
        patience_s: how long ``close`` waits for a camera that is in the middle of a read.
    """

    def __init__(self, source: Source, *, patience_s: float = 2.0) -> None:
        self.name, self.fps, self.frame_hw = source.name, source.fps, source.frame_hw
        self._source = source
        self._patience_s = patience_s
        self._changed = Condition()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._ended = False
        self._stopped = False
        self._overtaken = 0
        # Daemon: a camera that never answers must not keep the process alive.
        self._thread = Thread(target=self._read, name="trackctl newest frame", daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        self._thread.start()
        while True:
            with self._changed:
                # A limit, because a wait without one hides Ctrl-C on Windows.
                while self._frame is None and not self._ended:
                    self._changed.wait(0.5)
                frame, self._frame = self._frame, None
            if frame is None:
                if self._error is not None:
                    raise self._error
                return
            yield frame

    def close(self) -> None:
        """Stop the thread and release the source."""
        with self._changed:
            self._stopped = True
        if self._thread.ident is None:
            self._source.close()
        else:
            self._thread.join(self._patience_s)

    def _read(self) -> None:
        try:
            for frame in self._source:
                with self._changed:
                    if self._stopped:
                        return
                    self._overtaken += self._frame is not None
                    self.skipped = self._overtaken + self._source.skipped
                    self._frame = frame
                    self._changed.notify()
        except Exception as error:  # raised again in the thread that iterates
            self._error = error
        finally:
            self._source.close()
            with self._changed:
                self._ended = True
                self._changed.notify()
