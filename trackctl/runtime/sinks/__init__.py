"""Where results go: one class per kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from trackctl.runtime.frame import Frame
    from trackctl.runtime.tracker import Result

AnySink = TypeVar("AnySink", bound="Sink")


class Sink(ABC):
    """Takes each frame with its result. A context manager: what was written is complete and readable after ``close``."""

    @abstractmethod
    def write(self, frame: Frame, result: Result) -> None:
        """Take one result.

        Raises:
            InputError: it cannot be written.
        """

    def write_targets(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Take the results of several targets by their numbers; a sink that does not tell them apart gets them one by one.

        Raises:
            InputError: they cannot be written.
        """
        for result in results.values():
            self.write(frame, result)

    def close(self) -> None:  # noqa: B027 (a sink may hold nothing open)
        """Finish what was written. May be called twice."""

    def __enter__(self: AnySink) -> AnySink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
