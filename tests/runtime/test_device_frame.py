"""Frames in GPU memory, as PyTorch, CuPy and pycuda offer them; PyTorch's own DLPack capsules are real."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trackctl.runtime.device_frame import DeviceFrame, device_frame
from trackctl.runtime.errors import FrameError
from trackctl.runtime.frame import layout_of


class Tensor:
    """A PyTorch tensor that says it lies on the GPU; the capsule is the tensor's own."""

    def __init__(self, tensor: torch.Tensor, device: int = 2) -> None:
        self.tensor, self.device, self.streams = tensor, device, []
        self.shape, self.dtype = tensor.shape, tensor.dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, *, stream: int) -> object:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_a_tensor_is_borrowed_through_dlpack_and_told_the_stream():
    pixels = torch.arange(48 * 64, dtype=torch.int32).to(torch.uint8).reshape(48, 64)
    tensor = Tensor(pixels)
    frame = device_frame(tensor)
    assert isinstance(frame, DeviceFrame)
    assert (frame.shape, frame.dtype, frame.spec.shape, layout_of(frame)) == ((48, 64), np.dtype(np.uint8), (48, 64), "gray8")
    lent = frame.borrow(77)
    assert (lent.address, lent.pitch_bytes, lent.producer) == (pixels.data_ptr(), 64, None)
    assert tensor.streams == [77]


def test_a_view_of_a_tensor_keeps_its_offset_and_pitch():
    pixels = torch.zeros(50, 80, 3, dtype=torch.uint8)
    lent = device_frame(Tensor(pixels[2:, 4:68])).borrow(1)
    assert lent.address == pixels.data_ptr() + (2 * 80 + 4) * 3
    assert lent.pitch_bytes == 240
    with pytest.raises(FrameError, match="make it contiguous"):
        device_frame(Tensor(pixels[:, ::2])).borrow(1)
    with pytest.raises(FrameError, match="make it contiguous"):
        device_frame(Tensor(pixels.permute(1, 0, 2))).borrow(1)


def test_borrowed_pixels_are_given_back():
    """The capsule, here numpy's own, holds the pixels until it is dropped, and lets them go then."""
    pixels = np.zeros((4, 4), dtype=np.uint8)
    offered = SimpleNamespace(shape=pixels.shape, dtype=pixels.dtype, __dlpack_device__=lambda: (2, 0))
    offered.__dlpack__ = lambda stream: pixels.__dlpack__()
    owners = sys.getrefcount(pixels)
    lent = device_frame(offered).borrow(1)
    assert (lent.address, sys.getrefcount(pixels)) == (pixels.ctypes.data, owners + 1)
    del lent
    assert sys.getrefcount(pixels) == owners


def interface(pixels: np.ndarray, **changes: object) -> SimpleNamespace:
    described = {"shape": pixels.shape, "typestr": "|u1", "data": (pixels.ctypes.data, False), "strides": None, "version": 3}
    return SimpleNamespace(
        shape=pixels.shape, dtype=pixels.dtype, __cuda_array_interface__=described | {"stream": None} | changes
    )


@pytest.mark.parametrize(("changes", "producer"), [({}, None), ({"stream": 9}, 9), ({"stream": 1}, 1)])
def test_an_array_is_borrowed_through_the_cuda_array_interface(changes, producer):
    pixels = np.zeros((6, 8, 4), dtype=np.uint8)
    frame = device_frame(interface(pixels, **changes))
    assert layout_of(frame) == "pair8"
    lent = frame.borrow(5)
    assert (lent.address, lent.pitch_bytes, lent.producer) == (pixels.ctypes.data, 32, producer)


def test_a_trailing_axis_of_one_is_gray():
    frame = device_frame(interface(np.zeros((6, 8, 1), dtype=np.uint8)))
    assert (layout_of(frame), frame.spec.shape, frame.row_bytes) == ("gray8", (6, 8), 8)


def test_what_is_on_the_host_is_no_device_frame():
    assert device_frame(np.zeros((2, 2), dtype=np.uint8)) is None
    assert device_frame(torch.zeros(2, 2, dtype=torch.uint8)) is None
    assert device_frame([[1, 2]]) is None
    assert device_frame(None) is None


def test_other_numbers_and_other_gpus_are_refused():
    with pytest.raises(FrameError, match="got a frame of uint16 on the GPU, expected uint8 there"):
        device_frame(interface(np.zeros((2, 2), dtype=np.uint16)))
    with pytest.raises(FrameError, match="got a frame of float32 on the GPU"):
        device_frame(Tensor(torch.zeros(2, 2)))
    with pytest.raises(FrameError, match="shape"):
        layout_of(device_frame(interface(np.zeros((2, 2, 2), dtype=np.uint8))))
