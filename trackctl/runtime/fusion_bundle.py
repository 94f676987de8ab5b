"""The deployable folder of a fusion network.

lrrnet-fp32.fuse/
  fusion.json   see :class:`FusionBundle`
  tile.onnx     ir, vi, rows, columns -> fused, for one tile
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.errors import BundleError

FORMAT = 1
MANIFEST_FILE = "fusion.json"
GRAPH_FILE = "tile.onnx"

IR = "ir"  # float32 (1, 1, H, W), 0..1
VI = "vi"  # float32 (1, 1, H, W), 0..1
# Whole numbers, since an engine that computes in bfloat16 rounds its float inputs, and 257 to 256.
ROWS = "rows"  # int32 (H + 2,): which row of the tile each row of the padded tile shows
COLUMNS = "columns"  # int32 (W + 2,)
FUSED = "fused"  # float32 (1, 1, H, W), of any range


@dataclass(frozen=True, kw_only=True)
class FusionBundle:
    """What the folder says about itself.

    Attributes:
        tile_hw: height and width of the graph's images, pixels.
        halo_px: how far a fused pixel sees; what lies nearer to a tile's inner edge is not to be used.
        precision: ``fp32`` or ``fp16``.
        sha256: of the graph file.
        provenance: where the weights came from.
    """

    tile_hw: tuple[int, int]
    halo_px: int
    precision: str
    sha256: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> FusionBundle:
        """The manifest of a folder, after comparing the graph with its checksum.

        Raises:
            BundleError: the folder, its manifest or its graph is missing, damaged, changed or too new.
        """
        try:
            fields = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            version = fields.pop("format")
            if version != FORMAT:
                raise BundleError(f"{folder} has the format {version}, expected {FORMAT}: export it again with this version")
            bundle = cls(**{**fields, "tile_hw": tuple(fields["tile_hw"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{folder} has no readable {MANIFEST_FILE}, so it is no fusion bundle: export it again") from error
        try:
            found = hashlib.sha256((folder / GRAPH_FILE).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(f"cannot read {folder / GRAPH_FILE}: {error.strerror}: export the bundle again") from error
        if found != bundle.sha256:
            raise BundleError(f"{folder / GRAPH_FILE} differs from its checksum: it is damaged or was changed, export it again")
        return bundle

    @classmethod
    def write(
        cls, folder: Path, graph: bytes, *, tile_hw: tuple[int, int], halo_px: int, precision: str, provenance: Mapping[str, str]
    ) -> FusionBundle:
        """The bundle of a graph, written to a folder; the manifest comes last, so a broken write leaves no bundle.

        Raises:
            OSError: the folder cannot be written.
        """
        bundle = cls(
            tile_hw=tile_hw,
            halo_px=halo_px,
            precision=precision,
            sha256=hashlib.sha256(graph).hexdigest(),
            provenance=dict(provenance),
        )
        write_whole(folder / GRAPH_FILE, graph)
        text = json.dumps({"format": FORMAT, **asdict(bundle)}, indent=2, sort_keys=True)
        write_whole(folder / MANIFEST_FILE, text.encode())
        return bundle

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The graph's inputs."""
        height, width = self.tile_hw
        image = TensorSpec("float32", (1, 1, height, width))
        return {
            IR: image,
            VI: image,
            ROWS: TensorSpec("int32", (height + 2,)),
            COLUMNS: TensorSpec("int32", (width + 2,)),
        }

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """The graph's output."""
        return {FUSED: TensorSpec("float32", (1, 1, *self.tile_hw))}
