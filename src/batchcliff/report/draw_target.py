"""The perfect-scaling plot as a Vega-Lite specification: updates to a target, log by log."""

from __future__ import annotations

import numpy as np

from batchcliff.report import look
from batchcliff.report.draw import band_layers
from batchcliff.report.scales import (
    Arms,
    Data,
    Row,
    Spec,
    Width,
    batch_axis,
    batch_domain,
    decades,
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
)
from batchcliff.report.target import UpdatesToTarget
from batchcliff.report.text import NOTHING, batch, clean, number
from batchcliff.report.words import interval_text, open_ends
from batchcliff.stats.budget import Budget

FIT_POINTS = 65  # of the fitted curve, which bends slowly
MAX_KNEE_LABELS = 5  # more would cover the plot; the page says them all


def target_chart(
    figure: UpdatesToTarget, width: Width = 760, height: int = 400, *, titled: bool = True
) -> Spec:
    """Updates against batch size: trials, means with intervals, the fit, perfect scaling
    from each arm's smallest size, and the knee with its interval.

    `titled`: with title and legend inside, for a picture that stands alone.
    """
    arms = Arms((c.arm, slot) for c, slot in zip(figure.curves, figure.slots, strict=True))
    data = _data(figure, arms)
    ends = [
        row[key]
        for name in ("points", "dots", "perfect")
        for row in data[name]
        for key in ("updates", "low", "high")
        if row.get(key) is not None
    ]
    domain, ticks = decades(ends)
    scale = {"type": "log", "domain": domain, "nice": False}
    y = place("updates", title="updates to the target", scale=scale,
              axis={"format": ",~r", "values": ticks})  # fmt: skip
    x, colour = batch_axis(figure.batch_sizes), arms.colour(legend=titled)
    at = {"x": x, "y": y, "color": colour}
    data["knees"] = _knee_rows(figure, arms, domain)
    tooltip = tips("arm", "batch size", "updates to the target", "interval", "trials",
                   "of perfect scaling")  # fmt: skip
    layers = [
        lane_layer(),
        *band_layers("knees", colour),
        layer("perfect", "line", at, strokeWidth=1.5, strokeDash=[2, 4], clip=True),
        layer(
            "fit", "line", at | {"strokeDash": arms.dash()},
            strokeWidth=2, opacity=0.7, clip=True,
        ),
        *interval_layers("points", x, colour),
        layer("dots", "circle", at, size=22, opacity=0.55, clip=True),
        layer(
            "points", "point", at | {"shape": arms.shape(), "tooltip": tooltip},
            filled=True, size=62, opacity=1, clip=True,
        ),
    ]  # fmt: skip
    if titled:
        data["key"] = [{"updates": domain[0], "text": "dotted: perfect scaling; line: the fit"}]
        left = {"x": {"value": 0}, "y": place("updates"), "text": text()}
        layers.append(
            layer("key", "text", left, align="left", dx=4, dy=-8, fontSize=11, color=look.SOFT)
        )
    words = (figure.title, figure.subtitle)
    return finish(layers, data, width, height, words, titled=titled)


def _data(figure: UpdatesToTarget, arms: Arms) -> Data:
    count = len(figure.curves)
    step = dodge(figure.batch_sizes, count)
    data: Data = {"points": [], "dots": [], "fit": [], "perfect": []}
    data["lanes"] = lane_rows(figure.batch_sizes, count, step)
    for curve, shift in zip(figure.curves, shifts(count, step), strict=True):
        label = {"arm": arms.labels[curve.arm]}
        for cell in curve.cells:
            x = cell.batch_size * shift
            beside = label | {"x": x * 2 ** (step * 0.32)}
            data["dots"] += [
                beside | {"updates": trial.updates}
                for trial in cell.reached
                if trial.updates is not None and not trial.at_once and len(cell.reached) > 1
            ]
            updates, share = cell.updates, cell.efficiency
            if updates.value is None or share is None:
                continue
            data["perfect"].append(label | {"x": cell.batch_size, "updates": cell.perfect})
            data["points"].append(
                label
                | {"x": x, "updates": updates.value, "low": updates.low, "high": updates.high}
                | {"batch size": f"{cell.batch_size:,}", "trials": str(len(cell.reached))}
                | {"updates to the target": number(updates.value)}
                | {"interval": interval_text(updates) or NOTHING}
                | {"of perfect scaling": f"{share:.0%}"}
            )
        data["fit"] += _fit_rows(curve, label)
    return data


def _fit_rows(curve: Budget, label: Row) -> list[Row]:
    """The fitted curve over the sizes that it was fitted to; no row where there is no fit."""
    used = [size for size, _ in curve.residuals]
    if not used:
        return []
    sizes = np.geomspace(used[0], used[-1], FIT_POINTS).tolist()
    return [label | {"x": size, "updates": curve.expected_updates(size)} for size in sizes]


def _knee_rows(figure: UpdatesToTarget, arms: Arms, domain: list[float]) -> list[Row]:
    """The knees that lie on the batch axis; the others are said in words."""
    low, high = batch_domain(figure.batch_sizes)
    rows: list[Row] = []
    for curve in figure.curves:
        knee = curve.knee
        if knee.value is None or knee.censored or not low <= knee.value <= high:
            continue
        open_low, open_high = open_ends(knee)
        rows.append(
            {
                "arm": arms.labels[curve.arm],
                "value": knee.value,
                "low": low if open_low else knee.low,
                "high": high if open_high else knee.high,
                "side": "left" if knee.value < (low * high) ** 0.5 else "right",
                "top": domain[1] * (domain[0] / domain[1]) ** (0.06 * (len(rows) + 1)),
                "text": f"{clean(curve.arm, 24)}: knee at {batch(knee.value)}",
            }
        )
    crowded = len(rows) > MAX_KNEE_LABELS
    return [row | {"text": ""} for row in rows] if crowded else rows
