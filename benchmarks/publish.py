"""How every benchmark ends: its table on the terminal and, with --out, in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def publish(lines: Sequence[str], out: Path | None) -> None:
    """Print the lines and write them to ``out`` if it is given."""
    text = "\n".join(lines)
    print(text)
    if out:
        out.write_text(text + "\n")
