"""Writes what `make bench-feed` found into docs/BENCHMARKS.md: a table, and a plot beside it.

    python -m benchmarks.feed_page

It takes the last whole run, which the benchmark keeps in .bench/feed/results.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.feed_figures import LOWER
from benchmarks.feed_sides import ROOT

KEPT = "results.json"
PAGE, PLOT = ROOT / "docs" / "BENCHMARKS.md", ROOT / "docs" / "bench-feed.svg"
BEGIN, END = "<!-- bench-feed: begin -->", "<!-- bench-feed: end -->"
ROW, LEFT, WIDTH, MOST = 24, 230, 520, 3.0  # in pixels; bars end at three times the goal
Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| figure | result | goal | | medians | ran |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: Row) -> str:
    goal = f"{'≤' if row['name'] in LOWER else '≥'} {row['goal']:g}"
    if row["value"] is None:
        return f"| `{row['name']}` | not measured | {goal} | | | {_cell(row['reason'])} |"
    verdict = "met" if row["meets"] else "**missed**"
    cells = (f"`{row['name']}`", f"{row['value']:.3g} {row['unit']}", goal, verdict, _cell(row["seen"]), row["ran"])
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "and")


def plot(rows: Sequence[Row]) -> str:
    """As SVG: each figure as many times its goal as it is better; the line is the goal."""
    measured = [row for row in rows if row["value"]]
    high = ROW * (len(measured) + 2)
    goal_x = LEFT + WIDTH / MOST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {high}" font-family="sans-serif" '
        'font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        *(part for place, row in enumerate(measured) for part in _bar(place, row)),
        f'<line x1="{goal_x:.1f}" x2="{goal_x:.1f}" y1="4" y2="{high - ROW}" stroke="black" stroke-dasharray="4 3"/>',
        f'<text x="{goal_x:.1f}" y="{high - 8}" text-anchor="middle">the goal; longer is better</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(place: int, row: Row) -> Iterator[str]:
    times = row["goal"] / row["value"] if row["name"] in LOWER else row["value"] / row["goal"]
    y, wide = ROW * place + 8, min(times, MOST) * WIDTH / MOST
    colour = "#2f7d4f" if row["meets"] else "#b4432f"
    yield f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(row["name"])}</text>'
    yield f'<rect x="{LEFT}" y="{y}" width="{wide:.1f}" height="{ROW - 7}" fill="{colour}"/>'
    yield f'<text x="{LEFT + wide + 6:.1f}" y="{y + 13}">{row["value"]:.3g}</text>'


def fill(page: str, rows: Sequence[Row], machine: str) -> str:
    """The page with what stands between its marks replaced."""
    block = f"{BEGIN}\n{machine}\n\n{table(rows)}\n\n![Each figure over its goal](bench-feed.svg)\n{END}"
    filled, times = re.subn(f"{BEGIN}.*?{END}", lambda _: block, page, flags=re.DOTALL)
    if times != 1:
        raise ValueError(f"a page has {BEGIN} and {END} once, got {times}")
    return filled


def main(kept: Path = ROOT / ".bench" / "feed" / KEPT) -> None:
    found = json.loads(kept.read_text())
    PAGE.write_text(fill(PAGE.read_text(), found["results"], found["machine"]))
    PLOT.write_text(plot(found["results"]))


if __name__ == "__main__":
    main()
