"""The deployable folder: manifest, graphs, checksums, engine cache.

dcfg-edge-fp16.trk/
  manifest.json    see runtime/manifest.py
  *.onnx           one self-contained file per graph
  report.json      parity and drift against the PyTorch model, if the exporter measured them
  sensitivity.svg  what quantising each layer does, if it was calibrated with a plan
  engines/         engines built on this machine; safe to delete
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.errors import BundleError
from trackctl.runtime.manifest import NEAR, SEARCH, TEMPLATE, GraphEntry, Manifest, frame_key

__all__ = ["NEAR", "SEARCH", "TEMPLATE", "Bundle", "GraphEntry", "Manifest", "frame_key", "graph_entry", "write_bundle"]

MANIFEST_FILE = "manifest.json"
REPORT_FILE = "report.json"
PICTURE_FILE = "sensitivity.svg"
ENGINES_FOLDER = "engines"


class Bundle:
    """A verified bundle; made by :meth:`open`.

    Attributes:
        path: the folder.
        manifest: what it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle in a folder, after comparing every graph with its checksum.

        Raises:
            BundleError: the folder, its manifest or a graph is missing, damaged, changed or too new.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"got the bundle {folder}, which is no folder: make one with trackctl export")
        try:
            text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{folder} has no readable {MANIFEST_FILE}, so it is no bundle: export it again") from error
        try:
            manifest = Manifest.from_json(text)
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error
        for entry in manifest.graphs.values():
            _verify(folder / entry.file, entry.sha256)
        return cls(folder, manifest)

    def graph_path(self, key: str) -> Path:
        """The ONNX file of a graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        return self.path / self.graph(key).file

    def graph(self, key: str) -> GraphEntry:
        """The manifest's entry of a graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        entry = self.manifest.graphs.get(key)
        if entry is None:
            raise BundleError(
                f"{self.path} has no graph {key!r}, it has {sorted(self.manifest.graphs)}: export it with that graph"
            )
        return entry

    def frame_graphs(self) -> tuple[tuple[tuple[int, int], str], ...]:
        """The (frame_hw, layout) of the frame graphs, sorted; their keys come from :func:`frame_key`."""
        return self.manifest.frame_cuts()

    def report(self) -> dict[str, Any]:
        """What the exporter measured; empty if it measured nothing.

        Raises:
            BundleError: the report is damaged.
        """
        path = self.path / REPORT_FILE
        if not path.exists():
            return {}
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} is damaged ({error}): export the bundle again") from error
        return report

    def engine_cache(self, key: str, kind: str, **details: str) -> Path:
        """Where the engine built from a graph belongs; the name changes when anything that matters does.

        Args:
            key: the graph.
            kind: the engine, such as ``tensorrt``.
            details: all else the engine depends on: library version, GPU, driver, workspace.
        """
        facts = json.dumps({"graph": self.graph(key).sha256, "kind": kind, **details}, sort_keys=True)
        digest = hashlib.sha256(facts.encode()).hexdigest()
        return self.path / ENGINES_FOLDER / f"{key}.{kind}.{digest[:16]}.engine"


def graph_entry(path: Path, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> GraphEntry:
    """The manifest entry of an ONNX file that is about to enter a bundle under its own name."""
    return GraphEntry(file=path.name, sha256=_sha256(path), inputs=dict(inputs), outputs=dict(outputs))


def write_bundle(
    folder: str | Path,
    manifest: Manifest,
    graphs_from: Path,
    report: Mapping[str, Any] | None = None,
    picture: str | None = None,
) -> Bundle:
    """The bundle written to ``folder`` as a whole: readers see the old one or the new one, never a mixture.

    Args:
        folder: where to; a bundle that is there is replaced with its cached engines.
        manifest: names the graph files and their checksums.
        graphs_from: the folder that holds the graph files.
        report: what was measured, JSON values only.
        picture: SVG text that shows it.

    Raises:
        BundleError: a graph is missing or differs from its checksum; or ``folder`` holds something else; or it cannot be written.
    """
    target = Path(folder).resolve()
    _check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            fresh = Path(work, "new")
            fresh.mkdir()
            for entry in manifest.graphs.values():
                _verify(graphs_from / entry.file, entry.sha256)
                shutil.copyfile(graphs_from / entry.file, fresh / entry.file)
            if report is not None:
                text = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
                (fresh / REPORT_FILE).write_text(text, encoding="utf-8")
            if picture is not None:
                (fresh / PICTURE_FILE).write_text(picture, encoding="utf-8")
            (fresh / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
            _swap(fresh, target, Path(work, "old"))
    except OSError as error:
        raise BundleError(f"cannot write the bundle {target}: {error}") from error
    return Bundle(Path(folder), manifest)


def _swap(fresh: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _check_replaceable(target: Path) -> None:
    """Return if writing to ``target`` destroys nothing but a bundle.

    Raises:
        BundleError: otherwise.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        content = json.loads((target / MANIFEST_FILE).read_text(encoding="utf-8"))
        graphs = {entry["file"] for entry in content["graphs"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f"{target} exists and is no bundle: choose another place or delete it yourself") from error
    own = {MANIFEST_FILE, REPORT_FILE, PICTURE_FILE, ENGINES_FOLDER}
    foreign = sorted({path.name for path in target.iterdir()} - graphs - own)
    if foreign:
        raise BundleError(f"{target} holds {', '.join(foreign)} beside the bundle: move that away, or choose another place")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"cannot read the graph {path} ({error.strerror}): export the bundle again") from error
    return digest.hexdigest()


def _verify(path: Path, sha256: str) -> None:
    if (found := _sha256(path)) != sha256:
        raise BundleError(
            f"{path} ({path.stat().st_size} bytes) has the checksum {found[:12]}..., expected {sha256[:12]}...: "
            "it was truncated or changed, export the bundle again"
        )
