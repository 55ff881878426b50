"""Plots as SVG: lines over a logarithmic axis, bars, and panels over time. Written by hand: these need no library."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 720
TOP: Final = 64
LINES_TOP: Final = 88
LINES_HEIGHT: Final = 420
LEFT, RIGHT, BOTTOM = 84, 40, 56
BAR, BAR_GAP, LABELS = 22, 14, 280
COLOURS: Final = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#6e7781")
TEXT_COLOUR, GRID = "#24292f", "#d8dee4"
CHARACTER: Final = 6.6
"""About how wide one is."""

Point = tuple[float, float]


def lines(title: str, x_title: str, y_title: str, series: dict[str, list[Point]]) -> str:
    """Draw a line for each series, from 0 upwards, over powers of ten."""
    points = [point for each in series.values() for point in each]
    first, last = floor(log10(min(x for x, _ in points))), ceil(log10(max(x for x, _ in points)))
    last = max(last, first + 1)
    steps = nice_steps(max(y for _, y in points))
    inner, depth = WIDTH - LEFT - RIGHT, LINES_HEIGHT - LINES_TOP - BOTTOM

    def x_of(x: float) -> float:
        return LEFT + inner * (log10(x) - first) / (last - first)

    def y_of(y: float) -> float:
        return LINES_TOP + depth * (1 - y / steps[-1])

    parts = [
        _text(LEFT + inner / 2, LINES_HEIGHT - 14, x_title, "middle"),
        _text(LEFT, LINES_TOP - 12, y_title, "start", 12),
    ]
    for step in steps:
        parts += [
            _rule(LEFT, y_of(step), WIDTH - RIGHT, y_of(step)),
            _text(LEFT - 8, y_of(step) + 4, _short(step), "end"),
        ]
    for power in range(first, last + 1):
        x = x_of(10**power)
        parts += [
            _rule(x, LINES_TOP, x, LINES_TOP + depth),
            _text(x, LINES_TOP + depth + 18, _short(10**power), "middle"),
        ]
    for each, colour in zip(series.values(), COLOURS, strict=False):
        parts += _line(each, x_of, y_of, colour)
    parts += _legend(list(series), 44)
    return _document(title, LINES_HEIGHT, parts)


def _line(
    points: list[Point], x_of: Callable[[float], float], y_of: Callable[[float], float], colour: str
) -> list[str]:
    places = [(x_of(x), y_of(y)) for x, y in sorted(points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>', *dots]


def bars(
    title: str, unit: str, rows: Mapping[str, Sequence[float]], parts: Sequence[str] = (), *, log: bool = False
) -> str:
    """Draw a bar for each row, of one part or of several; logarithmic where the figures are far apart."""
    legend = 24 if parts else 0
    top = TOP + legend - 16
    height = top + len(rows) * (BAR + BAR_GAP) + BOTTOM - 14
    totals = {name: sum(values) for name, values in rows.items()}
    inner = WIDTH - LABELS - 96
    steps = _powers(list(totals.values())) if log else nice_steps(max(totals.values()))

    def x_of(value: float) -> float:
        if log:
            return LABELS + inner * log10(max(value, steps[0]) / steps[0]) / log10(steps[-1] / steps[0])
        return LABELS + inner * value / steps[-1]

    drawn = [_rule(x_of(step), top - 6, x_of(step), height - BOTTOM + 8) for step in steps]
    drawn += [_text(x_of(step), height - BOTTOM + 24, _short(step), "middle") for step in steps]
    drawn.append(_text(LABELS + inner / 2, height - 12, unit, "middle"))
    for place, (name, values) in enumerate(rows.items()):
        y = top + place * (BAR + BAR_GAP)
        drawn.append(_text(LABELS - 10, y + BAR / 2 + 4, name, "end"))
        start = 0.0
        for value, colour in zip(values, COLOURS, strict=False):
            x, end = x_of(start), x_of(start + value)
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{end - x:.1f}" height="{BAR}" fill="{colour}"/>')
            start += value
        drawn.append(_text(x_of(totals[name]) + 6, y + BAR / 2 + 4, _figure(totals[name]), "start"))
    return _document(title, height, drawn + _legend(list(parts), 44))


PANEL_WIDTH, PANEL_HEIGHT, PANELS_ACROSS = 360, 232, 3
PANEL_LEFT, PANEL_TOP, PANEL_BOTTOM = 58, 34, 68
LEGEND_ROWS: Final = 2
STROKES: Final = [(colour, dashes) for dashes in ("", ' stroke-dasharray="4 2"') for colour in COLOURS]


def panels(title: str, found: Sequence[tuple[str, str, Mapping[str, Sequence[Point]]]]) -> str:
    """Draw lines over seconds in many small plots, of title, unit and lines each."""
    drawn = []
    last = max((x for _, _, series in found for each in series.values() for x, _ in each), default=1.0)
    for place, (name, unit, series) in enumerate(found):
        row, column = divmod(place, PANELS_ACROSS)
        shift = f"translate({column * PANEL_WIDTH} {44 + row * PANEL_HEIGHT})"
        drawn += [f'<g transform="{shift}">', *_panel(f"{name}, {unit}", series, last), "</g>"]
    rows = ceil(len(found) / PANELS_ACROSS)
    return _document(title, 52 + rows * PANEL_HEIGHT, drawn, PANELS_ACROSS * PANEL_WIDTH)


def _panel(title: str, series: Mapping[str, Sequence[Point]], last: float) -> list[str]:
    steps = nice_steps(max((y for each in series.values() for _, y in each), default=0.0))
    inner, depth = PANEL_WIDTH - PANEL_LEFT - 16, PANEL_HEIGHT - PANEL_TOP - PANEL_BOTTOM

    def y_of(y: float) -> float:
        return PANEL_TOP + depth * (1 - y / steps[-1])

    drawn = [_text(12, 18, title, "start", 13, "bold")]
    for step in steps:
        drawn += [
            _rule(PANEL_LEFT, y_of(step), PANEL_LEFT + inner, y_of(step)),
            _text(PANEL_LEFT - 6, y_of(step) + 4, _short(round(step, 9)), "end", 10),
        ]
    drawn.append(_text(PANEL_LEFT + inner, PANEL_TOP + depth + 14, f"{last:.0f} s", "end", 10))
    for each, (colour, dashes) in zip(series.values(), STROKES, strict=False):
        path = " ".join(f"{PANEL_LEFT + inner * x / last:.1f},{y_of(y):.1f}" for x, y in each)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>')
    return drawn + _small_legend(list(series), PANEL_TOP + depth + 30)


def _small_legend(names: list[str], y: float) -> list[str]:
    drawn, x, row = [], 12.0, 0
    for name, colour in zip(names, COLOURS * 2, strict=False):
        width = 22 + len(name) * 5.6
        if x + width > PANEL_WIDTH:
            x, row = 12.0, row + 1
        if row == LEGEND_ROWS:
            break
        drawn.append(f'<rect x="{x:.0f}" y="{y - 8 + 15 * row:.0f}" width="9" height="9" rx="2" fill="{colour}"/>')
        drawn.append(_text(x + 13, y + 15 * row, name, "start", 10))
        x += width
    return drawn


def nice_steps(most: float) -> list[float]:
    """Return marks from 0 to at least so much, of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(most / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= most)
    return [step * place for place in range(ceil(most / step) + 1)]


def _powers(values: list[float]) -> list[float]:
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _legend(names: list[str], y: float) -> list[str]:
    drawn, x = [], float(LEFT if len(names) else 0)
    for name, colour in zip(names, COLOURS, strict=False):
        drawn.append(f'<rect x="{x:.0f}" y="{y - 9}" width="12" height="12" rx="2" fill="{colour}"/>')
        drawn.append(_text(x + 18, y + 1, name, "start"))
        x += 18 + len(name) * CHARACTER + 24
    return drawn


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, weight: str = "normal") -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{TEXT_COLOUR}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _rule(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{GRID}"/>'


def _short(value: float) -> str:
    """Write a mark of an axis."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"  # noqa: PLR2004


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - about three digits


def _document(title: str, height: float, parts: list[str], width: int = WIDTH) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}"'
        f' height="{height:.0f}" font-family="Helvetica, Arial, sans-serif" role="img">'
    )
    background = f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>'
    heading = _text(24, 26, title, "start", 16, "bold")
    return "\n".join((head, f"<title>{escape(title)}</title>", background, heading, *parts, "</svg>", ""))
