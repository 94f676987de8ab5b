"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread per test process: the suite runs one process per core, and threads that wait for each other cost eight times more.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: this test needs real data")
    return SHARED
