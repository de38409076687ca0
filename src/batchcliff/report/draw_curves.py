"""Small charts of curves by epoch or update as Vega-Lite specifications."""

from __future__ import annotations

from typing import Any

from batchcliff.report import look
from batchcliff.report.figures import Curve, CurvePanels, Panel
from batchcliff.report.scales import (
    SCHEMA,
    Arms,
    Data,
    Row,
    Spec,
    Width,
    decades,
    finish,
    layer,
    place,
    text,
    title,
)

COLUMNS = {1: 740, 2: 345, 3: 230}  # small charts beside each other -> pixels of each
LINE = 0.07  # of the axis of accuracy: between two lines of names
MAX_LABELS = 12  # of batch sizes at the ends of curves; more than that: the outer two


def panel_chart(
    figure: CurvePanels, panel: Panel, width: Width = 230, height: int = 150
) -> Spec:
    """One small chart, its title the panel's; all panels of a figure share their scales."""
    layers, data = _panel(figure, panel, "curves", legend=False)
    words = (panel.title, "")
    return finish(layers, data, width, height, words, titled=True, size="small")


def panel_height(figure: CurvePanels) -> int:
    """Pixels: more where there are few panels, or where curves are named at their ends."""
    return 240 if figure.quantity == "learning rate" or len(figure.panels) < 3 else 150


def panels_chart(figure: CurvePanels) -> Spec:
    """All panels as one static chart with a title and a legend, at most three in a row."""
    charts: list[Spec] = []
    data: Data = {}
    rates = figure.quantity == "learning rate"
    columns = min(len(figure.panels), 2 if rates else 3)
    width, height = COLUMNS[columns], panel_height(figure)
    for i, panel in enumerate(figure.panels):
        layers, rows = _panel(figure, panel, f"curves{i}", legend=not rates)
        data |= rows
        small = title(panel.title, fontSize=12.5)
        charts.append({"width": width, "height": height, "title": small, "layer": layers})
    return {
        "$schema": SCHEMA,
        "title": title(figure.title, figure.subtitle, frame="bounds", offset=16),
        "description": f"{figure.title}. {figure.subtitle}",
        "concat": charts,
        "columns": columns,
        "datasets": data,
        "config": look.config(),
    }


def _panel(
    figure: CurvePanels, panel: Panel, name: str, legend: bool
) -> tuple[list[Spec], Data]:
    """Lines in their arm's colour; learning rates are named by batch size at their end."""
    every = [curve for one in figure.panels for curve in one.curves]
    beside = [c for one in figure.panels if one.place == panel.place for c in one.curves]
    arms = Arms((curve.arm, curve.slot) for curve in every)
    data: Data = {name: [row for curve in panel.curves for row in _curve_rows(curve, arms)]}
    x = _place_axis(panel, panel.place or figure.place, beside)
    at = {"x": x, "y": _value_axis(figure, every)}
    line = at | {
        "color": arms.colour(legend, lines=True),
        "detail": text("curve"),
        "strokeDash": arms.dash(),
    }
    layers = [layer(name, "line", line, strokeWidth=1.4, opacity=0.8, clip=True)]
    if figure.line is not None:
        data[f"{name}-limit"] = [{"value": figure.line}]
        across = {"y": _value_axis(figure, every)}
        layers.append(layer(f"{name}-limit", "rule", across, strokeDash=[3, 3], opacity=0.6))
    if panel.named:
        data[f"{name}-ends"] = _curve_ends(panel, arms)
        words = at | {"text": text("label"), "color": arms.colour(legend, lines=True)}
        layers.append(layer(f"{name}-ends", "text", words, align="left", dx=4, fontSize=10.5))
    return layers, data


def _place_axis(panel: Panel, name: str, curves: list[Curve]) -> Spec:
    """Epochs or updates, from 0, or from the first of any curve where the axis is a log one."""
    shown = [curve.points for curve in curves if curve.points]
    last = max((points[-1][0] for points in shown), default=1)
    scale: Spec = {"domain": [0, last], "nice": False}
    if panel.log:
        first = max(min((points[0][0] for points in shown), default=1), 1)
        scale = {"type": "log", "domain": [first, max(last, first + 1)], "nice": False}
    axis = {"tickCount": 5, "format": ",d", "grid": False}
    return place("epoch", title=name, scale=scale, axis=axis)


def _value_axis(figure: CurvePanels, curves: list[Curve]) -> Spec:
    if figure.quantity == "test accuracy":
        axis: dict[str, Any] = {"format": ".0%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
        return place("value", title=None, scale={"domain": [0, 1]}, axis=axis)
    shown = [value for curve in curves for _, value in curve.points]
    domain, ticks = decades(shown if figure.line is None else [*shown, figure.line])
    scale = {"type": "log", "domain": domain, "nice": False}
    return place("value", title=None, scale=scale, axis={"format": "~g", "values": ticks})


def _curve_rows(curve: Curve, arms: Arms) -> list[Row]:
    at = {
        "arm": arms.labels[curve.arm],
        "curve": f"{curve.batch_size}/{curve.seed}/{curve.slot}",
    }
    return [at | {"epoch": epoch, "value": value} for epoch, value in curve.points]


def _curve_ends(panel: Panel, arms: Arms) -> list[Row]:
    """Where each curve's name stands. On a log axis of updates curves end at one height and
    near each other: there each name stands a line lower than the one to its right.
    """
    # Of curves that end at one place under one name, the first is named.
    by_end = {
        (c.points[-1][0], c.label, c.batch_size, c.label or c.slot): c
        for c in reversed(panel.curves)
        if c.points
    }
    ended = list(reversed(by_end.values()))
    if len(ended) > MAX_LABELS:
        ended = [ended[0], ended[-1]]
    lower = 0.0
    if panel.log:
        ended.sort(key=lambda c: -c.points[-1][0])
        lower = LINE
    return [
        {"arm": arms.labels[c.arm], "epoch": c.points[-1][0]}
        | {"value": c.points[-1][1] - rank * lower, "label": c.label or f"{c.batch_size:,}"}
        for rank, c in enumerate(ended)
    ]
