"""Small pictures for reports, as SVG text. Pure functions; colours readable on light and dark pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 28, 34
COLOURS = ("#3b7dd8", "#d9822b", "#3a9a5b", "#a259c4")
INK = "#8a8f98"
POINTS_MAX = 200

Line = tuple[str, Sequence[tuple[float, float]]]
"""A name and its points (x, y), x ascending."""


def as_markdown_image(svg: str, alternative: str) -> str:
    """A markdown image with the SVG inside; Prefect's UI shows no inline SVG."""
    encoded = base64.b64encode(svg.encode()).decode()
    return f"![{alternative}](data:image/svg+xml;base64,{encoded})"


def rates(samples: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """(seconds, amount) sums to (seconds, amount per second), at most POINTS_MAX points.

    A sum that falls began anew (another engine): such a step counts as 0.
    """
    if len(samples) < 2:
        return []
    step = max(1, -(-len(samples) // POINTS_MAX))
    kept = [*samples[:-1:step], samples[-1]]
    return [
        (end, max(0, after - before) / (end - start)) for (start, before), (end, after) in pairwise(kept) if end > start
    ]


def line_chart(title: str, lines: Sequence[Line], unit: str, y_scale: float = 1.0) -> str:
    """Lines over time. x in seconds; y is divided by `y_scale` and labelled with `unit`."""
    drawn = [(name, [(x, y / y_scale) for x, y in points]) for name, points in lines if points]
    x_max = max((points[-1][0] for _, points in drawn), default=1.0) or 1.0
    y_max = max((y for _, points in drawn for _, y in points), default=1.0) or 1.0
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    body = [_text(LEFT, 16, title, anchor="start", weight="bold")]
    for share in (0.0, 0.5, 1.0):
        y = TOP + high * (1 - share)
        body.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{INK}" stroke-opacity=".35"/>'
        )
        body.append(_text(LEFT - 6, y + 4, f"{y_max * share:.3g}", anchor="end"))
        body.append(_text(LEFT + wide * share, HEIGHT - 18, f"{x_max * share:.3g} s"))
    body.append(_text(LEFT - 6, TOP - 12, unit, anchor="end"))
    for number, (name, points) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{LEFT + wide * x / x_max:.1f},{TOP + high * (1 - y / y_max):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body.append(_text(LEFT + 130 * number, HEIGHT - 3, name, anchor="start", colour=colour))
    return _svg(HEIGHT, body)


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: (name, length, label). The longest fills the width."""
    longest = max((length for _, length, _ in bars), default=1.0) or 1.0
    body = [_text(8, 16, title, anchor="start", weight="bold")]
    for number, (name, length, label) in enumerate(bars):
        y = TOP + 22 * number
        wide = 330 * max(0.0, length) / longest
        body.append(_text(118, y + 13, name[:16], anchor="end"))
        body.append(f'<rect x="124" y="{y}" width="{wide:.1f}" height="16" fill="{COLOURS[number % len(COLOURS)]}"/>')
        body.append(_text(130 + wide, y + 13, label, anchor="start"))
    return _svg(TOP + 22 * max(1, len(bars)) + 8, body)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", weight: str = "normal", colour: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _svg(height: int, body: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">{"".join(body)}</svg>'
    )


def throughput(samples: Sequence[tuple[float, Mapping[str, int]]], counters: Mapping[str, str]) -> str:
    """A markdown image of rates over time. samples: (seconds, counts so far); counters: of each line, by its name."""
    lines: list[Line] = [
        (name, rates([(seconds, counted.get(counter, 0)) for seconds, counted in samples]))
        for name, counter in counters.items()
    ]
    return as_markdown_image(line_chart("Throughput", lines, "MB/s", 1e6), "throughput over time")
