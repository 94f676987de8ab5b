"""Success of cv2.TrackerNano, the tracker on the shelf, with the published NanoTrack V2 weights.

    .venv/bin/python benchmarks/cv2_tracker_nano.py [--shared ../shared] [--sequences tir_airplane ...]

OpenCV ships the tracker but no weights. Its two graphs are written from NanoTrack V2 of this project into a temporary folder.
Success is the mean over the thresholds 0, 0.05, ..., 1 of the share of frames with IoU above the threshold; the first counts.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trackctl.evaluation.annotations import read_boxes
from trackctl.runtime.geometry import Float64Array, iou
from trackctl.training.nanotrack import NanoTrack, nanotrack_v2
from trackctl.training.weights import load_weights

SEQUENCES = ("tir_airplane", "tir_antiuav5", "tir_antiuav9", "tir_antiuav18", "tir_antiuav40", "vis_bag", "vis_crossing")
BACKBONE, HEAD = "backbone.onnx", "head.onnx"


class WholeHead(nn.Module):
    """The head as OpenCV wants it: the template's features come in with every frame."""

    def __init__(self, model: NanoTrack) -> None:
        super().__init__()
        self.head = model.ban_head

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Maps cls (1, 2, 16, 16) and loc (1, 4, 16, 16) of features (1, 48, 8, 8) and (1, 48, 16, 16)."""
        cls, loc = self.head(search, self.head.template(template))
        return cls, loc


def write_graphs(weights_npz: Path, folder: Path) -> None:
    """Write the backbone and the head into ``folder`` under the tensor names that cv2.TrackerNano asks for."""
    model = nanotrack_v2().eval()
    load_weights(model, weights_npz)
    template, search = torch.zeros(1, 3, 127, 127), torch.zeros(1, 3, 255, 255)
    with torch.no_grad():
        features = model.backbone(template), model.backbone(search)
    _export(model.backbone, (search,), folder / BACKBONE, ["input"], ["output"])
    _export(WholeHead(model).eval(), features, folder / HEAD, ["input1", "input2"], ["output1", "output2"])


def _export(module: nn.Module, examples: tuple[Tensor, ...], path: Path, inputs: list[str], outputs: list[str]) -> None:
    # The exporter says at length that torchvision is absent and that PyTorch will change.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, examples, path, input_names=inputs, output_names=outputs, dynamo=True, external_data=False, verbose=False
        )


def open_tracker(folder: Path) -> cv2.TrackerNano:
    """A tracker on graphs that ``write_graphs`` wrote."""
    parameters = cv2.TrackerNano_Params()
    parameters.backbone, parameters.neckhead = str(folder / BACKBONE), str(folder / HEAD)
    return cv2.TrackerNano_create(parameters)


def make_tracker(weights_npz: Path) -> cv2.TrackerNano:
    """A tracker with the published weights; its graphs are gone once it has read them."""
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(weights_npz, Path(folder))
        return open_tracker(Path(folder))


def load_sequence(path: Path) -> tuple[Iterator[NDArray[np.uint8]], Float64Array]:
    """The BGR frames (H, W, 3) of a sequence folder and its boxes (N, 4); a polygon becomes the upright box around it."""
    (annotation,) = path.glob("groundtruth*.txt")
    return _frames(path), read_boxes(annotation)


def _frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    videos = sorted(path.glob("*.avi"))
    if not videos:
        for image in sorted(path.rglob("*.jpg")):
            yield cv2.imread(str(image), cv2.IMREAD_COLOR)
        return
    capture = cv2.VideoCapture(str(videos[0]))
    while True:
        got, frame = capture.read()
        if not got:
            return
        yield frame


def track(tracker: cv2.TrackerNano, path: Path) -> tuple[Float64Array, Float64Array, list[int]]:
    """Boxes (N, 4) of the tracker, annotated boxes (N, 4) and the nanoseconds of each update after the first frame.

    The first box is rounded, for OpenCV takes whole pixels only.
    """
    frames, truth_ltwh = load_sequence(path)
    first = tuple(int(value) for value in np.rint(truth_ltwh[0]))
    tracker.init(next(frames), first)
    boxes, spent_ns = [first], []
    for frame, _ in zip(frames, truth_ltwh[1:], strict=False):
        started = perf_counter_ns()
        _, box = tracker.update(frame)
        spent_ns.append(perf_counter_ns() - started)
        boxes.append(box)
    return np.array(boxes, dtype=np.float64), truth_ltwh[: len(boxes)], spent_ns


def success_auc(boxes_ltwh: Float64Array, truth_ltwh: Float64Array) -> float:
    overlap = iou(boxes_ltwh, truth_ltwh)
    return float(np.mean([(overlap > threshold).mean() for threshold in np.linspace(0.0, 1.0, 21)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--sequences", nargs="+", default=SEQUENCES)
    options = parser.parse_args()
    # The tracker asks for a target, which the new graph engine does not know, and says so each time.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(options.shared / "data/weights/nanotrack_v2.npz", Path(folder))
        for name in options.sequences:
            tracker = open_tracker(Path(folder))
            boxes, truth, spent_ns = track(tracker, options.shared / "data/sequences" / name)
            auc, update_ms = success_auc(boxes, truth), np.median(spent_ns) / 1e6
            print(f"{name:16s} {len(boxes):4d} frames  auc {auc:.3f}  update {update_ms:.1f} ms")


if __name__ == "__main__":
    main()
