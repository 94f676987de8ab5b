"""The manifest of a bundle: what it tracks with, which graphs it holds and how each of them must look."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from trackctl.runtime.contract import SEARCH_PATCH, STATE_IN, TEMPLATE_PATCH, TensorSpec
from trackctl.runtime.errors import BundleError
from trackctl.runtime.frame import BAND_LAYOUT, LAYOUTS
from trackctl.runtime.geometry import CropSpec

FORMAT = 1
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TEMPLATE, SEARCH, NEAR = "template", "search", "near"
_FRAME_KEY = re.compile(rf"({TEMPLATE}|{SEARCH})\.frame\.([1-9]\d*)x([1-9]\d*)\.({'|'.join(LAYOUTS)}|{BAND_LAYOUT})")
_AGAIN = "export the bundle again"

T = TypeVar("T")


def frame_key(role: str, frame_hw: tuple[int, int], layout: str) -> str:
    """The key of a frame graph, such as ``search.frame.640x512.gray8`` (width x height)."""
    return f"{role}.frame.{frame_hw[1]}x{frame_hw[0]}.{layout}"


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """One ONNX file of a bundle.

    Attributes:
        file: its name inside the bundle's folder.
        sha256: checksum of its bytes, hexadecimal.
        inputs, outputs: its tensors.
    """

    file: str
    sha256: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        system: the tracker, such as ``dcfg-edge``.
        precision: of the Core: ``fp32``, ``fp16`` or ``int8``.
        channels: channels of the patches.
        crop: crop constants.
        decode: constants of Decode, for people; the graphs contain them.
        memory: names of the tensors that the template graph hands to the search graph, in order.
        graphs: ``template`` and ``search``; ``near``, a smaller search that is asked first, if there is one; frame graphs under
            the keys of :func:`frame_key`.
        confidence: thresholds of the tracking status.
        provenance: where weights and calibration come from; no dates, so that the same export gives the same file.
        format: version of the bundle format.

    Raises:
        BundleError: the parts contradict each other.
    """

    system: str
    precision: Precision
    channels: int
    crop: CropSpec
    decode: dict[str, float | list[float]]
    memory: tuple[str, ...]
    graphs: dict[str, GraphEntry]
    confidence: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BundleError(f"the manifest has the precision {self.precision!r}, expected one of {PRECISIONS}: {_AGAIN}")
        for key, entry in self.graphs.items():
            if key not in (TEMPLATE, SEARCH, NEAR) and not _FRAME_KEY.fullmatch(key):
                raise BundleError(
                    f"the manifest has the graph {key!r}, expected {TEMPLATE}, {SEARCH}, {NEAR} "
                    f"or a key such as {frame_key(SEARCH, (512, 640), LAYOUTS[0])}: {_AGAIN}"
                )
            if not re.fullmatch(r"[\w.-]+\.onnx", entry.file):
                raise BundleError(f"graph {key!r} is in the file {entry.file!r}, expected a plain name ending in .onnx: {_AGAIN}")
        for key in (TEMPLATE, SEARCH, *(_partner(key) for key in self.graphs if key != NEAR)):
            if key not in self.graphs:
                raise BundleError(f"the manifest has the graphs {sorted(self.graphs)} but no {key!r}: {_AGAIN}")
        self._check_tensors()

    @property
    def targets(self) -> int:
        """How many targets one search finds."""
        state = self.graphs[SEARCH].inputs.get(STATE_IN)
        return state.shape[0] if state is not None and state.shape else 1

    def _check_tensors(self) -> None:
        template, search, targets = self.graphs[TEMPLATE], self.graphs[SEARCH], self.targets
        for name in self.memory:
            made, read = template.outputs.get(name), search.inputs.get(name)
            rows = () if made is None else tuple(size * targets for size in made.shape[:1])
            if made is None or TensorSpec(made.dtype, (*rows, *made.shape[1:])) != read:
                raise BundleError(
                    f"memory {name!r} leaves the template graph as {made} but enters search, made for {targets} targets, "
                    f"as {read}: {_AGAIN}"
                )
        sides = ((template, TEMPLATE_PATCH, self.crop.template_size, 1), (search, SEARCH_PATCH, self.crop.search_size, targets))
        for graph, name, side, batch in sides:
            patch = TensorSpec("float32", (batch, self.channels, side, side))
            if graph.inputs.get(name) != patch:
                raise BundleError(f"{graph.file} takes {name!r} as {graph.inputs.get(name)}, expected {patch}: {_AGAIN}")
        if NEAR in self.graphs:
            self._check_near(self.graphs[NEAR], search)

    def _check_near(self, near: GraphEntry, search: GraphEntry) -> None:
        rest, wanted = dict(near.inputs), dict(search.inputs)
        patch = rest.pop(SEARCH_PATCH, None)
        whole = wanted.pop(SEARCH_PATCH)
        side = patch.shape[-1] if patch is not None and patch.shape else 0
        smaller = TensorSpec(whole.dtype, (*whole.shape[:2], side, side))
        if patch != smaller or not 0 < side < whole.shape[-1] or side % 2 != whole.shape[-1] % 2 or rest != wanted:
            raise BundleError(
                f"{near.file} takes {near.inputs}, expected what {search.file} takes with a smaller patch of the same middle: "
                f"{_AGAIN}"
            )

    def frame_cuts(self) -> tuple[tuple[tuple[int, int], str], ...]:
        """The (frame_hw, layout) for which the bundle holds frame graphs, sorted."""
        found = (_FRAME_KEY.fullmatch(key) for key in self.graphs)
        return tuple(sorted({((int(key[3]), int(key[2])), key[4]) for key in found if key}))

    def to_json(self) -> str:
        """The text of ``manifest.json``: sorted keys, the same for the same manifest."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest written by :meth:`to_json`.

        Raises:
            BundleError: naming what is missing, unknown, of another type or too new.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"the manifest is not JSON ({error}): {_AGAIN}") from error
        version = data.get("format") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise BundleError(f"the manifest has the format {version!r}, expected {FORMAT}: {_AGAIN}")
        if version > FORMAT:
            raise BundleError(f"the manifest has the format {version}, this trackctl reads up to {FORMAT}: update trackctl")
        got = _read("manifest", data, cls)
        return cls(
            format=version,
            system=_is("system", got["system"], str),
            precision=got["precision"],
            channels=_is("channels", got["channels"], int),
            crop=_crop(got["crop"]),
            decode={key: _numbers(f"decode.{key}", value) for key, value in _items("decode", got["decode"])},
            memory=tuple(_is("memory", name, str) for name in _is("memory", got["memory"], list)),
            graphs={key: _graph(f"graphs.{key}", value) for key, value in _items("graphs", got["graphs"])},
            confidence={key: _number(f"confidence.{key}", value) for key, value in _items("confidence", got["confidence"])},
            provenance={key: _is(f"provenance.{key}", value, str) for key, value in _items("provenance", got["provenance"])},
        )


def _partner(key: str) -> str:
    """The other role's graph of the same cut."""
    role, dot, cut = key.partition(".")
    return (SEARCH if role == TEMPLATE else TEMPLATE) + dot + cut


