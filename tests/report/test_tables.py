"""Rows, CSV and Markdown; the accounting identity."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Synthetic

from batchcliff.published import load
from batchcliff.record import Outcome
from batchcliff.report.content import make_content, tables
from batchcliff.report.join import join
from batchcliff.report.pagetables import mean_text
from batchcliff.report.tables import (
    TRIAL_COLUMNS,
    csv_cell,
    csv_text,
    markdown_cell,
    markdown_table,
    published_rows,
    trial_rows,
)
from batchcliff.report.text import NOTHING
from batchcliff.spec import Arm
from batchcliff.stats.shares import mean_share


def test_a_row_a_trial_sorted_and_complete(synthetic: Synthetic) -> None:
    records = synthetic.records()
    rows = trial_rows(reversed(records))
    assert len(rows) == 42 and all(tuple(row) == TRIAL_COLUMNS for row in rows)
    places = [(r["arm"], r["batch_size"], r["seed"]) for r in rows]
    assert places == sorted(places)
    first, record = rows[0], records[0]
    assert (first["accuracy"], first["lr"], first["trial_id"]) == (
        record.accuracy,
        0.1,
        record.trial_id,
    )
    assert (first["updates"], first["examples"]) == (39_000, 39_000 * 128)
    bad = next(r for r in rows if r["outcome"] == "diverged")
    assert bad["accuracy"] is None and bad["first_bad_update"] == bad["updates"]
    assert bad["planned_updates"] == 50_000 // bad["batch_size"] * 100


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("a=b", "a=b"),
        ("", ""),
        (None, ""),
        (math.nan, ""),
        (math.inf, ""),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (8192, "8192"),
    ],
)
def test_csv_cells(value: object, cell: str) -> None:
    assert csv_cell(value) == cell


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
def test_csv_reads_back_whatever_the_strings_hold(values: list[str]) -> None:
    columns = [str(i) for i in range(len(values))]
    text = csv_text([dict(zip(columns, values, strict=True))], columns)
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header == columns
    assert [cell.removeprefix("'") for cell in row] == [v.removeprefix("'") for v in values]
    assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for cell in row if cell)


def test_csv_never_says_nan(synthetic: Synthetic) -> None:
    record = replace(synthetic.records()[0], test_loss=math.nan, train_loss=math.inf)
    assert "nan" not in csv_text(trial_rows([record]))
    assert trial_rows([record])[0]["test_loss"] is None


def test_the_accounting_adds_up_whatever_happened(synthetic: Synthetic) -> None:
    kinds = [*(o for o in Outcome if o is not Outcome.OK), None]
    records = []
    for i, record in enumerate(synthetic.records(diverged=False)):
        kind = kinds[i % 8] if i % 8 < len(kinds) else Outcome.OK
        if kind is Outcome.OK:
            records.append(record)
        elif kind is not None:
            records.append(replace(record, outcome=kind, accuracy=None, reason="why"))
    content = make_content(synthetic.study, records, synthetic.planned())
    table = tables(content)["accounting"]
    for row in table.rows:
        planned, *parts = (int(cell) for cell in row[2:])
        assert planned == sum(parts)
    assert [int(cell) for cell in table.rows[-1][2:]] == [
        42,
        *(content.counts.get(o.value, 0) for o in Outcome),
        content.counts["missing"],
    ]


def test_published_beside_ours(single: Synthetic) -> None:
    records = single.records(diverged=False)
    rows = published_rows(join(single.planned(), records), load("article"))
    assert len(rows) == 14
    assert all(r.n == 1 and r.not_ok == 0 for r in rows)
    assert all(r.difference is not None and abs(r.difference) < 1e-12 for r in rows)


def test_published_cells_that_we_have_not_stay_empty(single: Synthetic) -> None:
    rows = published_rows(join(single.planned(), []), load("goyal"))
    assert all(r.ours is None and r.difference is None and r.n == 0 for r in rows)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "[a](http://x.test)", "a | b", "![x](y)", "`x`"]
)
def test_markdown_cells_are_only_text(hostile: str) -> None:
    cell = markdown_cell(hostile)
    assert "<" not in cell and "](" not in cell.replace("\\]", "") and "\n" not in cell
    assert cell.count("|") == cell.count("\\|")


def test_markdown_is_escaped_once() -> None:
    assert markdown_cell("<a & b> *c*") == "&lt;a &amp; b&gt; \\*c\\*"


def test_a_markdown_table() -> None:
    assert (
        markdown_table(["a", "b"], [["x\ny", "1"]])
        == "| a | b |\n| --- | ---: |\n| x y | 1 |\n"
    )


@pytest.mark.parametrize(("arms", "turned"), [(2, False), (5, False), (6, True), (12, True)])
def test_many_arms_turn_the_table(arms: int, turned: bool) -> None:
    """Arms as columns up to five, as rows beyond; the cells are the same."""
    made = Synthetic(
        seeds=1,
        sizes=(1024, 4096),
        reference_arm="arm 0",
        arms=tuple(
            Arm(name=f"arm {i}", techniques=(("warmup", (("start", i / 100),)),))
            for i in range(arms)
        ),
    )
    content = make_content(made.study, made.records(diverged=False), made.planned())
    table = tables(content)["accuracy"]
    sizes, names = ("1,024", "4,096"), tuple(f"arm {i}" for i in range(arms))
    assert table.header == (("arm", *sizes) if turned else ("batch size", *names))
    assert tuple(row[0] for row in table.rows) == (names if turned else sizes)
    for i, line in enumerate(content.large.accuracy.lines):
        for k, point in enumerate(line.points):
            cell = table.rows[i][k + 1] if turned else table.rows[k][i + 1]
            assert cell == f"{point.mean:.2%}"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.90, 0.91, 0.92], "91.00% ± 2.48"),
        ([0.97, 0.99], "98.00% (85.3 to 100)"),
        ([0.2, 0.9], "55.00% (no useful interval)"),
        ([0.5], "50.00%"),
        ([], NOTHING),
    ],
)
def test_a_mean_and_its_interval_stay_inside_of_what_is_possible(
    values: list[float], text: str
) -> None:
    assert mean_text(mean_share(values)) == text
