"""Figure values as Vega-Lite specifications, made with Altair.

Every function gives a plain dict that is complete: data inside, nothing to fetch, no
expression made from a user's string. `width` is in pixels, or "container" on the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from batchcliff.report import look
from batchcliff.report.figures import (
    AccuracyByBatch,
    CliffBand,
    Curve,
    CurvePanels,
    Differences,
    Panel,
)
from batchcliff.report.text import display_names

Spec = dict[str, Any]
Width = int | Literal["container"]
Row = dict[str, Any]

FLOOR = -0.045  # where failed trials are marked: a lane of its own, under accuracy 0
DODGE = 0.09  # octaves between arms, so that their intervals do not cover each other


def accuracy_chart(
    figure: AccuracyByBatch,
    width: Width = 760,
    height: int = 400,
    *,
    log2: bool = True,
    titled: bool = True,
) -> Spec:
    """Accuracy against batch size: dots, means with intervals, failures, cliff bands."""
    labels = display_names(line.arm for line in figure.lines)
    x = _batch_axis(figure.batch_sizes, log2)
    y = alt.Y("accuracy:Q").scale(domain=[2 * FLOOR, 1.0], nice=False)
    y = y.axis(format=".0%", values=[i / 10 for i in range(11)], title="test accuracy")
    colours = _arm_colour([(labels[a.arm], a.slot) for a in figure.lines], legend=titled)
    point_rows, dots, floor = _accuracy_rows(figure, labels, log2)
    layers = []
    if figure.chance is not None:
        layers.append(_chance_layer())
    if figure.bands and log2:
        layers += _band_layers(figure, labels)
    base = alt.Chart(alt.NamedData("points")).encode(x=x, color=colours)
    several = any(r["n"] > 1 for r in point_rows)
    line_dash = _arm_dash([(labels[a.arm], a.slot) for a in figure.lines])
    layers.append(
        base.mark_line(strokeWidth=2, clip=True).encode(
            y=y, strokeDash=line_dash, detail="part:N"
        )
    )
    layers.append(_interval_layer(base))
    if dots:
        layers.append(
            alt.Chart(alt.NamedData("dots"))
            .mark_circle(size=26, opacity=0.45, clip=True)
            .encode(x=x, y=y, color=colours)
        )
    layers.append(
        base.mark_point(filled=True, size=70 if several else 60, opacity=1, clip=True).encode(
            y=y,
            shape=_arm_shape([(labels[a.arm], a.slot) for a in figure.lines]),
            tooltip=_tips(["arm", "batch size", "mean", "interval", "ok trials", "not ok"]),
        )
    )
    if floor:
        layers += _floor_layers(x, colours, titled)
    chance = [{"accuracy": figure.chance}] if figure.chance is not None else []
    data = {"points": point_rows, "dots": dots, "floor": floor, "chance": chance,
            "bands": _band_rows(figure, labels)}  # fmt: skip
    return _finish(
        alt.layer(*layers), data, width, height, (figure.title, figure.subtitle), titled
    )


def _accuracy_rows(
    figure: AccuracyByBatch, labels: dict[str, str], log2: bool
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of the means, of the single trials and of the failed ones."""
    means: list[Row] = []
    dots: list[Row] = []
    floor: list[Row] = []
    for i, line in enumerate(figure.lines):
        shift = (i - (len(figure.lines) - 1) / 2) * DODGE if log2 else 0.0
        part = 0
        for p in line.points:
            at = {"arm": labels[line.arm], "x": p.batch_size * 2**shift}
            if p.mean is None:
                part += 1  # the line is broken where no trial ended ok
            else:
                failed = sum(count for _, count in p.floor)
                interval = "–" if p.low is None else f"{p.low:.2%} to {p.high:.2%}"
                means.append(
                    at
                    | {"accuracy": p.mean, "low": p.low, "high": p.high, "n": p.n}
                    | {"part": part, "batch size": f"{p.batch_size:,}"}
                    | {"mean": f"{p.mean:.2%}", "interval": interval}
                    | {"ok trials": str(p.n), "not ok": str(failed)}
                )
            if p.n > 1:
                dots += [at | {"accuracy": value} for value in p.dots]
            for rank, (outcome, count) in enumerate(p.floor):
                floor.append(
                    at
                    | {"accuracy": FLOOR - rank * 0.02, "outcome": outcome}
                    | {"batch size": f"{p.batch_size:,}", "trials": str(count)}
                    | {"label": f"{count}" if count > 1 else ""}
                )
    return means, dots, floor


