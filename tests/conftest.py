"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: this test needs real data")
    return SHARED
