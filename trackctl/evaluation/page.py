"""The report as one HTML page that needs no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from trackctl.evaluation.pictures import worst_pictures
from trackctl.evaluation.protocol import OpeProtocol, ResetProtocol
from trackctl.evaluation.report import Entry, Report
from trackctl.evaluation.scoring import Scores
from trackctl.evaluation.sequence import DataSet
from trackctl.evaluation.svg import Line, colour, line_chart, radar_chart

_STYLE = """
:root{color-scheme:light dark;--paper:#fafafa;--card:#fff;--ink:#222;--faint:#6b6b6b;--rule:#dcdcdc;--bar:#4477aa2e}
@media(prefers-color-scheme:dark){:root{--paper:#18191b;--card:#202225;--ink:#e4e4e4;--faint:#9a9a9a;--rule:#3a3c40;--bar:#66ccee2e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1360px;padding:28px 24px 60px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:36px 0 10px}h3{font-size:.95rem;margin:0 0 6px;font-weight:600}
p{margin:4px 0 12px}.faint,figcaption{color:var(--faint)}
table{border-collapse:collapse;background:var(--card);font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}th,td{padding:5px 12px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th{font-weight:600;vertical-align:bottom}th:first-child,td:first-child,.text{text-align:left}
.scores th,.scores td{padding:5px 9px}
td.best{font-weight:700}td.bar{background:linear-gradient(90deg,var(--bar) var(--share),transparent var(--share))}
.charts{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(330px,1fr))}
.beside{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}.beside .card{flex:1 1 330px;max-width:400px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:14px;max-width:520px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--faint);font-size:11px}svg .label{font-size:12px;fill:var(--ink)}
.grid{stroke:var(--rule);fill:none}.mark{stroke:var(--faint);stroke-dasharray:2 3}
.curve{fill:none;stroke-width:2}.area{fill-opacity:.12}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.45em}
.legend span{margin-right:18px;white-space:nowrap}
.pictures{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:240px}figure img{width:100%;display:block;border-radius:4px}
figcaption{font-size:.82rem;overflow-wrap:anywhere}
"""

# Score -> heading, digits, whether more is better.
_HEADINGS: dict[str, tuple[str, str, bool]] = {
    "auc": ("AUC", ".3f", True),
    "precision": ("Precision", ".3f", True),
    "norm_precision": ("Norm.<br>precision", ".3f", True),
    "ao": ("Mean<br>overlap", ".3f", True),
    "sr_0.5": ("SR 0.5", ".3f", True),
    "eao": ("EAO", ".3f", True),
    "accuracy": ("Accuracy", ".3f", True),
    "robustness": ("Robustness", ".3f", True),
    "failures": ("Failures", ".0f", False),
}


def html_page(report: Report, dataset: DataSet, folders: Mapping[str, Path]) -> str:
    """The page, HTML text.

    Args:
        report: what it shows.
        dataset: for the pictures.
        folders: of the results, by the bundle's name.

    Raises:
        InputError: a result or an image cannot be read.
    """
    entries = report.entries
    count = len(dataset.sequences)
    head = (
        f"<h1>Tracking on {escape(report.kind)}</h1>"
        f'<p class="faint">{count} sequence{"s"[: count != 1]}, {report.frames:,} frames; {escape(_describe(report))}</p>'
    )
    body = [
        head,
        _legend(entries),
        _overview(entries),
        _plots(report),
        _attributes(entries),
        _sequences(report),
        _worst(report, dataset, folders),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Tracking on {escape(report.kind)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _describe(report: Report) -> str:
    protocol = report.protocol
    if isinstance(protocol, OpeProtocol):
        mean = "over all frames" if protocol.pooled else "over sequences"
        return (
            f"one-pass evaluation, {protocol.overlaps} overlap thresholds, precision at {protocol.precision_px:g} px, mean {mean}"
        )
    if isinstance(protocol, ResetProtocol):
        return (
            f"restarted {protocol.skip} frames after each failure, burn-in {protocol.burn_in} frames; "
            "robustness is failures per 100 frames, less is better"
        )
    return f"started at every anchor, lost after {protocol.grace} frames with an overlap of {protocol.failure:g} or less"


def _legend(entries: Sequence[Entry]) -> str:
    keys = "".join(f"<span>{_key(series, entry.name)}</span>" for series, entry in enumerate(entries))
    dashed = '<span class="faint">dashed: real time</span>' if any(entry.realtime for entry in entries) else ""
    return f'<p class="legend">{keys}{dashed}</p>'


def _key(series: int, name: str) -> str:
    return f'<i class="key" style="background:{colour(series)}"></i>{escape(name)}'


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are ``<td>`` elements already; headings are text."""
    cells = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll {kind}"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cells(values: Sequence[float], form: str, more_is_better: bool) -> list[str]:
    """One cell per bundle, the best of several in bold."""
    texts = [_number(value, form) for value in values]
    known = [value for value in values if math.isfinite(value)]
    # Judged as shown: a difference that the digits hide is none.
    best = _number((max if more_is_better else min)(known), form) if len(set(texts)) > 1 and known else ""
    return [f'<td class="best">{text}</td>' if text == best else f"<td>{text}</td>" for text in texts]


def _overview(entries: Sequence[Entry]) -> str:
    columns: list[tuple[str, list[str]]] = []

    def add(name: str, values: Sequence[float], form: str, more_is_better: bool) -> None:
        columns.append((name, _cells(values, form, more_is_better)))

    def scores(prefix: str, of: Callable[[Entry], Scores | None], names: Sequence[str]) -> None:
        for score in names:
            name, form, better = _heading(score, entries[0])
            found = [of(entry) for entry in entries]
            add(f"{prefix}{name}", [math.nan if one is None else one.overall.get(score, math.nan) for one in found], form, better)

    shown = [score for score in _HEADINGS if score in entries[0].scores.overall]
    scores("", lambda entry: entry.scores, shown)
    if realtime := entries[0].realtime:
        prefix = f"{realtime.fps:g} fps<br>"
        scores(prefix, _realtime_scores, shown[:2])
        add(f"{prefix}late", [entry.realtime.late if entry.realtime else math.nan for entry in entries], ".1%", False)
    add("fps", [entry.speed.fps for entry in entries], ".1f", True)
    add("p50 ms", [entry.speed.p50_ms for entry in entries], ".2f", False)
    add("p99 ms", [entry.speed.p99_ms for entry in entries], ".2f", False)
    rows = [
        [
            f'<td class="text">{_key(at, entry.name)}</td><td class="text">{entry.precision}</td>',
            f'<td class="text">{escape(entry.engine)}</td>',
            *(cells[at] for _, cells in columns),
        ]
        for at, entry in enumerate(entries)
    ]
    return "<h2>Scores and speed</h2>" + _table(["Bundle", "", "", *(name for name, _ in columns)], rows, "scores")


def _realtime_scores(entry: Entry) -> Scores | None:
    return None if entry.realtime is None else entry.realtime.scores


def _heading(score: str, entry: Entry) -> tuple[str, str, bool]:
    name, form, better = _HEADINGS[score]
    fails = score == "robustness" and isinstance(entry.scores.protocol, ResetProtocol)
    if score == "precision" and isinstance(entry.scores.protocol, OpeProtocol):
        name = f"{name}<br>{entry.scores.protocol.precision_px:g} px"
    return name, form, better and not fails


_AXES = {
    "success": ("Success", "overlap threshold", "share of frames"),
    "precision": ("Precision", "centre error threshold, px", "share of frames"),
    "norm_precision": ("Normalised precision", "centre error by the target's size", "share of frames"),
    "expected_overlap": ("Expected overlap", "sequence length, frames", "overlap"),
}


def _plots(report: Report) -> str:
    cards = []
    for plot, (title, x_label, y_label) in _AXES.items():
        lines = []
        for series, entry in enumerate(report.entries):
            both = ((entry.scores, False), (_realtime_scores(entry), True))
            for scores, dashed in both:
                if scores is not None and plot in scores.plots:
                    curve = scores.plots[plot]
                    name = f"{entry.name}{', real time' * dashed}"
                    lines.append(Line(name=name, x=curve.x, y=curve.y, series=series, dashed=dashed))
        if lines:
            at_px = report.protocol.precision_px if plot == "precision" and isinstance(report.protocol, OpeProtocol) else None
            chart = line_chart(lines, x_label=x_label, y_label=y_label, mark_x=at_px)
            cards.append(f'<div class="card"><h3>{title}</h3>{chart}</div>')
    return f'<h2>Plots</h2><div class="charts">{"".join(cards)}</div>'


def _score_name(entry: Entry) -> str:
    return "auc" if "auc" in entry.scores.overall else "accuracy"


def _attributes(entries: Sequence[Entry]) -> str:
    names = sorted(entries[0].scores.attributes)
    if not names:
        return ""
    score = _score_name(entries[0])
    values = [[entry.scores.attributes[name][score] for name in names] for entry in entries]
    head = ["Attribute", *(_key(series, entry.name) for series, entry in enumerate(entries))]
    sized = "sequences" in entries[0].scores.attributes[names[0]]
    rows = []
    for at, name in enumerate(names):
        count = f"<td>{entries[0].scores.attributes[name]['sequences']:.0f}</td>" if sized else ""
        rows.append([f"<td>{escape(name)}</td>", count, *_cells([row[at] for row in values], ".3f", True)])
    if sized:
        head.insert(1, "Sequences")
    radar = ""
    if len(names) >= 3:
        rings = [(entry.name, row) for entry, row in zip(entries, values, strict=True)]
        radar = f'<div class="card">{radar_chart(names, rings)}</div>'
    title = f"{_HEADINGS[score][0]} by attribute"
    return f'<h2>{title}</h2><div class="beside">{radar}{_table(head, rows)}</div>'


def _sequences(report: Report) -> str:
    score = _score_name(report.entries[0])
    head = ["Sequence", *(_key(series, entry.name) for series, entry in enumerate(report.entries))]
    names = sorted(
        report.entries[0].scores.sequences, key=lambda name: (_order(report.entries[0].scores.sequences[name][score]), name)
    )
    rows = []
    for name in names:
        cells = []
        for entry in report.entries:
            value = entry.scores.sequences[name][score]
            share = value if math.isfinite(value) else 0.0
            fails = entry.scores.sequences[name].get("failures")
            note = "" if fails is None else f' <span class="faint">{fails:.0f}×</span>'
            cells.append(f'<td class="bar" style="--share:{share:.1%}">{_number(value, ".3f")}{note}</td>')
        rows.append([f"<td>{escape(name)}</td>", *cells])
    note = " and failures" if isinstance(report.protocol, ResetProtocol) else ""
    return f"<h2>{_HEADINGS[score][0]}{note} by sequence, worst first</h2>{_table(head, rows)}"


def _order(value: float) -> float:
    return value if math.isfinite(value) else -1.0


def _worst(report: Report, dataset: DataSet, folders: Mapping[str, Path]) -> str:
    parts = [
        '<h2>Worst frames</h2><p class="faint">From each sequence of the lowest scores, the frame with the least overlap. '
        '<i class="key" style="background:#3cc850"></i>annotation '
        '<i class="key" style="background:#ff8000;margin-left:10px"></i>tracker</p>'
    ]
    for series, entry in enumerate(report.entries):
        figures = "".join(
            f'<figure><img alt="" src="data:image/jpeg;base64,{picture.jpeg}">'
            f"<figcaption>{escape(picture.sequence)}, frame {picture.frame}, overlap {picture.overlap:.2f}</figcaption></figure>"
            for picture in worst_pictures(entry, folders[entry.name], dataset, report.protocol)
        )
        if figures:
            parts.append(f'<h3>{_key(series, entry.name)}</h3><div class="pictures">{figures}</div>')
    return "".join(parts)
