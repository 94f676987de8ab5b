"""Bundles over a data set: every sequence once, whatever interrupts it.

    out/
      scores.json  report.html
      <bundle>/
        run.json                          what was run; another setting in the same folder is an error
        plain/<sequence>.txt              results in the data set's own format
        plain/<sequence>_time.txt         seconds per update, one line per frame
        realtime/...                      the same with frames lost to a camera that does not wait

A result file is written as a whole after its file of times; what is there is done. This process alone writes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trackctl import __version__
from trackctl.evaluation import sequence as annotated
from trackctl.evaluation.annotations import Rows, write_atomically
from trackctl.evaluation.follow import Run, follow, give, play, read_times, starts
from trackctl.evaluation.page import html_page
from trackctl.evaluation.protocol import Protocol
from trackctl.evaluation.realtime import Camera
from trackctl.evaluation.report import PLAIN, REALTIME, Report, result_files, summarise, times_path
from trackctl.evaluation.scoring import protocol_for
from trackctl.evaluation.sequence import DataSet, ResultFormat
from trackctl.evaluation.workers import work
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import CHANNELS, PAIR8
from trackctl.runtime.geometry import Float64Array
from trackctl.runtime.select import AUTO, open_engines
from trackctl.runtime.tracker import Tracker

SCORES_FILE, PAGE_FILE, SETTINGS_FILE = "scores.json", "report.html", "run.json"

# A sequence's or bundle's name, sequences done, sequences to do (over all bundles).
OnProgress = Callable[[str, int, int], None]


def evaluate(
    bundles: Sequence[str | Path],
    dataset: DataSet,
    out: str | Path,
    *,
    jobs: int = 1,
    engine: str = AUTO,
    threads: int = 1,
    realtime_fps: float | None = None,
    protocol: Protocol | None = None,
    cluster: str | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """The report of bundles on a data set; also written to ``out`` as scores.json and report.html.

    May be killed at any time: the same call goes on with the sequences that are missing.

    Args:
        bundles: bundle folders; their names must differ.
        dataset: with images.
        out: folder of results, made if need be.
        jobs: processes (on a cluster, sequences at a time; 0 for no limit). Durations are those under this load: measure speed
            with 1.
        engine: ``auto``, ``onnxruntime``, ``openvino``.
        threads: CPU threads of each engine.
        realtime_fps: also run with a camera of this rate; None leaves that out.
        protocol: another than the data set's own.
        cluster: see :func:`trackctl.evaluation.workers.work`; bundles and images must lie under the same paths there.
        on_progress: called with a sequence's name, how many are done, how many there are, over all bundles.

    Raises:
        InputError: ``out`` holds results of other settings, another run is writing there, or the data set does not suit.
        TrackctlError: a bundle, an engine or an image is at fault.
    """
    out, protocol = Path(out), protocol or protocol_for(dataset)
    if realtime_fps is not None:
        Camera(fps=realtime_fps, seconds=np.zeros(1))  # a bad rate is an error before anything runs
    opened = [Bundle.open(path) for path in bundles]
    names = [bundle.path.resolve().name for bundle in opened]
    if not names or len(set(names)) < len(names):
        raise InputError(f"got the bundles {', '.join(names) or 'none'}, expected one or more with different names: rename them")
    with ExitStack() as stack:
        units, engines = [], {}
        for name, bundle in zip(names, opened, strict=True):
            folder = out / name
            stack.enter_context(_alone(folder))
            wanted = _settings(bundle, dataset, protocol, engine, threads, realtime_fps)
            engines[name] = _agree(folder, wanted, bundle, engine, threads)
            units += [
                _Unit(
                    folder=folder,
                    bundle=bundle.path.resolve(),
                    graphs=tuple(entry.sha256 for entry in bundle.manifest.graphs.values()),
                    engine=engines[name],
                    threads=threads,
                    sequence=sequence.paired() if bundle.manifest.channels == CHANNELS[PAIR8] else sequence,
                    protocol=protocol,
                    written=dataset.results,
                    realtime_fps=realtime_fps,
                )
                for sequence in dataset.sequences
            ]
        _run_missing(units, jobs, cluster, on_progress)
        folders = {name: out / name for name in names}
        report = summarise(dataset, protocol, dict(zip(names, opened, strict=True)), folders, engines, realtime_fps)
        write_atomically(out / SCORES_FILE, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
        write_atomically(out / PAGE_FILE, html_page(report, dataset, folders))
    return report


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes to the folder; what a killed writer left half done is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system unlocks when the process dies
        except OSError as error:
            raise InputError(f"another run is writing to {folder}: wait for it or choose another folder") from error
        for leftover in folder.rglob(".*.partial"):
            leftover.unlink(missing_ok=True)
        yield


def _settings(
    bundle: Bundle, dataset: DataSet, protocol: Protocol, engine: str, threads: int, realtime_fps: float | None
) -> dict[str, Any]:
    """All that results depend on."""
    annotation = hashlib.sha256()
    for sequence in dataset.sequences:
        annotation.update(f"{sequence.name}\n{len(sequence)}\n".encode())
        regions = sequence.truth_ltwh if sequence.corners_xy is None else sequence.corners_xy
        annotation.update(np.ascontiguousarray(regions).tobytes())
    return {
        "trackctl": __version__,
        "graphs": {key: entry.sha256 for key, entry in sorted(bundle.manifest.graphs.items())},
        "engine": engine,
        "threads": threads,
        "data set": f"{dataset.kind}, {len(dataset.sequences)} sequences, {annotation.hexdigest()}",
        "protocol": {"name": type(protocol).__name__, **asdict(protocol)},
        "realtime_fps": realtime_fps,
    }


def _agree(folder: Path, wanted: dict[str, Any], bundle: Bundle, engine: str, threads: int) -> str:
    """The engine kind of the run in a folder, which is started if there is none.

    Raises:
        InputError: the run there has other settings, or results lie there that no run explains.
    """
    path = folder / SETTINGS_FILE
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as they come back from the file
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            kind = str(there.pop("engine kind"))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged: remove {folder} and run again") from error
        differing = [name for name in wanted if there.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            raise InputError(
                f"{folder} holds results of other settings ({', '.join(differing)} differ; {name} was {_short(there.get(name))}, "
                f"is {_short(wanted[name])}): choose another folder or remove that one"
            )
        return kind
    if any((folder / name).exists() for name in (PLAIN, REALTIME)):
        raise InputError(f"{folder} holds results but no {SETTINGS_FILE} that says how they came about: choose another folder")
    engines, choice = open_engines(bundle, engine, threads)
    engines.close()
    write_atomically(path, json.dumps({**wanted, "engine kind": choice.kind}, indent=1) + "\n")
    return choice.kind


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-12:]}"


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """One bundle on one sequence. ``known`` are the durations of plain runs that are done, by the name of their file."""

    folder: Path
    bundle: Path
    graphs: tuple[str, ...]
    engine: str
    threads: int
    sequence: annotated.Sequence
    protocol: Protocol
    written: ResultFormat
    realtime_fps: float | None
    known: Mapping[str, Float64Array] | None = None

    def files(self, mode: str) -> dict[str, Path]:
        """Where the result of every run belongs."""
        return result_files(self.folder / mode, self.sequence, self.protocol, self.written)


def _run_missing(units: Sequence[_Unit], jobs: int, cluster: str | None, on_progress: OnProgress | None) -> None:
    missing = []
    for unit in units:
        plain = unit.files(PLAIN)
        plain_done = all(path.is_file() for path in plain.values())
        realtime_done = unit.realtime_fps is None or all(path.is_file() for path in unit.files(REALTIME).values())
        if not plain_done:
            missing.append(unit)
        elif not realtime_done:
            known = {name: read_times(Rows.read(times_path(path))) for name, path in plain.items()}
            missing.append(replace(unit, known=known))
    done = len(units) - len(missing)
    try:
        for unit, answer in work(_run_unit, missing, jobs=jobs, cluster=cluster):
            for mode, runs in answer.items():
                for name, path in unit.files(mode).items():
                    write_atomically(times_path(path), runs[name].times_text())
                    write_atomically(path, runs[name].result_text())
            done += 1
            if on_progress is not None:
                on_progress(unit.sequence.name, done, len(units))
    finally:
        _tracker.cache_clear()


def _run_unit(unit: _Unit) -> dict[str, dict[str, Run]]:
    """The runs that a unit lacks: mode -> name -> run."""
    runs = starts(unit.sequence, unit.protocol)
    tracker = _tracker(unit.bundle, unit.graphs, unit.engine, unit.threads)
    _warm_up(tracker, unit.sequence)
    answer: dict[str, dict[str, Run]] = {}
    seconds = unit.known
    if seconds is None:
        plain = {name: follow(tracker, unit.sequence, frames, unit.protocol, unit.written) for name, frames in runs.items()}
        answer[PLAIN] = plain
        # As a resumed run reads them.
        seconds = {name: run.seconds.round(9) for name, run in plain.items()}
    if unit.realtime_fps is not None:
        answer[REALTIME] = {}
        for name, frames in runs.items():
            camera = Camera(fps=unit.realtime_fps, seconds=seconds[name])
            if PLAIN in answer and camera.never_late():
                answer[REALTIME][name] = answer[PLAIN][name]
            else:
                answer[REALTIME][name] = follow(tracker, unit.sequence, frames, unit.protocol, unit.written, camera)
    return answer


@functools.lru_cache(maxsize=1)
def _tracker(bundle: Path, graphs: tuple[str, ...], engine: str, threads: int) -> Tracker:
    """The tracker of a bundle, kept open for the next sequence; ``graphs`` are its checksums, which may change in place."""
    return Tracker.open(bundle, engine=engine, threads=threads)


def _warm_up(tracker: Tracker, sequence: annotated.Sequence) -> None:
    """The first runs of an engine are slow; they shall not count for the speed."""
    frame = next(iter(play(sequence, np.zeros(1, dtype=np.int64))))
    give(tracker, sequence, 0, frame)
    tracker.update(frame)
