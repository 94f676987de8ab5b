"""Checkpoints: ``.safetensors`` of ours, ``.npz`` of the authors' arrays. Neither can execute code, unlike pickled ``.pth``."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor, nn

from trackctl.runtime.errors import WeightsError

# safetensors writes its metadata in random order; as one entry the file's bytes depend on its content alone.
METADATA_KEY = "trackctl"
# How many tensor names an error message lists.
NAMED = 3


@runtime_checkable
class MapsKeys(Protocol):
    """A model whose authors published weights under other names or with parts that it does not need."""

    def map_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a checkpoint under this model's names. Its own names stay as they are.

        Raises:
            WeightsError: the checkpoint belongs to another model.
        """


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Fill the model's parameters and running statistics from a file; its metadata (empty for ``.npz``) is returned.

    Counters of training batches are not weights: they are neither needed nor kept.

    Args:
        model: of the architecture that the file holds. Unchanged if the file does not fit.
        path: ``.safetensors`` or ``.npz``.

    Raises:
        WeightsError: the file is missing, damaged, of another kind or does not fit the model.
    """
    file = _existing(path)
    tensors, metadata = _tensors_for(model, file)
    _fill(model, _state(model), tensors, file, metadata)
    return metadata


def start_from(model: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Fill a model that is about to be trained from a file that may lack whole top-level modules; the names of those, sorted.

    What is lacking keeps its initial weights, so only modules that the training reaches may lack; a frozen one would stay as the
    seed made it.

    Args:
        model: frozen where the training leaves it alone. Unchanged if the file does not fit.
        path: as for :func:`load_weights`.

    Raises:
        WeightsError: as :func:`load_weights`, except for such modules.
    """
    file = _existing(path)
    tensors, metadata = _tensors_for(model, file)
    own = _state(model)
    held = {_module_of(key) for key in tensors}
    frozen = {_module_of(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # An empty file fits nothing.
    lacking = {_module_of(key) for key in own} - held - frozen if held else set()
    _fill(model, {key: tensor for key, tensor in own.items() if _module_of(key) not in lacking}, tensors, file, metadata)
    return tuple(sorted(lacking))


def _tensors_for(model: nn.Module, file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights in a file under the model's names, and the file's metadata."""
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    if file.suffix not in readers:
        raise WeightsError(
            f"got the weights {file.name}, expected a .safetensors or .npz file: save a PyTorch checkpoint's "
            "state_dict as numpy arrays with numpy.savez"
        )
    tensors, metadata = readers[file.suffix](file)
    tensors = {key: value for key, value in tensors.items() if not _is_counter(key)}
    return (model.map_keys(tensors) if isinstance(model, MapsKeys) else tensors), metadata


def _fill(
    model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]
) -> None:
    """Copy a file's tensors into ``own``, those of the model that the file must hold."""
    if problems := _differences(own, tensors):
        held = f", which holds {metadata['system']}," if "system" in metadata else ""
        raise WeightsError(
            f"the weights {file.name}{held} do not fit the model {type(model).__name__}: {'; '.join(problems)}: "
            "use the file that was saved from this model, or the model that the file was saved from"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(tensors[key])


def _module_of(key: str) -> str:
    return key.partition(".")[0]


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the model's parameters and running statistics; equal weights and metadata give equal bytes.

    Args:
        model: left as it is.
        path: ``.safetensors`` file to write or replace. An interrupted write leaves the old file.
        metadata: provenance, such as ``{"system": "dcfg-edge"}``; errors quote ``system``, the name in the zoo.

    Raises:
        WeightsError: the suffix is another or the folder cannot be written.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise WeightsError(f"got the output {file.name}, expected a name that ends in .safetensors")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in _state(model).items()}
    content = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)})
    partial = file.with_name(f"{file.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        raise WeightsError(f"cannot write the weights {file}: {error.strerror}") from error


def weights_sha256(path: str | Path) -> str:
    """SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        WeightsError: there is no such file.
    """
    return hashlib.sha256(_existing(path).read_bytes()).hexdigest()


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"got the weights {file}, which is no file: check the path")
    return file


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in model.state_dict().items() if not _is_counter(key)}


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = dict(json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}")))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise WeightsError(f"cannot read the weights {file.name} ({error}): it is truncated or no safetensors file") from error
    return tensors, metadata


def _read_npz(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = {}
    try:
        # Not numpy.load: it leaves a damaged file open and takes a renamed .npy.
        with file.open("rb") as stream, NpzFile(stream, allow_pickle=False) as arrays:
            for key in arrays.files:
                array = arrays[key]
                if array.dtype.kind not in "fiu":
                    raise WeightsError(f"got the array {key!r} of {array.dtype} in {file.name}, expected numbers")
                # Checkpoints of data-parallel training carry the prefix.
                tensors[key.removeprefix("module.")] = torch.from_numpy(array.astype(np.float32))
    # RuntimeError is what zipfile raises for a member that seems encrypted or compressed by a method it does not know.
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"cannot read the weights {file.name}: it is truncated or no .npz file of plain arrays") from error
    return tensors, {}


def _differences(own: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``got`` from being loaded as ``own``; empty if nothing does."""
    shared = sorted(own.keys() & got.keys())
    shapes = [f"{key} {tuple(got[key].shape)} not {tuple(own[key].shape)}" for key in shared if got[key].shape != own[key].shape]
    not_finite = [key for key in shared if not bool(torch.isfinite(got[key]).all())]
    found = {
        "missing": sorted(own.keys() - got.keys()),
        "unknown": sorted(got.keys() - own.keys()),
        "of another shape": shapes,
        "not finite": not_finite,
    }
    return [f"{len(names)} {what} ({_first(names)})" for what, names in found.items() if names]


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (", ..." if len(listed) > NAMED else "")
