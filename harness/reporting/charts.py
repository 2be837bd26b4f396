# SPDX-License-Identifier: Apache-2.0
"""Results → plots, as SVG without script or style of their own: the page's style sheet dresses them.

pygal draws: pure Python, imported and drawn in a tenth of the time that matplotlib needs, and with
classes instead of fixed colours, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as Xml

import pygal
from markupsafe import Markup
from pygal.style import Style

from harness.reporting.minimum import by_age, programs_of
from harness.reporting.words import number
from harness.results import Cell, Figure, Run, Series

# pygal finds maps that nobody here draws with an import hook of a kind that Python gave up.
sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__module__ != "pygal"]

_STYLE: Final = Style(
    label_font_size=12, major_label_font_size=12, legend_font_size=13, value_font_size=11,
    font_family="sans-serif",
)  # fmt: skip
_WIDTH: Final = 960
_PHASES_SHOWN: Final = 7  # the longest; the others are one more
_COST_CHECKS: Final = ("overhead", "memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """How a series looks: by the classes that its SVG has, and the page's style sheet."""

    name: str
    classes: str
    line: bool = True  # else an area


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A plot and the same numbers as a table."""

    id: str
    title: str
    caption: str
    drawings: tuple[tuple[str, Markup], ...]  # a heading ("" for none), SVG
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[Key, ...] = ()


def charts(run: Run) -> list[Chart]:
    """Those for which the results have numbers."""
    cells = by_age(run.cells)
    found = [_instructions(cells), _over_time(cells), *_costs(cells), _time(cells)]
    return [chart for chart in found if chart is not None]


# ---- the plots ----


def _instructions(cells: Sequence[Cell]) -> Chart | None:
    said = {cell.kernel.name: {p.name: p for p in programs_of(cell)} for cell in cells}
    # A logarithm has no place for less than one instruction.
    said = {k: v for k, v in said.items() if any((p.insns_processed or 0) > 0 for p in v.values())}
    names = list(dict.fromkeys(name for programs in said.values() for name in programs))
    if not names:
        return None
    values = {
        name: [_positive(programs[name].insns_processed) if name in programs else None
               for programs in said.values()]
        for name in names
    }  # fmt: skip
    answers = [program for programs in said.values() for program in programs.values()]
    limits = sorted({v for p in answers if (v := _positive(p.insns_limit)) is not None})
    shown = [float(value) for column in values.values() for value in column if value]
    marks = _marks(min(shown), max([*shown, *limits]))
    chart = _line(_WIDTH, 380, list(said), logarithmic=True, y_labels=marks,
                  range=(marks[0], marks[-1] * 1.05))  # fmt: skip
    for name in names:
        chart.add(name, values[name])
    for limit in limits:
        chart.add(f"limit {number(limit)}", [limit] * len(said), show_dots=len(said) == 1)
    rows = tuple(
        (kernel, *(_text(values[name][row]) for name in names)) for row, kernel in enumerate(said)
    )
    return Chart(
        id="instructions", title="Instructions that the verifier processed",
        caption="Of each program on each kernel, with the limit. The scale is logarithmic.",
        keys=keys(names, limits=[f"limit {number(limit)}" for limit in limits]),
        drawings=(("", _drawn(chart, limits=range(len(names), len(names) + len(limits)))),),
        headers=("kernel", *names), rows=rows,
    )  # fmt: skip


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _sane(value: float | None) -> float | None:
    """pygal divides by what a plot spans, which must be neither nothing nor everything."""
    if value is None or not abs(value) < 1e15:
        return None
    return value if abs(value) > 1e-6 else 0.0


def _marks(low: float, high: float) -> list[float]:
    """Round numbers around the values of a logarithmic scale: 1, 2, 5, 10, …"""
    steps = (1, 2, 5) if high < 200 * low else (1,)
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(step * 10**ten) for ten in tens for step in steps]
    below = max((mark for mark in marks if mark <= low), default=low)
    above = min((mark for mark in marks if mark >= high), default=high)
    return [mark for mark in marks if below <= mark <= above]


def _over_time(cells: Sequence[Cell]) -> Chart | None:
    found = {
        cell.kernel.name: [(c.check, one) for c in cell.checks for one in c.series if one.values]
        for cell in cells
    }
    found = {kernel: several for kernel, several in found.items() if several}
    if not found:
        return None
    everything = [series for several in found.values() for _, series in several]
    names = list(dict.fromkeys(series.name for series in everything))
    units = ", ".join(dict.fromkeys(series.unit for series in everything))
    step_ms = 1000 * min(series.step_s for series in everything)
    values = [v for one in everything for v in (*one.values, one.limit) if _sane(v) is not None]
    top = max((v for v in values if v is not None), default=1.0)
    return Chart(
        id="over-time", title="Events over time",
        caption=f"In {units}, counted every {step_ms:g} ms, all plots on the same scale. So short "
        "a time may hold more than its share; what the checks judge is every whole second.",
        keys=keys(names, limits=["limit"] if any(s.limit for s in everything) else []),
        drawings=tuple(
            (kernel, _small([series for _, series in several], names, top))
            for kernel, several in found.items()
        ),
        headers=("kernel", "check", "what", "length", "highest", "mean", "limit", "unit"),
        rows=tuple(
            (
                kernel, check, series.name, f"{len(series.values) * series.step_s:.1f} s",
                number(max(series.values)), number(sum(series.values) / len(series.values)),
                _text(series.limit), series.unit,
            )
            for kernel, several in found.items()
            for check, series in several
        ),
    )  # fmt: skip


def _small(several: Sequence[Series], names: Sequence[str], top: float) -> Markup:
    """One kernel's series; a series has the same place, so the same colour, in every plot."""
    limits = sorted({v for series in several if (v := _sane(series.limit)) is not None})
    marks = [0.0, *limits, *([2 * limits[-1]] if limits and top > 1.4 * limits[-1] else [])]
    chart = pygal.XY(
        **_options(
            340, 150, show_dots=False, show_legend=False, range=(0, max(top, marks[-1]) * 1.05),
            include_x_axis=True, y_labels=marks if limits else None,
            x_labels_major_count=3, show_minor_x_labels=False, margin=6, margin_bottom=12,
            margin_right=24, x_value_formatter=lambda value: f"{value:g} s",
        )
    )  # fmt: skip
    by_name = {series.name: series for series in several}
    for name in names:
        series = by_name.get(name)
        values = series.values if series else ()
        step_s = series.step_s if series else 1.0
        points = [(_sane(at * step_s), _sane(value)) for at, value in enumerate(values)]
        chart.add(name, [point for point in points if None not in point])
    end = max(len(series.values) * series.step_s for series in several)
    for limit in limits:
        chart.add("limit", [(0, limit), (end, limit)])
    return _drawn(chart, limits=range(len(names), len(names) + len(limits)))


