"""Readers of annotated data sets. Foreign conventions end here: a reader gives boxes in trackctl's own.

Origins: toolkits that descend from OTB's count pixels from 1 (MATLAB); their left and top lose 1. The others count from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from trackctl.evaluation.datasets.index import find_index, read_index
from trackctl.evaluation.datasets.large import read_got10k, read_lasot, read_uav123
from trackctl.evaluation.datasets.otb import read_lsotb, read_otb, read_ptb
from trackctl.evaluation.datasets.other import read_antiuav, read_folder, read_hot
from trackctl.evaluation.datasets.rgbt import read_gtot, read_lasher, read_rgbt234
from trackctl.evaluation.datasets.vot import read_vot, read_vot_rgbt
from trackctl.evaluation.sequence import DataSet, ResultFormat, Sequence
from trackctl.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of data set.

    Attributes:
        read: the sequences of a folder.
        protocol: key of ``PROTOCOLS``.
        results: how its tools write results.
        polygons: its annotation has corners.
    """

    read: Callable[[Path], list[Sequence]]
    protocol: str = "plain"
    results: ResultFormat = field(default_factory=ResultFormat)
    polygons: bool = False


_MATLAB = ResultFormat(one_based=True)
_VOT = ResultFormat(folders=True)
_SPACES = ResultFormat(delimiter=" ")

KINDS: dict[str, Kind] = {
    "otb": Kind(read=read_otb, protocol="otb", results=_MATLAB),
    "lasot": Kind(read=read_lasot, protocol="lasot", results=_MATLAB),
    "uav123": Kind(read=read_uav123, protocol="otb", results=_MATLAB),
    "got10k": Kind(read=read_got10k, protocol="got10k", results=ResultFormat(one_based=True, folders=True)),
    "lsotb": Kind(read=read_lsotb, protocol="otb", results=_MATLAB),
    "ptb": Kind(read=read_ptb, protocol="otb", results=_MATLAB),
    **{f"vot{year}": Kind(read=read_vot, protocol=f"vot{year}", results=_VOT, polygons=True) for year in range(2015, 2020)},
    **{f"vottir{year}": Kind(read=read_vot, protocol="vottir", results=_VOT, polygons=True) for year in (2015, 2016, 2017)},
    **{f"votrgbt{year}": Kind(read=read_vot_rgbt, protocol="vot2020", results=_VOT, polygons=True) for year in (2019, 2020)},
    "gtot": Kind(read=read_gtot, protocol="gtot", results=_MATLAB),
    "rgbt234": Kind(read=read_rgbt234, protocol="rgbt234", results=_MATLAB),
    "lasher": Kind(read=read_lasher, protocol="lasher", results=_MATLAB),
    "hot": Kind(read=read_hot, results=ResultFormat(delimiter="\t")),
    "antiuav": Kind(read=read_antiuav, results=_SPACES),
    "folder": Kind(read=read_folder),
}


def open_dataset(text: str) -> DataSet:
    """The data set written as ``KIND:PATH``, such as ``otb:data/OTB100``.

    Args:
        text: a key of :data:`KINDS` and a folder in that data set's own layout; or its annotations alone, one text file per
            sequence; or the json file that pysot's users exchange; or, for ``folder``, a video.

    Raises:
        InputError: the kind is unknown, the path is missing, or a file is malformed, with its name and line.
    """
    name, _, rest = text.partition(":")
    if name not in KINDS or not rest:
        near = get_close_matches(name, KINDS, n=1, cutoff=0.0)[0]
        raise InputError(f"got the data set {text!r}, expected KIND:PATH such as {near}:data with KIND one of {', '.join(KINDS)}")
    path, kind = Path(rest).expanduser(), KINDS[name]
    if not path.exists():
        raise InputError(f"there is no {path}: check the path of the data set")
    index = find_index(path) if name != "folder" else None
    if index is not None:
        sequences = read_index(index, one_based=kind.results.one_based, polygons=kind.polygons)
    elif path.is_file() and name != "folder":
        raise InputError(f"got the file {path}, expected a folder or a json file in the form of pysot's")
    else:
        sequences = kind.read(path)
    repeated = [sequence for sequence, count in Counter(sequence.name for sequence in sequences).items() if count > 1]
    if repeated:
        raise InputError(
            f"{path} has several sequences called {repeated[0]!r}, expected each name once: give the path of one subset"
        )
    return DataSet(kind=name, path=path, sequences=tuple(sequences), results=kind.results, protocol=kind.protocol)
