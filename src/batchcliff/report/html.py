"""The report as one HTML page that works from disk, offline, under a strict CSP.

The page holds Vega (from vl-convert's bundle) and runs its charts through Vega's expression
interpreter (`ast: true`), so that neither 'unsafe-eval' nor 'unsafe-inline' is needed: the
policy names the scripts and the style by hash and allows nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2

from batchcliff.report import draw, draw_curves, draw_target, draw_transfer, look
from batchcliff.report.budget_words import budget_text
from batchcliff.report.content import Content, tables
from batchcliff.report.ledger import FLAGS
from batchcliff.report.pagetables import missing_text
from batchcliff.report.scales import Width
from batchcliff.report.target import target_lines
from batchcliff.report.text import clean, display_names, number, plural
from batchcliff.report.transfer import left_text

LONG_TABLE = 24  # rows; longer ones are folded


def render(content: Content, files: dict[str, tuple[str, ...]], script: str) -> str:
    """The whole page. `files`: figure name -> files that lie beside the page; `script`: of
    `vega.bundle`."""
    charts, glue = chart_specs(content), resource("page.js")
    style = resource("page.css") + _arm_styles(content)
    template = environment().get_template("template.html.jinja")
    return template.render(
        **_view(content),
        files=files,
        charts=charts,
        policy=policy([script, glue], style),
        script=script,
        glue=glue,
        style=style,
        data=script_json(charts),
    )


def chart_specs(content: Content) -> dict[str, dict[str, Any]]:
    """Element id -> Vega-Lite specification, as wide as its place on the page."""
    width: Width = "container"
    large = content.large
    specs = {"chart-accuracy": draw.accuracy_chart(large.accuracy, width, 420, titled=False)}
    if large.published is not None:
        pair = {"published": large.published, "ours": large.accuracy}
        for name, figure in pair.items():
            for axis in ("log2", "linear"):
                specs[f"chart-{name}-{axis}"] = draw.accuracy_chart(
                    draw.bare(figure), width, 300, log2=axis == "log2", titled=False
                )
    if any(line.points for line in large.differences.lines):
        specs["chart-differences"] = draw.differences_chart(
            large.differences, width, 300, titled=False
        )
    if large.transfer is not None:
        for name, spec in draw_transfer.transfer_charts(large.transfer, width, 260).items():
            specs[f"chart-transfer-{name}"] = spec
    if large.target is not None:
        specs["chart-target"] = draw_target.target_chart(large.target, width, 360, titled=False)
    for name, curves in content.small.named.items():
        for i, panel in enumerate(curves.panels):
            height = draw_curves.panel_height(curves)
            specs[f"chart-{name}-{i}"] = draw_curves.panel_chart(curves, panel, width, height)
    return specs


def script_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever strings it holds."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def policy(scripts: list[str], style: str) -> str:
    """The page's content security policy."""
    hashes = " ".join(_hash(text) for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def resource(name: str) -> str:
    return resources.files("batchcliff.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _arm_styles(content: Content) -> str:
    """A class for each arm's colour: the policy forbids style attributes."""
    return "".join(f".arm-{slot}{{color:{look.colour(slot)}}}\n" for slot in _slots(content))


def _slots(content: Content) -> list[int]:
    large = content.large
    figures = [f for f in (large.accuracy, large.published) if f is not None]
    return sorted({line.slot for figure in figures for line in figure.lines})


def _view(content: Content) -> dict[str, Any]:
    """Names that the template uses, every string cleaned."""
    study, large = content.study, content.large
    lines = large.accuracy.lines
    names = display_names(line.arm for line in lines)
    recorded = sum(t.record is not None for t in content.joined.trials)
    outcomes = {name for line in lines for p in line.points for name, _ in p.floor}
    return {
        "name": clean(study.name, 120),
        "description": [clean(p) for p in study.description.split("\n\n") if p.strip()],
        "facts": [
            ("workload", clean(study.workload, 80)),
            ("data", clean(study.data, 80)),
            ("budget", budget_text(study).removeprefix("budget: ")),
            ("trials", f"{recorded:,} of {len(content.joined.trials):,}"),
        ],
        "headline": content.headline,
        "warnings": content.warnings,
        "flags": FLAGS,
        "notes": [clean(note, 400) for note in content.notes],
        "quarantined": [clean(name, 200) for name in content.quarantined],
        "data_note": content.data_note,
        "legend_arms": [(line.slot, names[line.arm]) for line in lines],
        "glyphs": [(look.FLOOR_GLYPHS[n], n) for n in look.FLOOR_GLYPHS if n in outcomes],
        "figures": {
            "accuracy": large.accuracy,
            "differences": large.differences,
            **content.small.named,
        },
        "transfer": large.transfer,
        "transfer_levels": "" if large.transfer is None else left_text(large.transfer),
        "dashes": {s: " ".join(map(str, look.dash(s))) for s in _slots(content)},
        "difference_legend": [(line.slot, names[line.arm]) for line in large.differences.lines],
        "target": large.target,
        "target_lines": [] if large.target is None else target_lines(large.target),
        "published": content.published,
        "published_legend": _published_legend(content),
        "tables": tables(content),
        "long": LONG_TABLE,
        "missing": missing_text(content.joined),
        "counts": [f"{count:,} {name}" for name, count in content.counts.items()],
        "environment": [_place(row) for row in content.environment],
        "method": _method(content),
    }


def _published_legend(content: Content) -> list[tuple[int, str]]:
    figures = [content.large.accuracy]
    if content.large.published is not None:
        figures.append(content.large.published)
    found = {line.arm: line.slot for figure in figures for line in figure.lines}
    names = display_names(found)
    return [(slot, names[arm]) for arm, slot in found.items()]


def _place(row: Any) -> list[tuple[str, str]]:
    versions = ", ".join(f"{clean(n, 60)} {clean(v, 60)}" for n, v in row.versions)
    numerics = ", ".join(f"{clean(n, 60)} = {clean(v, 80)}" for n, v in row.numerics)
    stacked = ", ".join(str(count) for count in row.stacked)
    return [
        ("trials", f"{row.trials:,}"),
        ("device", clean(row.device, 200) or "not said"),
        ("code", clean(row.code, 200) or "not said"),
        ("data source", clean(row.data_source, 400) or "not said"),
        ("versions", versions or "not said"),
        ("numerics", numerics or "not said"),
        ("trials trained together", stacked),
        ("time of training and evaluation", f"{number(row.seconds)} s summed over the trials"),
        ("fastest trial", f"{number(row.examples_per_second, 3)} examples/s"),
    ]


def _method(content: Content) -> list[str]:
    """How the numbers were made, each method once."""
    arms = content.summary.arms
    estimates = [e for arm in arms for e in (arm.tolerance, arm.collapse)]
    methods = dict.fromkeys(clean(e.method, 300) for e in estimates)
    plateau, threshold = content.summary.plateau, content.summary.threshold
    found = [f"{method[:1].upper()}{method[1:]}." for method in methods]
    if plateau is not None and threshold is not None:
        found.append(
            f"Plateau of the reference arm {plateau:.2%}; the tolerance cliff is where a mean, "
            f"diverged trials counted at chance, falls through {threshold:.2%}."
        )
    seeds = max((c.cell.measured for arm in arms for c in arm.cells), default=0)
    found.append(f"At most {plural(seeds, 'measured trial')} a cell.")
    return found
