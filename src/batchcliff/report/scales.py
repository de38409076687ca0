"""What all charts share: the batch axis, the scales of the arms, and how a chart is closed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import altair as alt

from batchcliff.report import look
from batchcliff.report.text import display_names

Spec = dict[str, Any]
Row = dict[str, Any]
Data = dict[str, list[Row]]
Width = int | Literal["container"]

MARGIN = 0.4  # octaves of the batch axis beyond its first and last batch size
DODGE = 0.16  # octaves between two arms at one batch size, where there is room


class Arms:
    """The arms of a chart: their labels, and their scales of colour, shape and dash."""

    def __init__(self, arms: Iterable[tuple[str, int]]) -> None:
        slots = dict(arms)
        self.labels: Mapping[str, str] = display_names(slots)
        self.names = [self.labels[arm] for arm in slots]
        self.slots = list(slots.values())

    def colour(self, legend: bool = False) -> alt.Color:
        """Colour by arm."""
        scale = alt.Scale(domain=self.names, range=[look.colour(s) for s in self.slots])
        key = alt.Legend(symbolOpacity=1, symbolType="circle") if legend else None
        return alt.Color("arm:N", scale=scale, legend=key)

    def dash(self) -> alt.StrokeDash:
        """Dash pattern by arm: tells the ninth arm from the first."""
        scale = alt.Scale(domain=self.names, range=[look.dash(s) for s in self.slots])
        return alt.StrokeDash("arm:N", scale=scale, legend=None)

    def shape(self) -> alt.Shape:
        """Shape of points by arm: tells arms apart without colour."""
        scale = alt.Scale(domain=self.names, range=[look.shape(s) for s in self.slots])
        return alt.Shape("arm:N", scale=scale, legend=None)


def dodge(sizes: Sequence[int], arms: int) -> float:
    """Octaves between two arms, so that all of them fit between two batch sizes."""
    gaps = [math.log2(b / a) for a, b in zip(sizes, sizes[1:], strict=False) if b > a > 0]
    return min([DODGE, *(0.6 * gap / max(arms, 1) for gap in gaps)])


def batch_domain(sizes: Sequence[int]) -> tuple[float, float]:
    """Ends of the log2 batch axis."""
    if not sizes:
        return 1.0, 2.0
    return min(sizes) / 2**MARGIN, max(sizes) * 2**MARGIN


def batch_axis(sizes: Sequence[int], log2: bool = True) -> alt.X:
    """The batch axis: log2 with a tick at each batch size, or linear from 0."""
    x = alt.X("x:Q").title("batch size (examples per update)")
    if log2:
        x = x.scale(type="log", base=2, domain=list(batch_domain(sizes)), nice=False)
        return x.axis(values=list(sizes), format=",d", labelOverlap="greedy")
    x = x.scale(domain=[0, max(sizes, default=1) * 1.04], nice=False)
    return x.axis(format=",d", tickCount=6, labelOverlap="greedy")


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


def tips(fields: Sequence[str]) -> list[alt.Tooltip]:
    """Tooltip fields that hold texts."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


def title(text: str, subtitle: str | list[str] = "", **more: Any) -> dict[str, Any]:
    """A title with a subtitle where there is one."""
    return {"text": text, **({"subtitle": subtitle} if subtitle else {}), **more}


def finish(
    chart: alt.LayerChart,
    data: Data,
    width: Width,
    height: int,
    words: tuple[str, str],
    *,
    titled: bool,
    size: Literal["full", "small"] = "full",
) -> Spec:
    """Size, words, configuration and data. Data go in last: Altair need not validate them."""
    spec: Spec = chart.properties(height=height).to_dict()
    spec["width"] = width
    fit = "fit-x" if width == "container" else "pad"
    spec["autosize"] = {"type": fit, "contains": "padding"}
    spec["description"] = ". ".join(part for part in words if part)
    if titled:
        spec["title"] = title(*words)
    spec["datasets"] = data
    spec["config"] = look.config(size)
    return spec