def _costs(cells: Sequence[Cell]) -> list[Chart | None]:
    return [_cost(cells, check) for check in _COST_CHECKS]


def _cost(cells: Sequence[Cell], name: str) -> Chart | None:
    """The figures of a check that have the unit of its first one, over kernels."""
    figures = {
        cell.kernel.name: check.figures
        for cell in cells
        for check in cell.checks
        if check.check == name and check.figures
    }
    if not figures:
        return None
    unit = next(iter(figures.values()))[0].unit
    same = [f for all_ in figures.values() for f in all_ if f.unit == unit]
    names = list(dict.fromkeys(f.name for f in same))
    limits = sorted({v for f in same if (v := _sane(f.limit)) is not None})
    table = [[_of(all_, one) for one in names] for all_ in figures.values()]
    chart = _line(_WIDTH, 300, list(figures), include_x_axis=True)
    for column, one in enumerate(names):
        chart.add(one, [_sane(row[column]) for row in table])
    for limit in limits:
        chart.add("limit", [limit] * len(figures), show_dots=len(figures) == 1)
    emulated = any(f.emulated for all_ in figures.values() for f in all_)
    return Chart(
        id=f"cost-{name}", title={"overhead": "CPU", "memory": "Memory"}.get(name, name),
        caption=f"In {unit}, as the {name} check found it on each kernel."
        + (" Measured under emulation." if emulated else ""),
        keys=keys(names, limits=[f"limit {number(limit)} {unit}" for limit in limits]),
        drawings=(("", _drawn(chart, limits=range(len(names), len(names) + len(limits)))),),
        headers=("kernel", *names),
        rows=tuple((k, *(_text(v) for v in row)) for k, row in zip(figures, table, strict=True)),
    )  # fmt: skip


def _of(figures: Sequence[Figure], name: str) -> float | None:
    return next((figure.value for figure in figures if figure.name == name), None)


