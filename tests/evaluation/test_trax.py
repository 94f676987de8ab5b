"""A bundle behind the TraX protocol gives the boxes that it gives directly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rendered import make_bundle, make_otb

from trackctl.evaluation.trax import serve_trax
from trackctl.runtime.errors import BundleError
from trackctl.runtime.sources.images import read_image
from trackctl.runtime.tracker import Tracker

trax = pytest.importorskip("trax", reason="vot-trax is not installed")
trax_client = pytest.importorskip("trax.client")

SERVE = "import sys; from trackctl.evaluation.trax import serve_trax; serve_trax(sys.argv[1], engine='onnxruntime', threads=1)"


def test_the_official_client_gets_the_same_boxes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "made").path
    (sequence,) = make_otb(tmp_path / "otb", sequences=1).sequences
    assert sequence.clip is not None
    paths = sequence.clip.images()
    with Tracker.open(bundle, engine="onnxruntime", threads=1) as tracker:
        tracker.init(read_image(paths[0]), sequence.box(0))
        expected = [tracker.update(read_image(path)) for path in paths[1:]]
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None and process.stdout is not None
        client = trax_client.Client(stream=(process.stdin.fileno(), process.stdout.fileno()), timeout=60, log=lambda _: None)
        assert client.tracker_name == "tiny" and client.region_formats == ["rectangle"] and client.image_formats == ["path"]
        # Twice: the toolkit starts a tracker again after a failure without starting its process.
        for _ in range(2):
            given = [(trax.Rectangle.create(*sequence.box(0)), {})]
            (first, _properties), *_ = client.initialize(_image(paths[0]), given, {})[0]
            assert first.bounds() == pytest.approx(sequence.box(0), abs=1e-3)
            for path, result in zip(paths[1:], expected, strict=True):
                ((region, properties),) = client.frame(_image(path), {}, [])[0]
                np.testing.assert_allclose(region.bounds(), result.box, atol=1e-3)
                assert float(properties["confidence"]) == pytest.approx(result.score, abs=1e-5)
        client.quit()
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_the_client_is_told_what_is_wrong(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "made").path
    (sequence,) = make_otb(tmp_path / "otb", sequences=1).sequences
    command = [sys.executable, "-c", SERVE, str(bundle)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        client = trax_client.Client(stream=(process.stdin.fileno(), process.stdout.fileno()), timeout=60, log=lambda _: None)
        with pytest.raises(trax.TraxException, match="cannot read the image"):
            client.initialize(_image(tmp_path / "missing.png"), [(trax.Rectangle.create(*sequence.box(0)), {})], {})
        assert b"cannot read the image" in process.stderr.read()
        assert process.wait(timeout=60) == 1


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no folder"):
        serve_trax(tmp_path / "missing.trk")


def _image(path: Path) -> dict[str, object]:
    return {"color": trax.FileImage.create(str(path))}
