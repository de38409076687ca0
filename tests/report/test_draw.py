"""How figures are drawn: valid Vega-Lite, honest axes, nothing of a user's in an expression."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SIZES, Synthetic

from batchcliff.report import look
from batchcliff.report.content import Content, make_content
from batchcliff.report.html import chart_specs
from batchcliff.report.scales import decades, dodge
from batchcliff.report.vega import svg_and_png
from batchcliff.report.write import static_specs
from batchcliff.spec import Arm

Specs = dict[str, dict[str, Any]]


@pytest.fixture
def specs(synthetic: Synthetic) -> Specs:
    """Every specification of the page and of the pictures."""
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    pictures = {f"picture-{name}": spec for name, spec in pictures_of(content).items()}
    return {**chart_specs(content), **pictures}


def pictures_of(content: Content) -> Specs:
    return static_specs(content.large) | static_specs(content.small)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside of a specification."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def test_altair_finds_them_valid(specs: Specs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever altair's own import has to say
        import altair

    bare = {name: spec | {"datasets": {}} for name, spec in specs.items()}
    for name in ("chart-accuracy", "chart-differences", "chart-ours-linear", "picture-accuracy",
                 "chart-learning-rate-0", "picture-training-loss"):  # fmt: skip
        assert altair.Chart.from_dict(bare[name]).to_dict()["$schema"] == bare[name]["$schema"]


def test_altair_would_find_them_invalid(specs: Specs) -> None:
    import altair
    import jsonschema

    broken = specs["chart-accuracy"] | {"datasets": {}, "layer": [{"mark": "no such mark"}]}
    with pytest.raises(jsonschema.ValidationError, match="no such mark"):
        altair.Chart.from_dict(broken)


def test_specs_are_json_without_nan(specs: Specs) -> None:
    json.dumps(specs, allow_nan=False)


def test_the_batch_axis_is_log2_with_a_tick_at_each_size(specs: Specs) -> None:
    found = [n for n in nodes(specs["chart-accuracy"]) if n.get("field") == "x" and "axis" in n]
    assert found
    for x in found:
        assert x["scale"]["type"] == "log" and x["scale"]["base"] == 2
        assert x["axis"]["values"] == list(SIZES)


def test_every_layer_finds_its_rows(specs: Specs) -> None:
    for name, spec in specs.items():
        for node in nodes({k: v for k, v in spec.items() if k != "datasets"}):
            data = node.get("data")
            if data and "name" in data:
                assert data["name"] in spec["datasets"], name


def test_arms_have_one_colour_in_every_chart(specs: Specs) -> None:
    wanted = {"none": look.PALETTE[0], "warmup": look.PALETTE[1]}
    seen = 0
    for spec in specs.values():
        for node in nodes(spec):
            scale = node.get("scale")
            if isinstance(scale, dict) and str(scale.get("range", [""])[0]).startswith("#"):
                pairs = zip(scale["domain"], scale["range"], strict=True)
                assert all(wanted[arm] == colour for arm, colour in pairs)
                seen += 1
    assert seen > 50


def test_expressions_hold_nothing_of_the_users(synthetic: Synthetic) -> None:
    nasty = "'; alert(1); //"
    study = replace(synthetic.study, name=nasty, workload=nasty)
    records = [
        replace(r, spec=replace(r.spec, arm=nasty + r.spec.arm)) for r in synthetic.records()
    ]
    planned = [(nasty + arm, size, seed, tid) for arm, size, seed, tid in synthetic.planned()]
    study = replace(study, reference_arm=nasty + "none")
    content = make_content(study, records, planned)
    every = [*chart_specs(content).values(), *pictures_of(content).values()]
    keys = ("filter", "labelExpr", "expr", "test", "calculate", "href", "url", "signal")
    expressions = {str(n[k]) for spec in every for n in nodes(spec) for k in keys if k in n}
    assert expressions and not any("alert" in e for e in expressions)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50))
def test_a_log_axis_holds_its_values_and_few_ticks(values: list[float]) -> None:
    (low, high), ticks = decades(values)
    assert low <= min(values) and max(values) <= high
    assert len(ticks) <= 21 and ticks == sorted(set(ticks))


@given(st.lists(st.integers(1, 10**6), max_size=20, unique=True), st.integers(1, 40))
def test_arms_stay_close_to_their_batch_size(sizes: list[int], arms: int) -> None:
    """From the first to the last arm at most a fifth of the gap to the next size."""
    ordered = sorted(sizes)
    spread = dodge(ordered, arms) * (arms - 1)
    gaps = [math.log2(b / a) for a, b in itertools.pairwise(ordered)]
    assert all(spread <= 0.2 * gap + 1e-12 for gap in [*gaps, 1.0][: max(len(gaps), 1)])


def many_arms(count: int) -> Synthetic:
    """Two batch sizes, one seed, `count` arms."""
    arms = tuple(
        Arm(name=f"arm {i}", techniques=(("warmup", (("start", i / 100),)),))
        for i in range(count)
    )
    return Synthetic(seeds=1, sizes=(1024, 4096), arms=arms, reference_arm="arm 0")


def test_many_arms_get_a_column_that_holds_their_points() -> None:
    made = many_arms(12)
    content = make_content(made.study, made.records(diverged=False), made.planned())
    spec = chart_specs(content)["chart-accuracy"]
    lanes, xs = spec["datasets"]["lanes"], [row["x"] for row in spec["datasets"]["points"]]
    assert len(lanes) == 2 and len(xs) == 24
    assert all(sum(lane["low"] <= x <= lane["high"] for lane in lanes) == 1 for x in xs)
    assert max(lane["high"] / lane["low"] for lane in lanes) < 4**0.25
    few = many_arms(3)
    content = make_content(few.study, few.records(diverged=False), few.planned())
    assert chart_specs(content)["chart-accuracy"]["datasets"]["lanes"] == []


def test_the_legend_draws_no_dashes_around_its_symbols() -> None:
    """Of the ninth arm on: the outline would take the dash pattern and look notched."""
    made = many_arms(10)
    content = make_content(made.study, made.records(diverged=False), made.planned())
    spec = static_specs(content.large)["accuracy"]
    legends = [n["legend"] for n in nodes(spec) if "symbolType" in (n.get("legend") or {})]
    assert legends and all(legend["symbolStrokeWidth"] == 0 for legend in legends)
    svg, _ = svg_and_png(spec)
    symbols = re.findall(rb'<g class="mark-symbol role-legend-symbol".*?</g>', svg)
    assert len(symbols) == 10
    assert not any(re.search(rb'stroke-width="[1-9]', s) for s in symbols)


def test_the_legend_of_lines_alone_shows_their_colours() -> None:
    """Small charts have no points: a symbol that is only filled would be invisible."""
    made = many_arms(10)
    content = make_content(made.study, made.records(diverged=False), made.planned())
    svg, _ = svg_and_png(static_specs(content.small)["training-loss"])
    symbols = re.findall(rb'<g class="mark-symbol role-legend-symbol".*?</g>', svg)
    drawn = [re.search(rb'stroke="(#\w{6})" stroke-width="[1-9]', s) for s in symbols]
    colours = {match[1].decode() for match in drawn if match}
    assert len(symbols) == 10 == sum(match is not None for match in drawn)
    assert colours == {look.colour(slot) for slot in range(10)}


@pytest.mark.parametrize(("panels", "width"), [(1, 740), (2, 345), (3, 230), (7, 230)])
def test_few_small_charts_fill_the_picture(panels: int, width: int) -> None:
    made = Synthetic(seeds=1, sizes=SIZES[:panels])
    content = make_content(made.study, made.records(), made.planned())
    spec = static_specs(content.small)["training-accuracy"]
    assert len(spec["concat"]) == panels and spec["columns"] == min(panels, 3)
    assert {chart["width"] for chart in spec["concat"]} == {width}