def _interval_layer(base: alt.Chart) -> alt.LayerChart:
    rule = base.mark_rule(strokeWidth=1.5, clip=True).encode(y="low:Q", y2="high:Q")
    rule = rule.transform_filter("isValid(datum.low) && isValid(datum.high)")
    cap = base.mark_tick(thickness=1.5, size=9, orient="horizontal", clip=True)
    cap = cap.transform_filter("isValid(datum.low) && isValid(datum.high)")
    return alt.layer(rule, cap.encode(y="low:Q"), cap.encode(y="high:Q"))


def _chance_layer() -> alt.LayerChart:
    base = alt.Chart(alt.NamedData("chance")).encode(y="accuracy:Q")
    line = base.mark_rule(strokeDash=[3, 3], color="#9aa4ac")
    text = base.mark_text(align="right", dy=-6, color=look.SOFT, fontSize=11, text="chance")
    return alt.layer(line, text.encode(x=alt.value("width")))


def _band_layers(figure: AccuracyByBatch, labels: dict[str, str]) -> list[alt.Chart]:
    """Each cliff's interval as a light band, its value as a dashed rule, named above."""
    base = alt.Chart(alt.NamedData("bands"))
    pairs = [(labels[line.arm], line.slot) for line in figure.lines]
    colours = _arm_colour(pairs, legend=False)
    band = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    rect = band.mark_rect(opacity=0.13, clip=True).encode(x="low:Q", x2="high:Q", color=colours)
    rule = base.mark_rule(strokeWidth=1.5, strokeDash=[5, 4], clip=True)
    rule = rule.transform_filter("isValid(datum.value)").encode(x="value:Q", color=colours)
    layers = [rect, rule]
    for side in ("left", "right"):
        text = base.transform_filter(f"datum.side == '{side}'").mark_text(
            align=side, dx=6 if side == "left" else -6, fontSize=11.5, fontWeight=600
        )
        layers.append(
            text.encode(x="at:Q", y=alt.Y("top:Q"), text="text:N", color=colours)
        )  # fmt: skip
    return layers


def _band_rows(figure: AccuracyByBatch, labels: dict[str, str]) -> list[Row]:
    if not figure.batch_sizes:
        return []
    low, high = _batch_domain(figure.batch_sizes)
    middle = (low * high) ** 0.5
    rows = []
    shown = [b for b in figure.bands if b.value is not None]
    for rank, band in enumerate(shown):
        at = band.value or 0.0
        rows.append(
            {
                "arm": labels[band.arm],
                "value": at,
                **_band_ends(band, low, high),
                "at": at,
                "side": "left" if at < middle else "right",
                "top": 0.34 - 0.055 * rank,
                "text": band.text,
            }
        )
    return rows


def _band_ends(band: CliffBand, low: float, high: float) -> Row:
    left = low if band.open_low else band.low
    right = high if band.open_high else band.high
    return {"low": left, "high": right}


def _floor_layers(x: alt.X, colours: alt.Color, legend: bool) -> list[alt.Chart]:
    base = alt.Chart(alt.NamedData("floor")).encode(x=x, y="accuracy:Q")
    names = list(look.FLOOR_SHAPES)
    scale = alt.Scale(domain=names, range=[look.FLOOR_SHAPES[n] for n in names])
    key = alt.Legend(values=names, symbolStrokeColor=look.INK) if legend else None
    marks = base.mark_point(size=70, strokeWidth=2, filled=False, opacity=1).encode(
        stroke=colours,
        shape=alt.Shape("outcome:N", scale=scale, legend=None if not legend else key),
        tooltip=_tips(["arm", "batch size", "outcome", "trials"]),
    )
    return [marks, base.mark_text(dx=10, fontSize=10, color=look.SOFT).encode(text="label:N")]


def bare(figure: AccuracyByBatch) -> AccuracyByBatch:
    """The figure without cliffs: only what a published curve has too."""
    return dataclasses.replace(figure, bands=())


