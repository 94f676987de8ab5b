"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One thread per test process: the suite runs one process per core, and threads that wait for each other cost eight times more.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Exporting a model makes millions of objects; looking for cycles among them every few hundred takes its time.
gc.set_threshold(100_000, 20, 20)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: the quick ones then fill the gaps, and no process waits for another's last long test."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What the imports made stays: no need to look for cycles in it each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: this test needs real data")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def graphs_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All tests of a run share what was exported, if any of them exports."""
    if "trackctl.export.graphs" not in sys.modules:
        yield
        return
    from one_export import one_export

    base = tmp_path_factory.getbasetemp()
    with one_export((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"):
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls trackctl with arguments; returns exit code, stdout and stderr."""
    from trackctl.cli import main  # the runtime is also tested where the command line is not installed

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["trackctl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call
