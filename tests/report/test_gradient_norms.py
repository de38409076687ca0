"""Gradient norms in the report: figures where records have them, columns of the CSV."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from synthetic import Synthetic

from batchcliff.record import TrialRecord
from batchcliff.report.content import Content, make_content
from batchcliff.report.curves import thin
from batchcliff.report.draw_curves import panels_chart
from batchcliff.report.tables import TRIAL_COLUMNS, csv_text, trial_rows
from batchcliff.report.write import static_specs, write_report

NEW = ("skipped_updates", "first_gradient_norm", "max_gradient_norm")


def with_norms(record: TrialRecord) -> TrialRecord:
    """100 first norms that fall from 8, the second not finite; one of three epochs is bad."""
    first = (8.0, math.inf, *(8 / (u + 1) for u in range(2, 100)))
    curves = dataclasses.replace(
        record.curves,
        first_gradient_norms=first,
        gradient_norm=(3.0, 1.5, math.nan),
        gradient_norm_max=(8.0, 2.0, math.nan),
    )
    return dataclasses.replace(record, curves=curves, skipped_updates=1)


def content_of(made: Synthetic, records: list[TrialRecord]) -> Content:
    return make_content(made.study, records, made.planned())


def test_figures_only_where_norms_were_recorded(single: Synthetic) -> None:
    without = content_of(single, single.records())
    assert all(not figure.panels for figure in without.small.gradient_norms)
    assert not any("gradient" in name for name in without.small.named)
    assert not any("gradient" in name for name in static_specs(without.small))
    found = content_of(single, [with_norms(r) for r in single.records()])
    assert {"gradient-norm-first", "gradient-norm"} <= found.small.named.keys()


def test_points_are_updates_from_0_and_epochs_from_1(single: Synthetic) -> None:
    records = [with_norms(r) for r in single.records()]
    first, by_epoch = content_of(single, records).small.gradient_norms
    assert (first.place, by_epoch.place) == ("update", "epoch")
    assert len(first.panels) == len(by_epoch.panels) == 7
    curve = first.panels[0].curves[0]
    assert curve.points[0] == (0, 8.0)
    assert 1 not in dict(curve.points)  # an infinity is no point
    assert curve.points[-1] == (99, 0.08)
    assert by_epoch.panels[0].curves[0].points == ((1, 3.0), (2, 1.5))
    assert thin([5.0, 6.0], start=0) == ((0, 5.0), (1, 6.0))


def test_the_axis_says_what_it_counts(single: Synthetic) -> None:
    content = content_of(single, [with_norms(r) for r in single.records()])
    for figure in content.small.gradient_norms:
        (chart, *_) = panels_chart(figure)["concat"]
        encoding = chart["layer"][0]["encoding"]
        assert encoding["x"]["title"] == figure.place
        assert encoding["y"]["scale"]["type"] == "log"


def test_columns_of_the_table(single: Synthetic) -> None:
    plain = trial_rows(single.records())[0]
    assert set(NEW) <= set(TRIAL_COLUMNS)
    assert [plain[name] for name in NEW] == [0, None, None]
    row = trial_rows([with_norms(r) for r in single.records()])[0]
    assert [row[name] for name in NEW] == [1, 8.0, 8.0]
    line = csv_text([row]).splitlines()[1].split(",")
    assert line[TRIAL_COLUMNS.index("max_gradient_norm")] == "8.0"


@pytest.mark.parametrize("norms", [True, False])
def test_the_page_has_the_figures(norms: bool, single: Synthetic, tmp_path: Path) -> None:
    records = [with_norms(r) if norms else r for r in single.records()]
    files = write_report(single.study, records, single.planned(), tmp_path)
    page = files.page.read_text(encoding="utf-8")
    assert ("<h3>Gradient norm of the first updates</h3>" in page) == norms
    assert ("<h3>Gradient norm by epoch</h3>" in page) == norms
    assert (tmp_path / "gradient-norm-first.svg").exists() == norms
