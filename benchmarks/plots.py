"""Plots of what the benchmarks measured, as SVG: the same figures make the same file.

    python -m benchmarks.plots --retrieval retrieval.json --speed speed.json --out docs/images

Writes retrieval.svg (recall@10 with its 95 % interval, by corpus and system) and speed.svg (milliseconds at the median
and at the 95th percentile, on a logarithmic scale, at each size). The files are of `benchmarks.retrieval --json` and
`benchmarks.speed --json`.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, cast

WIDTH: Final = 720
_LEFT: Final = 220
_RIGHT: Final = 90
_ROW: Final = 22
_HEAD: Final = 56
_PANEL_HEAD: Final = 30
_FOOT: Final = 34
# Readable on white and on the dark ground of whoever reads at night.
_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; font-size: 15px; } .panel { font-weight: 600; }
  .small { font-size: 11px; fill: #57606a; }
  .grid { stroke: #d0d7de; stroke-width: 1; } .others { fill: #8c959f; stroke: #8c959f; }
  .ours { fill: #0969da; stroke: #0969da; }
  .others, .ours { stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; } .grid { stroke: #3d444d; }
    .ours { fill: #4493f8; stroke: #4493f8; }
  }
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line of a plot: a value, and from where to where it may lie or reach."""

    name: str
    value: float
    low: float
    high: float
    told: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """Marks that belong together, under one heading."""

    heading: str
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values stand.

    Attributes:
        ticks: the values that are written; the first is at the left end, the last at the right.
        logarithmic: whether equal steps are equal factors.
        unit: what is written after the ticks.
    """

    ticks: list[float]
    logarithmic: bool
    unit: str

    def place(self, value: float) -> float:
        """Return the horizontal place of a value, in pixels; what lies outside stands at the end."""
        low, high, here = self.ticks[0], self.ticks[-1], min(max(value, self.ticks[0]), self.ticks[-1])
        if self.logarithmic:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (here - low) / (high - low)


def draw(title: str, note: str, panels: list[Panel], scale: Scale) -> str:
    """Return a plot as SVG.

    Args:
        title: what it shows.
        note: how to read it.
        panels: from top to bottom.
        scale: of all panels.
    """
    bottom = _HEAD + sum(_PANEL_HEAD + _ROW * len(panel.marks) for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + _FOOT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
        f'<text class="small" x="0" y="38">{escape(note)}</text>',
    ]
    for tick in scale.ticks:
        x = scale.place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_HEAD}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{tick:g}{scale.unit}</text>'
        )
    y = _HEAD
    for panel in panels:
        parts.append(f'<text class="panel" x="0" y="{y + 18}">{escape(panel.heading)}</text>')
        y += _PANEL_HEAD
        for mark in panel.marks:
            middle = y + _ROW / 2
            kind = "ours" if mark.ours else "others"
            low, here, high = (scale.place(value) for value in (mark.low, mark.value, mark.high))
            parts += [
                f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(mark.name)}</text>',
                f'<line class="{kind}" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>',
                f'<circle class="{kind}" cx="{here:.1f}" cy="{middle:.1f}" r="4"/>',
                f'<text class="small" x="{high + 10:.1f}" y="{middle + 4:.1f}">{escape(mark.told)}</text>',
            ]
            y += _ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def retrieval_plot(told: dict[str, Any]) -> str:
    """Plot what `benchmarks.retrieval` wrote."""
    panels: list[Panel] = []
    for corpus, systems in told["figures"].items():
        *_, us = systems
        marks: list[Mark] = []
        for name, metrics in systems.items():
            one = metrics["recall@10"]
            marks.append(Mark(name, one["mean"], one["low"], one["high"], f"{one['mean']:.3f}", name == us))
        panels.append(Panel(corpus, marks))
    return draw(
        "How much of what answers a question is among the first ten",
        "recall@10 with its 95 % interval, by bootstrap over the questions",
        panels,
        Scale([0, 0.2, 0.4, 0.6, 0.8, 1], logarithmic=False, unit=""),
    )


#: What the speed benchmark calls what isn't ours.
_FOREIGN: Final = ("bare", "by hand", "raw", "pgvector SQL", "full-text SQL")


def speed_plot(told: dict[str, Any]) -> str:
    """Plot what `benchmarks.speed` wrote."""
    measured = [(f"one workspace of {figures['items']:,} items", figures) for figures in told["single"]]
    if told.get("tenants"):
        measured.append(
            (f"one of 100 workspaces of {told['tenants']['items']:,} items together", told["tenants"])
        )
    panels: list[Panel] = []
    for heading, figures in measured:
        marks: list[Mark] = []
        for name, one in cast("dict[str, dict[str, float]]", figures["contestants"]).items():
            p50, p95 = one["p50_ms"], one["p95_ms"]
            ours = not any(word in name for word in _FOREIGN)
            marks.append(Mark(name, p50, p50, p95, f"{p50:.1f} / {p95:.1f} ms", ours))
        panels.append(Panel(heading, marks))
    values = [value for panel in panels for mark in panel.marks for value in (mark.low, mark.high)]
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [10.0**power for power in range(first, max(last, first + 1) + 1)]
    return draw(
        "How long an answer takes",
        "milliseconds for one client: the median (dot), to the 95th percentile; logarithmic",
        panels,
        Scale(ticks, logarithmic=True, unit=" ms"),
    )


def main() -> None:
    """Write the plots of the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--retrieval", type=Path, help="what benchmarks.retrieval wrote with --json")
    parser.add_argument("--speed", type=Path, help="what benchmarks.speed wrote with --json")
    parser.add_argument("--out", type=Path, required=True, help="the directory for the plots")
    arguments = parser.parse_args()
    if arguments.retrieval is None and arguments.speed is None:
        parser.error("nothing to plot: give --retrieval or --speed")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path, name, plot in (
        (arguments.retrieval, "retrieval.svg", retrieval_plot),
        (arguments.speed, "speed.svg", speed_plot),
    ):
        if path is not None:
            (arguments.out / name).write_text(plot(json.loads(path.read_text("utf-8"))), encoding="utf-8")
            print(arguments.out / name)


if __name__ == "__main__":
    main()
