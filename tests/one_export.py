"""One export for each graph of a run of the suite: exporting takes long, and many tests need the graphs of the same module."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import onnx
import torch
from torch import Tensor
from torch.onnx._internal.exporter._registration import ONNXRegistry

from trackctl.runtime.atomic import write_whole

# Graphs of this size, bytes, are those of the ResNet-50s, which one test each exports: not worth the disk.
LARGE = 32 << 20


class Content(pickle.Pickler):
    """Pickles by value alone: equal modules give equal bytes, whichever objects they share and in whichever process."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True  # no references back to what was met before

    def persistent_id(self, value: Any) -> Any:
        """What stands for tensors, whose own pickles name their storage, and for sets, which have an order in each process."""
        if isinstance(value, Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return type(value).__name__, str(value.dtype), tuple(value.shape), value.stride(), hashlib.sha256(data).digest()
        return sorted(value) if isinstance(value, set) else None


def content(*values: Any) -> str:
    """The checksum of what the values are."""
    file = io.BytesIO()
    Content(file).dump(values)
    return hashlib.sha256(file.getbuffer()).hexdigest()


@contextmanager
def one_export(folder: Path) -> Iterator[None]:
    """Makes ``torch.onnx.export`` give what it gave before for the same module and arguments, in any process with that folder.

    ``torch.onnx.export.__wrapped__`` is the exporter itself. Its table of operators, which it reads each time, is read once.
    """
    export = torch.onnx.export

    @wraps(export)
    def remembered(module: torch.nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> Any:
        try:
            path = folder / content(module, inputs, sorted(options.items()))
        except (pickle.PicklingError, AttributeError, ValueError):  # a class of a test's own body, or a cycle
            return export(module, inputs, **options)
        if path.exists():
            return SimpleNamespace(model_proto=onnx.ModelProto.FromString(path.read_bytes()))
        program = export(module, inputs, **options)
        assert program is not None
        graph = program.model_proto
        if graph.ByteSize() < LARGE:
            write_whole(path, graph.SerializeToString())
        return SimpleNamespace(model_proto=graph)

    table = staticmethod(cache(ONNXRegistry.from_torchlib))
    with patch("torch.onnx.export", remembered), patch.object(ONNXRegistry, "from_torchlib", table):
        yield
