"""Files that are there as a whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that readers see in its old or its new state, never in between; its folder is made.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder, because files in it get the usual permissions, which a temporary file would not.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        fresh = Path(work, path.name)
        fresh.write_bytes(content)
        fresh.replace(path)
