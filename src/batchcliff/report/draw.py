"""Figure values as Vega-Lite specifications.

Every function gives a plain dict that is complete: data inside, nothing to fetch, no
expression made from a user's string. `width` is in pixels, or "container" on the page.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.report import look
from batchcliff.report.figures import AccuracyByBatch, Differences, Point
from batchcliff.report.scales import (
    HAS_INTERVAL,
    SCHEMA,
    Arms,
    Data,
    Row,
    Spec,
    Width,
    batch_axis,
    batch_domain,
    dodge,
    finish,
    interval_layers,
    lane_layer,
    lane_rows,
    layer,
    place,
    shifts,
    text,
    tips,
    title,
)
from batchcliff.report.text import NOTHING

FLOOR = -0.045  # where trials that are not ok are marked: a lane of its own, under accuracy 0
MAX_BAND_LABELS = 5  # more would cover the plot; the table has them all
FEW_DOTS = 300  # single trials in the small charts beside a published result
LANE = 0.03  # between two outcomes of one cell


def accuracy_chart(
    figure: AccuracyByBatch,
    width: Width = 760,
    height: int = 400,
    *,
    log2: bool = True,
    titled: bool = True,
) -> Spec:
    """Accuracy against batch size: dots, means with intervals, what is not ok, cliff bands.

    `titled`: with title and legend inside, for a picture that stands alone.
    """
    arms = Arms((line.arm, line.slot) for line in figure.lines)
    data = _accuracy_data(figure, arms, log2)
    x, colour = batch_axis(figure.batch_sizes, log2), arms.colour(legend=titled)
    bottom = min([0.0, *(row["accuracy"] for row in data["floor"])])
    y = place(
        "accuracy",
        title="test accuracy",
        scale={"domain": [bottom + FLOOR, 1.0], "nice": False},
        axis={"format": ".0%", "values": [i / 10 for i in range(11)]},
    )
    at = {"x": x, "y": y, "color": colour}
    tooltip = tips("arm", "batch size", "mean", "interval", "ok trials", "not ok")
    layers = [
        lane_layer(),
        *_chance_layers(),
        *band_layers("bands", colour),
        layer(
            "points", "line", at | {"strokeDash": arms.dash(), "detail": text("part")},
            strokeWidth=2, clip=True,
        ),
        *interval_layers("points", x, colour),
        layer("dots", "circle", at, size=22, opacity=0.55, clip=True),
        layer(
            "points", "point", at | {"shape": arms.shape(), "tooltip": tooltip},
            filled=True, size=62, opacity=1, clip=True,
        ),
        *_floor_layers(colour, titled),
    ]  # fmt: skip
    words = (figure.title, figure.subtitle)
    return finish(layers, data, width, height, words, titled=titled)


def _accuracy_data(figure: AccuracyByBatch, arms: Arms, log2: bool) -> Data:
    data: Data = {"points": [], "dots": [], "floor": [], "key": [], "chance": [], "bands": []}
    step = dodge(figure.batch_sizes, len(figure.lines)) if log2 else 0.0
    data["lanes"] = lane_rows(figure.batch_sizes, len(figure.lines), step) if log2 else []
    for line, shift in zip(figure.lines, shifts(len(figure.lines), step), strict=True):
        part = 0
        for p in line.points:
            part += p.mean is None  # the line is broken where no trial ended ok
            x = p.batch_size * shift
            at: Row = {"arm": arms.labels[line.arm], "x": x, "part": part}
            at |= {"batch size": f"{p.batch_size:,}"}
            data["points"] += _mean_rows(p, at)
            beside = at | {"x": x * 2 ** (step * 0.32)}
            data["dots"] += [beside | {"accuracy": a} for a in p.dots if p.n > 1]
            data["floor"] += _floor_rows(p, at)
    if figure.chance is not None:
        data["chance"] = [{"accuracy": figure.chance}]
    if log2:
        data["bands"] = _band_rows(figure, arms)
    outcomes = [o for o in look.FLOOR_GLYPHS if any(o == r["outcome"] for r in data["floor"])]
    if outcomes:
        text = "   ".join(f"{look.FLOOR_GLYPHS[o]} {o}" for o in outcomes)
        data["key"] = [{"accuracy": FLOOR, "text": text}]
    return data


def _mean_rows(p: Point, at: Row) -> list[Row]:
    if p.mean is None:
        return []
    interval = NOTHING if p.low is None or p.high is None else f"{p.low:.2%} to {p.high:.2%}"
    numbers = {"accuracy": p.mean, "low": p.low, "high": p.high}
    texts = {"mean": f"{p.mean:.2%}", "interval": interval, "ok trials": str(p.n)}
    return [at | numbers | texts | {"not ok": str(sum(count for _, count in p.floor))}]


def _floor_rows(p: Point, at: Row) -> list[Row]:
    return [
        at
        | {"accuracy": FLOOR - rank * LANE, "outcome": outcome, "trials": str(count)}
        | {"path": look.FLOOR_SHAPES[outcome], "label": str(count) if count > 1 else ""}
        for rank, (outcome, count) in enumerate(p.floor)
    ]


def _band_rows(figure: AccuracyByBatch, arms: Arms) -> list[Row]:
    """Tolerance cliffs; the collapse is plain to see, and said in words and in the table."""
    low, high = batch_domain(figure.batch_sizes)
    bands = [b for b in figure.bands if b.kind == "tolerance" and b.value is not None]
    return [
        {
            "arm": arms.labels[band.arm],
            "value": band.value,
            "low": low if band.open_low else band.low,
            "high": high if band.open_high else band.high,
            "side": "left" if (band.value or 0) < (low * high) ** 0.5 else "right",
            "top": 0.38 - 0.06 * rank,
            "text": band.text if len(bands) <= MAX_BAND_LABELS else "",
        }
        for rank, band in enumerate(bands)
    ]


def _chance_layers() -> list[Spec]:
    y = {"y": place("accuracy")}
    words: dict[str, Any] = {"align": "left", "dx": 4, "dy": -7, "fontSize": 11}
    words |= {"text": "chance", "color": look.SOFT}
    return [
        layer("chance", "rule", y, strokeDash=[3, 3], color="#9aa4ac"),
        layer("chance", "text", y | {"x": {"value": 0}}, **words),
    ]


def band_layers(data: str, colour: Spec) -> list[Spec]:
    """Each interval on the batch axis as a light band, its value as a dashed rule, named beside
    it: of a cliff, of a knee."""
    band = {"x": place("low"), "x2": {"field": "high"}, "color": colour}
    rule = {"x": place("value"), "color": colour}
    layers = [
        layer(data, "rect", band, HAS_INTERVAL, opacity=0.1, clip=True),
        layer(data, "rule", rule, strokeWidth=1.5, strokeDash=[5, 4], clip=True),
    ]
    where = {"x": place("value"), "y": place("top"), "text": text()}
    for side in ("left", "right"):
        style: dict[str, Any] = {"align": side, "dx": 6 if side == "left" else -6}
        style |= {"fontSize": 11.5, "fontWeight": 600}
        halo = style | {"stroke": "white", "strokeWidth": 4, "strokeJoin": "round"}
        only = f"datum.side == '{side}'"
        layers.append(layer(data, "text", where, only, **halo))
        layers.append(layer(data, "text", where | {"color": colour}, only, **style))
    return layers


def _floor_layers(colour: Spec, key: bool) -> list[Spec]:
    """A mark for each cell and outcome; the shapes are ours, so no scale maps them."""
    at = {"x": place("x"), "y": place("accuracy")}
    mark: dict[str, Any] = {"size": 70, "strokeWidth": 2, "filled": False, "opacity": 1}
    path = {"field": "path", "type": "nominal", "scale": None}
    tooltip = tips("arm", "batch size", "outcome", "trials")
    words: dict[str, Any] = {"fontSize": 11, "color": look.SOFT}
    layers = [
        layer(
            "floor", "point", at | {"color": colour, "shape": path, "tooltip": tooltip}, **mark
        ),
        layer("floor", "text", at | {"text": text("label")}, dx=8, dy=-7, **words),
    ]
    if key:
        left = {"x": {"value": 0}, "y": place("accuracy"), "text": text()}
        layers.append(layer("key", "text", left, align="left", dx=4, **words))
    return layers


def bare(figure: AccuracyByBatch) -> AccuracyByBatch:
    """The figure as a published one is: without cliffs, and single trials only if few."""
    dots = sum(len(p.dots) for line in figure.lines for p in line.points)
    if dots <= FEW_DOTS:
        return dataclasses.replace(figure, bands=())
    lines = tuple(
        dataclasses.replace(
            line, points=tuple(dataclasses.replace(p, dots=()) for p in line.points)
        )
        for line in figure.lines
    )
    return dataclasses.replace(figure, bands=(), lines=lines)


def pair_chart(published: AccuracyByBatch, ours: AccuracyByBatch) -> Spec:
    """The published curves and ours beside each other, on a log2 and on a linear axis."""
    rows = []
    for log2 in (True, False):
        columns = []
        for name, figure in (("Published", published), ("This study", ours)):
            one = accuracy_chart(bare(figure), 380, 280, log2=log2)
            data = one.pop("datasets")
            for view in one["layer"]:
                view["data"] = {"values": data[view["data"]["name"]]}
            for key in ("config", "autosize", "description", "$schema"):
                one.pop(key, None)
            words = name if log2 else f"{name}, linear axis"
            columns.append(one | {"title": title(words, fontSize=13)})
        rows.append({"hconcat": columns, "spacing": 30})
    study = ours.title.rsplit(":", 1)[0]
    subtitle = [f"Published: {published.subtitle}", f"This study: {ours.subtitle}"]
    whole = title(f"{study} beside the published result", subtitle, frame="bounds", offset=16)
    return {
        "$schema": SCHEMA,
        "title": whole,
        "vconcat": rows,
        "spacing": 30,
        "config": look.config(),
        "description": published.subtitle,
    }


DIFFERENCE_TICKS = (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)


def differences_chart(
    figure: Differences, width: Width = 760, height: int = 320, *, titled: bool = True
) -> Spec:
    """Arm minus reference by batch size, in points, on a symmetric log axis (linear to 1)."""
    arms = Arms((line.arm, line.slot) for line in figure.lines)
    step = dodge(figure.batch_sizes, len(figure.lines))
    rows = []
    for line, shift in zip(figure.lines, shifts(len(figure.lines), step), strict=True):
        rows += _difference_rows(line.points, {"arm": arms.labels[line.arm]}, shift)
    ends = [
        row[key] for row in rows for key in ("value", "low", "high") if row[key] is not None
    ]
    low = max((t for t in DIFFERENCE_TICKS if t <= min([-1, *ends])), default=-100)
    high = min((t for t in DIFFERENCE_TICKS if t >= max([1, *ends])), default=100)
    y = place(
        "value",
        title="difference, percentage points",
        scale={"type": "symlog", "constant": 1, "domain": [low, high], "nice": False},
        axis={
            "values": [t for t in DIFFERENCE_TICKS if low <= t <= high],
            "labelExpr": "datum.value == 0 ? '0' : format(datum.value, '+d')",
        },
    )
    x, colour = batch_axis(figure.batch_sizes), arms.colour(legend=titled)
    at = {"x": x, "y": y, "color": colour}
    tooltip = tips("arm", "batch size", "difference, points", "interval", "pairs")
    layers = [
        lane_layer(),
        layer("zero", "rule", {"y": place("value")}, color="#7d8891"),
        layer(
            "differences", "line", at | {"strokeDash": arms.dash()},
            strokeWidth=1.5, opacity=0.45, clip=True,
        ),
        *interval_layers("differences", x, colour),
        layer(
            "differences", "point", at | {"shape": arms.shape(), "tooltip": tooltip},
            filled=True, size=62, opacity=1, clip=True,
        ),
    ]  # fmt: skip
    lanes = lane_rows(figure.batch_sizes, len(figure.lines), step)
    data: Data = {"differences": rows, "zero": [{"value": 0}], "lanes": lanes}
    return finish(layers, data, width, height, (figure.title, figure.subtitle), titled=titled)


def _difference_rows(points: Any, at: Row, shift: float) -> list[Row]:
    rows = []
    for p in points:
        if p.value is None:
            continue
        low, high = (None if end is None else 100 * end for end in (p.low, p.high))
        interval = NOTHING if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
        rows.append(
            at
            | {"x": p.batch_size * shift, "value": 100 * p.value, "low": low, "high": high}
            | {"batch size": f"{p.batch_size:,}", "pairs": str(p.n), "interval": interval}
            | {"difference, points": f"{100 * p.value:+.2f}"}
        )
    return rows
