"""How figures are drawn: valid Vega-Lite, honest axes, nothing of a user's in an expression."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SIZES, Synthetic

from batchcliff.report import look
from batchcliff.report.content import make_content
from batchcliff.report.html import chart_specs
from batchcliff.report.scales import decades, dodge
from batchcliff.report.write import static_specs

Specs = dict[str, dict[str, Any]]


@pytest.fixture
def specs(synthetic: Synthetic) -> Specs:
    """Every specification of the page and of the pictures."""
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    pictures = {f"picture-{name}": spec for name, spec in static_specs(content).items()}
    return {**chart_specs(content), **pictures}


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
    every = [*chart_specs(content).values(), *static_specs(content).values()]
    keys = ("filter", "labelExpr", "expr", "test", "calculate", "href", "url", "signal")
    expressions = {str(n[k]) for spec in every for n in nodes(spec) for k in keys if k in n}
    assert expressions and not any("alert" in e for e in expressions)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50))
def test_a_log_axis_holds_its_values_and_few_ticks(values: list[float]) -> None:
    (low, high), ticks = decades(values)
    assert low <= min(values) and max(values) <= high
    assert len(ticks) <= 21 and ticks == sorted(set(ticks))


@given(st.lists(st.integers(1, 10**6), max_size=20, unique=True), st.integers(1, 12))
def test_arms_never_reach_the_next_batch_size(sizes: list[int], arms: int) -> None:
    ordered = sorted(sizes)
    spread = dodge(ordered, arms) * (arms - 1)
    gaps = [math.log2(b / a) for a, b in itertools.pairwise(ordered)]
    assert all(spread < gap for gap in gaps) or arms == 1
