"""A view as a picture: a Vega-Lite specification, and the file that it becomes."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from batchcliff.errors import StorageError, UsageError
from batchcliff.report import html, text, vega
from batchcliff.report.scales import Arms, Data, Row, Spec, Width, finish, layer, place, tips
from batchcliff.schedule_view.view import Schedule, View
from batchcliff.study.printable import printable

SUFFIXES = (".svg", ".png", ".html")
MAX_POINTS = 1_000  # of a line; what a table would show of it is always among them
PNG_SCALE = 1.5  # pixels of the picture for each of the drawing


def chart(view: View, width: Width = 760) -> Spec:
    """Learning rate against epochs, or updates where an epoch has no length. One line each."""
    by_epoch = all(s.progress.epochs(0) is not None for s in view.schedules)
    arms = Arms((schedule.name, slot) for slot, schedule in enumerate(view.schedules))
    rows = [row for s in view.schedules for row in _rows(s, arms.labels[s.name], by_epoch)]
    last = max(row["x"] for row in rows)
    x = place(
        "x",
        title="epoch" if by_epoch else "update",
        scale={"domain": [0, last or 1], "nice": False},
    )
    y = place("lr", title="learning rate", axis={"format": "~g"})
    colour = arms.colour(legend=len(view.schedules) > 1)
    dash = arms.dash() | {"legend": colour["legend"]}  # one legend: unlike ones would conflict
    tooltip = tips("arm", "update", "learning rate")
    line = {"x": x, "y": y, "color": colour, "strokeDash": dash, "tooltip": tooltip}
    # A rate holds for its whole update: a jump is upright, not the slope to the next point.
    layers = [layer("rates", "line", line, strokeWidth=2, interpolate="step-after")]
    data: Data = {"rates": rows}
    words = (text.clean(view.title, 140), "")
    return finish(layers, data, width, 360, words, titled=True)


def _rows(schedule: Schedule, label: str, by_epoch: bool) -> list[Row]:
    count, progress = len(schedule.lr), schedule.progress
    stride = -(-count // MAX_POINTS)
    shown = sorted({*range(0, count, stride), *schedule.marks()})
    rows = []
    for t in shown:
        passed = progress.epochs(t) if by_epoch else t
        rows.append(
            {"arm": label, "x": float(passed or 0), "lr": schedule.lr[t], "update": f"{t:,}"}
            | {"learning rate": f"{schedule.lr[t]:.6g}"}
        )
    return rows


def check_path(path: Path) -> None:
    """UsageError unless the name of a picture ends in .svg, .png or .html."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--plot {printable(path)}: the name says the format. Write FILE.svg, FILE.png or "
            "FILE.html."
        )


def write_plot(view: View, path: Path) -> None:
    """Draw `view` into `path`, replaced in one step.

    Raises UsageError for another suffix than .svg, .png or .html, StorageError if the file
    cannot be written.
    """
    check_path(path)
    import vl_convert

    suffix = path.suffix.lower()
    if suffix == ".html":
        data = _page(chart(view, "container"), text.clean(view.title, 140)).encode()
    else:
        svg = vl_convert.vegalite_to_svg(chart(view))
        data = svg.encode() if suffix == ".svg" else vl_convert.svg_to_png(svg, PNG_SCALE)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            error.errno, f"--plot {printable(path)}: {error.strerror}"
        ) from error


def _page(spec: Spec, title: str) -> str:
    """A page that works from disk, offline, under the policy of the report's page."""
    import jinja2

    files = resources.files("batchcliff")
    template = files.joinpath("schedule_view", "page.html.jinja").read_text(encoding="utf-8")
    glue = files.joinpath("report", "page.js").read_text(encoding="utf-8")
    style = files.joinpath("report", "page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    script = vega.bundle()
    return environment.from_string(template).render(
        title=title,
        policy=html.policy([script, glue], style),
        script=script,
        glue=glue,
        style=style,
        data=html.script_json({"chart-schedule": spec}),
    )
