"""Frames that already lie in GPU memory: seen through ``__cuda_array_interface__`` or DLPack, never copied to the host.

PyTorch tensors, CuPy arrays and pycuda GPUArrays offer one of the two. DLPack comes first: through it the producer itself
makes our stream wait for its own.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.errors import FrameError

CUDA_DEVICES = (2, 13)  # kDLCUDA, kDLCUDAManaged (dlpack.h)
LEGACY_STREAM = 1  # the default stream's number in CUDA and in both interfaces


@dataclass(frozen=True)
class DeviceFrame:
    """Pixels in the memory of the first GPU.

    Attributes:
        shape: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        dtype: uint8; the kind of frames whose tone the host must measure cannot be given from the GPU.
        source: the object that owns the pixels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source: Any

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's pixels."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape as a frame graph's input has them; a trailing axis of length 1 is dropped."""
        shape = self.shape[:2] if self.shape[2:] == (1,) else self.shape
        return TensorSpec(self.dtype.name, shape)

    def borrow(self, stream: int) -> Borrowed:
        """The pixels' place, to be used on a stream and held until that has waited.

        Args:
            stream: the number of the CUDA stream that will read them.

        Raises:
            FrameError: they lie on another GPU, or not row by row.
        """
        if hasattr(self.source, "__dlpack__"):
            capsule = self.source.__dlpack__(stream=stream)
            tensor = _dlpack(capsule)
            if tensor.device_id != 0:
                raise FrameError(f"got a frame on GPU {tensor.device_id}, expected GPU 0: copy it there")
            strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
            sized = None if strides is None else tuple(stride * self.dtype.itemsize for stride in strides)
            return Borrowed(tensor.data + tensor.byte_offset, self._pitch(sized), None, capsule)
        interface = self.source.__cuda_array_interface__
        # Version 2 names no stream: its producers are taken to work on the default one. None: nothing to wait for.
        producer = interface.get("stream", LEGACY_STREAM if interface.get("version", 0) < 3 else None)
        return Borrowed(interface["data"][0], self._pitch(interface.get("strides")), producer, self.source)

    def _pitch(self, strides: tuple[int, ...] | None) -> int:
        """Bytes from one row to the next."""
        if strides is None:
            return self.row_bytes
        dense = tuple(math.prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self.shape)))
        if tuple(strides[1:]) != dense[1:] or strides[0] < self.row_bytes:
            raise FrameError(f"got a frame {self.shape} with strides of {strides} bytes, expected {dense}: make it contiguous")
        return int(strides[0])


@dataclass(frozen=True)
class Borrowed:
    """Where a device frame lies.

    Attributes:
        address: of the first pixel.
        pitch_bytes: from one row to the next.
        producer: the stream whose work must be waited for; None: nothing to wait for.
        owner: keeps the pixels alive.
    """

    address: int
    pitch_bytes: int
    producer: int | None
    owner: Any


def device_frame(pixels: Any) -> DeviceFrame | None:
    """The frame if it lies in GPU memory, else None.

    Raises:
        FrameError: it does, and is not uint8.
    """
    if isinstance(pixels, np.ndarray):
        return None
    if isinstance(pixels, DeviceFrame):
        return pixels
    on_gpu = hasattr(pixels, "__dlpack_device__") and int(pixels.__dlpack_device__()[0]) in CUDA_DEVICES
    if not on_gpu and not hasattr(pixels, "__cuda_array_interface__"):
        return None
    # PyTorch writes torch.uint8.
    name = str(pixels.dtype).rpartition(".")[2]
    if name != "uint8":
        raise FrameError(f"got a frame of {name} on the GPU, expected uint8 there: give other frames as numpy arrays")
    return DeviceFrame(tuple(int(size) for size in pixels.shape), np.dtype(np.uint8), pixels)


class _DLTensor(ctypes.Structure):
    """dlpack.h, version 1.0: DLTensor, with DLDevice and DLDataType spread out."""

    _fields_ = (
        ("data", ctypes.c_size_t),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack(capsule: Any) -> Any:
    """The tensor in a capsule. The capsule keeps its name, so that it frees the tensor itself when it is dropped."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _DLTensor.from_address(pointer(capsule, b"dltensor"))