def pair_chart(published: AccuracyByBatch, ours: AccuracyByBatch) -> Spec:
    """The published curves and ours beside each other, on a log2 and on a linear axis."""
    rows = []
    for log2 in (True, False):
        columns = []
        for name, figure in (("Published", published), ("This study", ours)):
            one = accuracy_chart(bare(figure), 380, 280, log2=log2)
            title = name if log2 else f"{name}, linear axis"
            data = one.pop("datasets")
            for layer in _layers(one):
                if "name" in layer.get("data", {}):
                    layer["data"] = {"values": data[layer["data"]["name"]]}
            for key in ("config", "autosize", "description", "$schema"):
                one.pop(key, None)
            columns.append(one | {"title": {"text": title, "fontSize": 13}})
        rows.append({"hconcat": columns, "spacing": 30})
    return {
        "$schema": alt.SCHEMA_URL,
        "title": {"text": f"{ours.title.split(':')[0]} beside the published result",
                  "subtitle": [published.subtitle, ours.subtitle], "frame": "bounds"},
        "vconcat": rows,
        "spacing": 30,
        "config": look.config(),
        "description": published.subtitle,
    }  # fmt: skip


def _layers(spec: Spec) -> list[Spec]:
    """Every view of a layered specification, the outer one first."""
    return [spec] + [inner for layer in spec.get("layer", []) for inner in _layers(layer)]


def differences_chart(
    figure: Differences, width: Width = 760, height: int = 300, *, titled: bool = True
) -> Spec:
    """Arm minus reference by batch size, in percentage points, with intervals."""
    labels = display_names(line.arm for line in figure.lines)
    pairs = [(labels[line.arm], line.slot) for line in figure.lines]
    rows = []
    for i, line in enumerate(figure.lines):
        shift = (i - (len(figure.lines) - 1) / 2) * DODGE
        for p in line.points:
            if p.value is None:
                continue
            rows.append(
                {"arm": labels[line.arm], "x": p.batch_size * 2**shift}
                | {"value": 100 * p.value, "batch size": f"{p.batch_size:,}", "n": str(p.n)}
                | {"low": None if p.low is None else 100 * p.low}
                | {"high": None if p.high is None else 100 * p.high}
                | {"difference, points": f"{100 * p.value:+.2f}"}
            )
    x = _batch_axis(figure.batch_sizes, log2=True)
    y = alt.Y("value:Q").axis(title="difference, percentage points", format="+.3~g")
    colours = _arm_colour(pairs, legend=titled and len(pairs) > 1)
    base = alt.Chart(alt.NamedData("differences")).encode(x=x, color=colours)
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color="#9aa4ac").encode(y="value:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=y,
        shape=_arm_shape(pairs),
        tooltip=_tips(["arm", "batch size", "difference, points", "n"]),
    )
    chart = alt.layer(
        zero,
        base.mark_line(strokeWidth=1.5, opacity=0.5).encode(y=y, strokeDash=_arm_dash(pairs)),
        _interval_layer(base),
        points,
    )
    data: dict[str, list[Row]] = {"differences": rows, "zero": [{"value": 0}]}
    return _finish(chart, data, width, height, (figure.title, figure.subtitle), titled)


def panel_chart(
    figure: CurvePanels, panel: Panel, width: Width = 230, height: int = 150
) -> Spec:
    """One small chart of curves by epoch, its title the panel's."""
    chart, data = _panel(figure, panel, "curves")
    return _finish(chart, data, width, height, (panel.title, ""), True, "small")


def panels_chart(figure: CurvePanels, columns: int = 3) -> Spec:
    """All panels as one static chart, `columns` beside each other."""
    charts = []
    data: dict[str, list[Row]] = {}
    for i, panel in enumerate(figure.panels):
        chart, rows = _panel(figure, panel, f"curves{i}")
        data |= rows
        charts.append(chart.properties(width=230, height=150, title=panel.title))
    whole = alt.concat(*charts, columns=columns)
    spec: Spec = whole.to_dict()
    spec["datasets"] = data
    spec["title"] = {"text": figure.title, "subtitle": figure.subtitle, "offset": 18}
    spec["config"] = look.config()
    spec["config"]["title"] |= {"frame": "bounds"}
    return spec


