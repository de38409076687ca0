"""The figure of fine-tuning as Vega-Lite specifications: two charts over the batch axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchcliff.report import look
from batchcliff.report.figures import Line
from batchcliff.report.scales import (
    SCHEMA,
    Arms,
    Data,
    Row,
    Spec,
    Width,
    batch_axis,
    decades,
    dodge,
    finish,
    interval_layers,
    layer,
    place,
    shifts,
    text,
    tips,
    title,
)
from batchcliff.report.text import NOTHING
from batchcliff.report.transfer import TransferByBatch

WORDS = {"distance": "distance from the pretrained weights", "old": "accuracy on the old task"}
AXES = {"distance": "share of their norm, log axis", "old": "test accuracy"}


def transfer_charts(
    figure: TransferByBatch, width: Width = 380, height: int = 280, *, legend: bool = False
) -> dict[str, Spec]:
    """ "distance" and "old": a chart each, the second with chance and the level before."""
    charts = {}
    for name, lines in (("distance", figure.distance), ("old", figure.old)):
        arms = Arms((line.arm, line.slot) for line in lines)
        x, colour = batch_axis(figure.batch_sizes), arms.colour(legend)
        y = _y(name, lines)
        at = {"x": x, "y": y, "color": colour}
        tooltip = tips("arm", "batch size", "mean", "interval", "trials")
        layers = [
            layer("points", "line", at | {"strokeDash": arms.dash()}, strokeWidth=2, clip=True),
            *interval_layers("points", x, colour),
            layer(
                "points", "point", at | {"shape": arms.shape(), "tooltip": tooltip},
                filled=True, size=62, opacity=1, clip=True,
            ),
        ]  # fmt: skip
        data: Data = {"points": _rows(figure.batch_sizes, lines, arms, name)}
        if name == "old":
            layers = [*_level_layers(), *layers]
            data["levels"] = _levels(figure)
        words = (WORDS[name].capitalize(), "")
        charts[name] = finish(layers, data, width, height, words, titled=True, size="small")
    return charts


def transfer_chart(figure: TransferByBatch) -> Spec:
    """Both charts beside each other as one picture with title and legend."""
    columns = []
    for one in transfer_charts(figure, legend=True).values():
        data = one.pop("datasets")
        for view in one["layer"]:
            view["data"] = {"values": data[view["data"]["name"]]}
        for key in ("config", "autosize", "description", "$schema"):
            one.pop(key)
        columns.append(one)
    return {
        "$schema": SCHEMA,
        "title": title(figure.title, figure.subtitle, frame="bounds", offset=16),
        "description": f"{figure.title}. {figure.subtitle}",
        "hconcat": columns,
        "spacing": 30,
        "config": look.config(),
    }


def _y(name: str, lines: Sequence[Line]) -> Spec:
    if name == "old":
        axis: dict[str, Any] = {"format": ".0%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
        return place("value", title=AXES[name], scale={"domain": [0, 1]}, axis=axis)
    points = [p for line in lines for p in line.points]
    ends = [
        end for p in points for end in (p.mean, p.low, p.high) if end is not None and end > 0
    ]
    domain, ticks = decades(ends)
    scale = {"type": "log", "domain": domain, "nice": False}
    return place("value", title=AXES[name], scale=scale, axis={"format": "~g", "values": ticks})


def _rows(sizes: Sequence[int], lines: Sequence[Line], arms: Arms, name: str) -> list[Row]:
    """A row for each cell that has a mean; what a log axis cannot show is left to the table."""
    form = ".2%" if name == "old" else ".3g"
    rows: list[Row] = []
    for line, shift in zip(lines, shifts(len(lines), dodge(sizes, len(lines))), strict=True):
        for p in line.points:
            if p.mean is None or (name == "distance" and p.mean <= 0):
                continue
            both = p.low is not None and p.high is not None
            low = None if name == "distance" and (p.low or 0) <= 0 else p.low
            rows.append(
                {"arm": arms.labels[line.arm], "x": p.batch_size * shift, "value": p.mean}
                | {"low": low, "high": p.high, "batch size": f"{p.batch_size:,}"}
                | {"mean": f"{p.mean:{form}}", "trials": str(p.n)}
                | {"interval": f"{p.low:{form}} to {p.high:{form}}" if both else NOTHING}
            )
    return rows


def _levels(figure: TransferByBatch) -> list[Row]:
    rows: list[Row] = [{"value": figure.before, "text": "before fine-tuning"}]
    if figure.chance is not None:
        rows.append({"value": figure.chance, "text": "chance"})
    return rows


def _level_layers() -> list[Spec]:
    y = {"y": place("value")}
    words: dict[str, Any] = {"align": "left", "dx": 4, "dy": -7, "fontSize": 11}
    words["color"] = look.SOFT
    return [
        layer("levels", "rule", y, strokeDash=[3, 3], color="#9aa4ac"),
        layer("levels", "text", y | {"x": {"value": 0}, "text": text()}, **words),
    ]
