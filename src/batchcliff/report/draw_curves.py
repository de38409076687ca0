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

MAX_LABELS = 12  # of batch sizes at the ends of curves; more than that: the outer two


def panel_chart(
    figure: CurvePanels, panel: Panel, width: Width = 230, height: int = 150
) -> Spec:
    """One small chart, its title the panel's; all panels of a figure share their scales."""
    layers, data = _panel(figure, panel, "curves", legend=False)
    words = (panel.title, "")
    return finish(layers, data, width, height, words, titled=True, size="small")


def panels_chart(figure: CurvePanels, columns: int = 3) -> Spec:
    """All panels as one static chart with a title and a legend."""
    charts: list[Spec] = []
    data: Data = {}
    rates = figure.quantity == "learning rate"
    width, height = (330, 240) if rates else (230, 150)
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
        "columns": 2 if rates else columns,
        "datasets": data,
        "config": look.config(),
    }


def _panel(
    figure: CurvePanels, panel: Panel, name: str, legend: bool
) -> tuple[list[Spec], Data]:
    """Lines in their arm's colour; learning rates are named by batch size at their end."""
    every = [curve for one in figure.panels for curve in one.curves]
    arms = Arms((curve.arm, curve.slot) for curve in every)
    data: Data = {name: [row for curve in panel.curves for row in _curve_rows(curve, arms)]}
    last = max((curve.points[-1][0] for curve in every if curve.points), default=1)
    x = place(
        "epoch",
        title=figure.place,
        scale={"domain": [0, last], "nice": False},
        axis={"tickCount": 5, "format": "d", "grid": False},
    )
    at = {"x": x, "y": _value_axis(figure, every)}
    line = at | {
        "color": arms.colour(legend),
        "detail": text("curve"),
        "strokeDash": arms.dash(),
    }
    layers = [layer(name, "line", line, strokeWidth=1.4, opacity=0.8, clip=True)]
    if figure.quantity == "learning rate":
        data[f"{name}-ends"] = _curve_ends(panel, arms)
        words = at | {"text": text("label"), "color": arms.colour(legend)}
        layers.append(layer(f"{name}-ends", "text", words, align="left", dx=4, fontSize=10.5))
    return layers, data


def _value_axis(figure: CurvePanels, curves: list[Curve]) -> Spec:
    if figure.quantity == "test accuracy":
        axis: dict[str, Any] = {"format": ".0%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
        return place("value", title=None, scale={"domain": [0, 1]}, axis=axis)
    domain, ticks = decades([value for curve in curves for _, value in curve.points])
    scale = {"type": "log", "domain": domain, "nice": False}
    return place("value", title=None, scale=scale, axis={"format": "~g", "values": ticks})


def _curve_rows(curve: Curve, arms: Arms) -> list[Row]:
    at = {
        "arm": arms.labels[curve.arm],
        "curve": f"{curve.batch_size}/{curve.seed}/{curve.slot}",
    }
    return [at | {"epoch": epoch, "value": value} for epoch, value in curve.points]


def _curve_ends(panel: Panel, arms: Arms) -> list[Row]:
    ended = [curve for curve in panel.curves if curve.points]
    if len(ended) > MAX_LABELS:
        ended = [ended[0], ended[-1]]
    return [
        {"arm": arms.labels[c.arm], "epoch": c.points[-1][0], "value": c.points[-1][1]}
        | {"label": f"{c.batch_size:,}"}
        for c in ended
    ]
