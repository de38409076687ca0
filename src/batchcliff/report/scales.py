"""What all charts share: the batch axis, the scales of the arms, and how a chart is closed.

Charts are Vega-Lite specifications as plain dicts. Altair would build the same ones, at 0.3 s
of a core each (its schema is checked link by link); a test has Altair check ours instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from batchcliff.report import look
from batchcliff.report.text import display_names

Spec = dict[str, Any]
Row = dict[str, Any]
Data = dict[str, list[Row]]
Width = int | Literal["container"]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
MARGIN = 0.4  # octaves of the batch axis beyond its first and last batch size
DODGE = 0.16  # octaves between two arms at one batch size, where there is room
FEW_ARMS = 4  # more of them at one batch size need a column that holds them together
HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"
SPREAD = 0.2  # of the gap between two batch sizes: the most that all arms at one may take


class Arms:
    """The arms of a chart: their labels, and their scales of colour, shape and dash."""

    def __init__(self, arms: Iterable[tuple[str, int]]) -> None:
        slots = dict(arms)
        self.labels: Mapping[str, str] = display_names(slots)
        self.names = [self.labels[arm] for arm in slots]
        self.slots = list(slots.values())

    def _scale(self, values: list[Any]) -> Spec:
        return {"field": "arm", "type": "nominal", "legend": None,
                "scale": {"domain": self.names, "range": values}}  # fmt: skip

    def colour(self, legend: bool = False, lines: bool = False) -> Spec:
        """Colour by arm. lines: the chart has no points, whose legend would show nothing."""
        found = self._scale([look.colour(slot) for slot in self.slots])
        # Points without an outline: the legend would draw it in the arm's dashes, as notches.
        key: Spec = {"symbolOpacity": 1, "symbolType": "circle", "symbolStrokeWidth": 0}
        if lines:
            key = {"symbolOpacity": 1, "symbolType": "stroke", "symbolStrokeWidth": 3,
                   "symbolDash": [1, 0]}  # fmt: skip
        return found | {"legend": key} if legend else found

    def dash(self) -> Spec:
        """Dash pattern by arm: tells the ninth arm from the first."""
        return self._scale([look.dash(slot) for slot in self.slots])

    def shape(self) -> Spec:
        """Shape of points by arm: tells arms apart without colour."""
        return self._scale([look.shape(slot) for slot in self.slots])


def layer(
    data: str, mark: str, encoding: Mapping[str, Any], only: str = "", **style: Any
) -> Spec:
    """One layer over the rows called `data`; `only`: an expression that picks rows."""
    found: Spec = {
        "data": {"name": data},
        "mark": {"type": mark, **style},
        "encoding": dict(encoding),
    }
    return found | {"transform": [{"filter": only}]} if only else found


def place(field: str, **more: Any) -> Spec:
    """A quantitative channel."""
    return {"field": field, "type": "quantitative", **more}


def text(field: str = "text") -> Spec:
    """A channel that shows a string as it is."""
    return {"field": field, "type": "nominal"}


def dodge(sizes: Sequence[int], arms: int) -> float:
    """Octaves between two arms, so that all of them stay close to their batch size: from the
    first to the last a fifth of the gap to the next size, or of an octave where there is one.
    """
    gaps = [math.log2(b / a) for a, b in itertools.pairwise(sizes) if b > a > 0]
    return min(DODGE, SPREAD * min(gaps, default=1.0) / max(arms - 1, 1))


def shifts(arms: int, step: float) -> tuple[float, ...]:
    """Factor of batch size by which each arm is drawn beside it, `step` octaves apart."""
    return tuple(math.exp2((i - (arms - 1) / 2) * step) for i in range(arms))


def lane_rows(sizes: Sequence[int], arms: int, step: float) -> list[Row]:
    """Where the arms' points of each batch size lie, from `low` to `high`: needed with many."""
    if arms <= FEW_ARMS:
        return []
    half = 2.0 ** (arms / 2 * step)
    return [{"low": size / half, "high": size * half} for size in sizes]


def lane_layer() -> Spec:
    """A pale column behind all points of one batch size, so that they read as one."""
    ends = {"x": place("low"), "x2": {"field": "high"}}
    return layer("lanes", "rect", ends, color="#f3f5f7", opacity=1, clip=True)


def interval_layers(data: str, x: Spec, colour: Spec) -> list[Spec]:
    """The rows' intervals from `low` to `high` as bars with caps."""
    at = {"x": x, "color": colour}
    cap: dict[str, Any] = {
        "thickness": 1.5,
        "size": 9,
        "orient": "horizontal",
        "clip": True,
        "opacity": 1,
    }
    ends = {"y": place("low"), "y2": {"field": "high"}}
    return [
        layer(data, "rule", at | ends, HAS_INTERVAL, strokeWidth=1.5, clip=True),
        layer(data, "tick", at | {"y": place("low")}, HAS_INTERVAL, **cap),
        layer(data, "tick", at | {"y": place("high")}, HAS_INTERVAL, **cap),
    ]


def batch_domain(sizes: Sequence[int]) -> tuple[float, float]:
    """Ends of the log2 batch axis."""
    if not sizes:
        return 1.0, 2.0
    return min(sizes) / 2**MARGIN, max(sizes) * 2**MARGIN


def batch_axis(sizes: Sequence[int], log2: bool = True) -> Spec:
    """The batch axis: log2 with a tick at each batch size, or linear from 0."""
    axis: Spec = {"format": ",d", "labelOverlap": "greedy"}
    if log2:
        scale = {"type": "log", "base": 2, "domain": list(batch_domain(sizes)), "nice": False}
        axis["values"] = list(sizes)
    else:
        scale = {"domain": [0, max(sizes, default=1) * 1.04], "nice": False}
        axis["tickCount"] = 6
    return place("x", title="batch size (examples per update)", scale=scale, axis=axis)


def decades(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """(domain, ticks) of a log axis over positive `values`: 1-2-5 ticks, few of them."""
    if not values:
        return [0.1, 1.0], [0.1, 1.0]
    low, high = min(values), max(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 2 else (1, 2, 5) if last - first < 2 else (1, 3)
    ticks = [s * 10.0**e for e in range(first - 1, last + 1) for s in steps]
    inside = [t for t in ticks if low / 1.02 <= t <= high * 1.02]
    below = max((t for t in ticks if t <= low), default=low)
    above = min((t for t in ticks if t >= high), default=high)
    wide = steps == (1,)
    domain = [low / 1.3, high * 1.3] if wide else [below, above]
    shown = inside if wide else sorted({below, *inside, above})
    return domain, shown


def tips(*fields: str) -> list[Spec]:
    """Tooltip fields that hold texts."""
    return [text(field) for field in fields]


def title(text: str, subtitle: str | list[str] = "", **more: Any) -> dict[str, Any]:
    """A title with a subtitle where there is one."""
    return {"text": text, **({"subtitle": subtitle} if subtitle else {}), **more}


def finish(
    layers: Sequence[Spec],
    data: Data,
    width: Width,
    height: int,
    words: tuple[str, str],
    *,
    titled: bool,
    size: Literal["full", "small"] = "full",
) -> Spec:
    """A whole specification: layers, data, size, words (title, subtitle), configuration."""
    fit = "fit-x" if width == "container" else "pad"
    spec: Spec = {
        "$schema": SCHEMA,
        "description": ". ".join(part for part in words if part),
        "width": width,
        "height": height,
        "autosize": {"type": fit, "contains": "padding"},
        "layer": list(layers),
        "datasets": data,
        "config": look.config(size),
    }
    return spec | {"title": title(*words)} if titled else spec
