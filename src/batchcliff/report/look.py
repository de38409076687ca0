"""How charts look: colours, shapes, type. Nothing here knows what a figure says."""

from __future__ import annotations

from typing import Any, Literal

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), told apart with any colour
# vision; its yellow, too pale on white, is replaced by a grey.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])  # for the second and third eight

# Marks on the floor, one for each outcome that is not ok: SVG paths in a unit square.
FLOOR_SHAPES = {
    "diverged": "M-.8,-.8L.8,.8M-.8,.8L.8,-.8",
    "infeasible": "M-.9,0L.9,0",
    "oom": "M-.8,-.8L.8,-.8L.8,.8L-.8,.8Z",
    "timeout": "M-.8,-.8L.8,-.8L-.8,.8L.8,.8Z",
    "failed": "M0,-.9L.9,.8L-.9,.8Z",
}
FLOOR_GLYPHS = {
    "diverged": "\N{MULTIPLICATION SIGN}",
    "infeasible": "\N{EN DASH}",
    "oom": "\N{WHITE SQUARE}",
    "timeout": "\N{WHITE HOURGLASS}",
    "failed": "\N{WHITE UP-POINTING TRIANGLE}",
}
"""The same marks as characters, for the legend of the page."""

INK, SOFT, RULE = "#1d2327", "#5b6670", "#e6e9ec"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def colour(slot: int) -> str:
    """Colour of the arm in `slot`."""
    return PALETTE[slot % len(PALETTE)]


def dash(slot: int) -> list[int]:
    """Dash pattern of the arm in `slot`: solid for the first eight."""
    return DASHES[(slot // len(PALETTE)) % len(DASHES)]


def shape(slot: int) -> str:
    """Shape of the arm's points."""
    return SHAPES[slot % len(SHAPES)]


def config(size: Literal["full", "small"] = "full") -> dict[str, Any]:
    """Vega-Lite configuration of every chart."""
    text = 12 if size == "full" else 11
    return {
        "font": FONT,
        "background": "white",
        "padding": 4,
        "view": {"stroke": None},
        "axis": {
            "labelColor": SOFT,
            "titleColor": INK,
            "labelFontSize": text,
            "titleFontSize": text,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "labelPadding": 5,
            "grid": True,
            "gridColor": RULE,
            "domain": False,
            "ticks": False,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": "#9aa4ac", "ticks": True,
                  "tickColor": "#9aa4ac", "tickSize": 4},
        "legend": {
            "labelFontSize": 12, "labelColor": INK, "labelLimit": 240, "symbolSize": 90,
            "title": None, "orient": "top", "direction": "horizontal", "columnPadding": 18,
            "columns": 4, "offset": 10,
        },
        "title": {
            "anchor": "start", "color": INK, "subtitleColor": SOFT, "frame": "group",
            "fontSize": 16 if size == "full" else 12.5,
            "fontWeight": 600, "subtitleFontSize": 12, "subtitlePadding": 5, "offset": 12,
        },
        "header": {"labelFontSize": 12, "labelColor": INK, "title": None},
    }  # fmt: skip