def _read(what: str, data: Any, kind: type[Any]) -> Mapping[str, Any]:
    """The JSON object with exactly the fields of a dataclass."""
    got = _is(what, data, dict)
    expected = {entry.name for entry in fields(kind)}
    if missing := sorted(expected - got.keys()):
        raise BundleError(f"{what} has no {', '.join(missing)}: {_AGAIN}")
    if unknown := sorted(got.keys() - expected):
        raise BundleError(f"{what} has the unknown key {', '.join(unknown)}, expected {sorted(expected)}: {_AGAIN}")
    return got


def _is(what: str, value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BundleError(f"the manifest's {what} is {value!r}, expected {kind.__name__}: {_AGAIN}")
    return value


def _items(what: str, value: Any) -> list[tuple[str, Any]]:
    return list(_is(what, value, dict).items())


def _number(what: str, value: Any) -> float:
    return value if isinstance(value, int) and not isinstance(value, bool) else _is(what, value, float)


def _numbers(what: str, value: Any) -> float | list[float]:
    return [_number(what, part) for part in value] if isinstance(value, list) else _number(what, value)


def _crop(value: Any) -> CropSpec:
    got = _read("crop", value, CropSpec)
    return CropSpec(
        template_size=_is("crop.template_size", got["template_size"], int),
        search_size=_is("crop.search_size", got["search_size"], int),
        context=_number("crop.context", got["context"]),
    )


def _graph(what: str, value: Any) -> GraphEntry:
    got = _read(what, value, GraphEntry)
    return GraphEntry(
        file=_is(f"{what}.file", got["file"], str),
        sha256=_is(f"{what}.sha256", got["sha256"], str),
        inputs={name: _tensor(f"{what}.inputs.{name}", spec) for name, spec in _items(f"{what}.inputs", got["inputs"])},
        outputs={name: _tensor(f"{what}.outputs.{name}", spec) for name, spec in _items(f"{what}.outputs", got["outputs"])},
    )


def _tensor(what: str, value: Any) -> TensorSpec:
    got = _read(what, value, TensorSpec)
    shape = tuple(_is(f"{what}.shape", size, int) for size in _is(f"{what}.shape", got["shape"], list))
    return TensorSpec(_is(f"{what}.dtype", got["dtype"], str), shape)