def _panel(
    figure: CurvePanels, panel: Panel, name: str
) -> tuple[alt.LayerChart, dict[str, list[Row]]]:
    """Lines in their arm's colour; learning rates are named by batch size at their end."""
    labels = display_names(curve.arm for p in figure.panels for curve in p.curves)
    pairs = list(dict.fromkeys((labels[c.arm], c.slot) for c in panel.curves))
    rows = [row for curve in panel.curves for row in _curve_rows(curve, labels)]
    percent = figure.quantity == "test accuracy"
    y = alt.Y("value:Q").title(None)
    if percent:
        y = y.scale(domain=[0, 1]).axis(format=".0%", tickCount=5)
    else:
        y = y.scale(type="log").axis(format="~g", tickCount=4)
    x = alt.X("epoch:Q").title("epoch").axis(tickCount=5, format="d", grid=False)
    base = alt.Chart(alt.NamedData(name)).encode(x=x, y=y, color=_arm_colour(pairs, False))
    lines = base.mark_line(strokeWidth=1.4, opacity=0.85, interpolate="linear").encode(
        detail="curve:N", strokeDash=_arm_dash(pairs)
    )
    layers = [lines]
    data = {name: rows}
    if figure.quantity == "learning rate":
        ends = f"{name}-ends"
        data[ends] = _curve_ends(panel, labels)
        text = alt.Chart(alt.NamedData(ends)).mark_text(align="left", dx=3, fontSize=10)
        layers.append(text.encode(x=x, y=y, text="label:N", color=_arm_colour(pairs, False)))
    return alt.layer(*layers), data


def _curve_rows(curve: Curve, labels: dict[str, str]) -> list[Row]:
    name = f"{curve.batch_size}/{curve.seed}/{curve.slot}"
    arm = labels[curve.arm]
    return [{"arm": arm, "curve": name, "epoch": e, "value": v} for e, v in curve.points]


def _curve_ends(panel: Panel, labels: dict[str, str]) -> list[Row]:
    return [
        {"arm": labels[c.arm], "epoch": c.points[-1][0], "value": c.points[-1][1]}
        | {"label": f"{c.batch_size:,}"}
        for c in panel.curves
        if c.points
    ]


def _batch_domain(sizes: Sequence[int]) -> tuple[float, float]:
    return (min(sizes) / 2**0.4, max(sizes) * 2**0.4) if sizes else (1.0, 2.0)


def _batch_axis(sizes: Sequence[int], log2: bool) -> alt.X:
    low, high = _batch_domain(sizes)
    x = alt.X("x:Q").title("batch size (examples per update)")
    if log2:
        x = x.scale(type="log", base=2, domain=[low, high], nice=False)
        crowded = len(sizes) > 9
        return x.axis(values=list(sizes), format=",d", labelOverlap="greedy" if crowded else
                      "parity")
    x = x.scale(domain=[0, max(sizes, default=1) * 1.04], nice=False)
    return x.axis(format=",d", tickCount=6, labelOverlap="greedy")


def _arm_colour(pairs: Sequence[tuple[str, int]], legend: bool) -> alt.Color:
    scale = alt.Scale(
        domain=[name for name, _ in pairs], range=[look.colour(slot) for _, slot in pairs]
    )
    return alt.Color("arm:N", scale=scale, legend=alt.Legend() if legend else None)


def _arm_dash(pairs: Sequence[tuple[str, int]]) -> alt.StrokeDash:
    scale = alt.Scale(
        domain=[name for name, _ in pairs], range=[look.dash(slot) for _, slot in pairs]
    )
    return alt.StrokeDash("arm:N", scale=scale, legend=None)


def _arm_shape(pairs: Sequence[tuple[str, int]]) -> alt.Shape:
    scale = alt.Scale(
        domain=[name for name, _ in pairs], range=[look.shape(slot) for _, slot in pairs]
    )
    return alt.Shape("arm:N", scale=scale, legend=None)


def _tips(fields: Sequence[str]) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N") for field in fields]


def _finish(
    chart: alt.LayerChart,
    data: dict[str, list[Row]],
    width: Width,
    height: int,
    words: tuple[str, str],
    titled: bool,
    size: Literal["full", "small"] = "full",
) -> Spec:
    """Size, words, data and configuration. Data go in last: Altair need not validate them."""
    spec: Spec = chart.properties(height=height).to_dict()
    title, subtitle = words
    spec["width"] = width
    spec["autosize"] = {"type": "fit-x" if width == "container" else "pad", "contains": "padding"}
    spec["description"] = ". ".join(part for part in words if part)
    if titled:
        spec["title"] = {"text": title, "subtitle": subtitle} if subtitle else {"text": title}
    spec["datasets"] = data
    spec["config"] = look.config(size)
    return spec
