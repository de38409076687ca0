"""Small charts of curves by epoch as Vega-Lite specifications."""

from __future__ import annotations

import altair as alt

from batchcliff.report import look
from batchcliff.report.figures import Curve, CurvePanels, Panel
from batchcliff.report.scales import Arms, Data, Row, Spec, Width, decades, finish, title

MAX_LABELS = 12  # of batch sizes at the ends of curves; more than that: the outer two


def panel_chart(
    figure: CurvePanels, panel: Panel, width: Width = 230, height: int = 150
) -> Spec:
    """One small chart, its title the panel's; all panels of a figure share their scales."""
    chart, data = _panel(figure, panel, "curves", legend=False)
    words = (panel.title, "")
    return finish(chart, data, width, height, words, titled=True, size="small")


def panels_chart(figure: CurvePanels, columns: int = 3) -> Spec:
    """All panels as one static chart with a title and a legend."""
    charts = []
    data: Data = {}
    rates = figure.quantity == "learning rate"
    width, height = (330, 240) if rates else (230, 150)
    for i, panel in enumerate(figure.panels):
        chart, rows = _panel(figure, panel, f"curves{i}", legend=not rates)
        data |= rows
        small = alt.TitleParams(panel.title, fontSize=12.5)
        charts.append(chart.properties(width=width, height=height, title=small))
    whole = alt.concat(*charts, columns=2 if rates else columns)
    spec: Spec = whole.to_dict()
    spec["datasets"] = data
    spec["title"] = title(figure.title, figure.subtitle, frame="bounds", offset=16)
    spec["description"] = f"{figure.title}. {figure.subtitle}"
    spec["config"] = look.config()
    return spec


def _panel(
    figure: CurvePanels, panel: Panel, name: str, legend: bool
) -> tuple[alt.LayerChart, Data]:
    """Lines in their arm's colour; learning rates are named by batch size at their end."""
    every = [curve for one in figure.panels for curve in one.curves]
    arms = Arms((curve.arm, curve.slot) for curve in every)
    data: Data = {name: [row for curve in panel.curves for row in _curve_rows(curve, arms)]}
    last = max((curve.points[-1][0] for curve in every if curve.points), default=1)
    rates = figure.quantity == "learning rate"
    x = alt.X("epoch:Q").title("epoch").axis(tickCount=5, format="d", grid=False)
    x = x.scale(domain=[0, last], nice=False)
    y = _value_axis(figure, every)
    base = alt.Chart(alt.NamedData(name)).encode(x=x, y=y, color=arms.colour(legend))
    lines = base.mark_line(strokeWidth=1.4, opacity=0.8, clip=True)
    layers = [lines.encode(detail="curve:N", strokeDash=arms.dash())]
    if rates:
        data[f"{name}-ends"] = _curve_ends(panel, arms)
        text = alt.Chart(alt.NamedData(f"{name}-ends"))
        text = text.mark_text(align="left", dx=4, fontSize=10.5)
        layers.append(text.encode(x=x, y=y, text="label:N", color=arms.colour()))
    return alt.layer(*layers), data


def _value_axis(figure: CurvePanels, curves: list[Curve]) -> alt.Y:
    y = alt.Y("value:Q").title(None)
    if figure.quantity == "test accuracy":
        return y.scale(domain=[0, 1]).axis(format=".0%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    domain, ticks = decades([value for curve in curves for _, value in curve.points])
    return y.scale(type="log", domain=domain, nice=False).axis(format="~g", values=ticks)


def _curve_rows(curve: Curve, arms: Arms) -> list[Row]:
    at = {"arm": arms.labels[curve.arm], "curve": f"{curve.batch_size}/{curve.seed}/{curve.slot}"}
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