def _time(cells: Sequence[Cell]) -> Chart | None:
    timed = {cell.kernel.name: cell.phases_s for cell in cells if cell.phases_s}
    if not timed:
        return None
    totals: dict[str, float] = {}
    for phases in timed.values():
        for name, seconds in phases.items():
            totals[name] = totals.get(name, 0.0) + seconds
    longest = set(sorted(totals, key=lambda name: -totals[name])[:_PHASES_SHOWN])
    shown = [name for name in totals if name in longest]
    others = [name for name in totals if name not in longest]
    columns: list[tuple[str, Callable[[dict[str, float]], float]]] = [
        (name, lambda phases, name=name: phases.get(name, 0.0))  # type: ignore[misc]
        for name in shown
    ]
    if others:
        columns.append(("others", lambda phases: sum(phases.get(name, 0.0) for name in others)))
    height = 50 + 24 * len(timed)
    chart = pygal.HorizontalStackedBar(
        **_options(
            _WIDTH, height, show_legend=False,
            value_formatter=lambda value: f"{number(value)} s", show_y_guides=False,
            show_x_guides=True,
        )
    )  # fmt: skip
    # A horizontal bar chart counts from below; the oldest kernel belongs on top.
    chart.x_labels = list(reversed(timed))
    for name, of in columns:
        spent = [_sane(of(timed[kernel])) for kernel in reversed(timed)]
        chart.add(name, [None if value is None else round(value, 3) for value in spent])
    return Chart(
        id="time", title="Where cells spent their time",
        caption="Seconds of each phase and check, of every kernel that was booted.",
        keys=tuple(
            Key(name=name, classes=f"color-{at}", line=False) for at, (name, _) in enumerate(columns)
        ),
        drawings=(("", _drawn(chart)),),
        headers=("kernel", *totals, "all"),
        rows=tuple(
            (
                kernel, *(f"{phases[n]:.1f}" if n in phases else "–" for n in totals),
                f"{sum(phases.values()):.1f}",
            )
            for kernel, phases in timed.items()
        ),
    )  # fmt: skip


def _text(value: float | None) -> str:
    return "–" if value is None else number(value)


def keys(names: Sequence[str], limits: Sequence[str]) -> tuple[Key, ...]:
    """For plots whose series have these names, in this order, and then these limits."""
    series = [Key(name=one, classes=f"serie-{at} color-{at}") for at, one in enumerate(names)]
    return (*series, *(Key(name=one, classes="limit") for one in limits))


def line_chart(
    labels: Sequence[str], lines: Mapping[str, Sequence[float | None]]
) -> tuple[str, Markup]:
    """A drawing without heading: a line for each name over the labels, from zero."""
    chart = _line(_WIDTH, 260, labels, include_x_axis=True)
    for name, values in lines.items():
        chart.add(name, [_sane(value) for value in values])
    return "", _drawn(chart)


# ---- pygal ----


# pygal has no type hints; its charts and options stay within this part.
def _options(width: int, height: int, **more: Any) -> dict[str, Any]:
    return {
        "style": _STYLE, "width": width, "height": height, "js": (), "css": (),
        "explicit_size": True, "value_formatter": number, "margin": 12, "truncate_label": -1,
        "truncate_legend": -1, "legend_box_size": 10, "no_data_text": "no numbers", **more,
    }  # fmt: skip


def _line(width: int, height: int, labels: Sequence[str], **options: Any) -> Any:
    many = len(labels) > 8
    chart = pygal.Line(
        **_options(
            width, height, x_label_rotation=-60 if many else 0, show_legend=False,
            margin_right=48, **options,
        )
    )  # fmt: skip
    chart.x_labels = list(labels)
    return chart


def _drawn(chart: Any, *, limits: Collection[int] = ()) -> Markup:
    """The SVG without pygal's scripts, styles and tips; values become titles that browsers show."""
    root: Xml.Element = chart.render_tree()
    root.attrib.pop("id", None)
    root.set("role", "img")
    root.set("aria-hidden", "true")  # the table beside it says the same
    for child in list(root):
        if child.tag != "g":
            root.remove(child)
    for group in root.iter("g"):
        for child in list(group):
            classes = child.get("class", "")
            if "tooltip-overlay" in classes or "text-overlay" in classes:
                group.remove(child)
        _name_values(group)
        for number_ in limits:
            if f"serie-{number_} " in f"{group.get('class', '')} ":
                group.set("class", f"{group.get('class')} limit")
    for child in [one for one in root if "-overlay" in one.get("class", "")]:
        root.remove(child)
    return Markup(Xml.tostring(root, encoding="unicode"))  # serialised, so escaped


def _name_values(group: Xml.Element) -> None:
    """pygal's `desc`s of a value, made one title."""
    descs = [child for child in group if child.tag == "desc"]
    said = {desc.get("class", ""): desc.text or "" for desc in descs}
    for desc in descs:
        group.remove(desc)
    if said.get("value"):
        words = [text for text in (said.get("x_label"), said["value"]) if text]
        title = Xml.Element("title")
        title.text = ": ".join(words)
        group.insert(0, title)
