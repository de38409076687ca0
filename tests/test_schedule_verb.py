"""`batchcliff schedule`: what it prints is what runs, and what libraries do."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff.cli import app
from batchcliff.schedule_view.make import Asked, make_view
from batchcliff.schedule_view.plot import MAX_POINTS, chart
from batchcliff.schedule_view.tables import sparkline
from batchcliff.schedule_view.view import Progress, Schedule, progress_of
from batchcliff.schedules import Clock, Warmup, factors, rates
from batchcliff.schedules.curves import cosine_decay

pytestmark = pytest.mark.usefixtures("home")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schedule", *arguments])


def found(*arguments: str) -> dict[str, Any]:
    result = call(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    plain: dict[str, Any] = json.loads(result.stdout)
    return plain


def row(text: str, update: int) -> list[str]:
    """The cells of the row of an update in the first table that has it, from its number on."""
    end = 0
    for line in text.splitlines():
        if re.search(r"(^|\s\s)update(\s\s|$)", line):
            end = line.index("update") + len("update")
        elif end and line[:end].split()[-1:] == [str(update)]:
            return [str(update), *line[end:].split()]
    raise AssertionError(f"no row of update {update} in\n{text}")


# --- a study


def test_the_articles_rates() -> None:
    """6 updates an epoch; epochs 0..5 at 10**(-2 + 0.4 epoch) of 6.4; x0.1 from 60 and 85."""
    none, warmup = found("article")["schedules"]
    expected = [6.4 * 10 ** (-2 + 0.4 * epoch) for epoch in range(6) for _ in range(6)]
    expected += [6.4] * 6 * 54 + [0.64] * 6 * 25 + [0.064] * 6 * 15
    assert warmup["lr"] == pytest.approx(expected)
    assert none["lr"] == pytest.approx([6.4] * 360 + [0.64] * 150 + [0.064] * 90)
    assert (warmup["warmup_updates"], warmup["first_at_peak"]) == (36, 30)
    assert (warmup["updates"], warmup["epochs"], warmup["examples"]) == (600, 100.0, 4915200)
    assert warmup["peak_provenance"] == "6.4 = 0.1 x 8192/128 (linear)"


def test_what_is_shown_is_what_a_trial_runs_at() -> None:
    from batchcliff.study.grid import trials
    from batchcliff.studyfile import load_study
    from batchcliff.training.arithmetic import learning_rates

    study = load_study("digits")
    runs = {
        spec.arm: learning_rates(spec, 1024)
        for spec in trials(study, "")
        if spec.batch_size == 64 and spec.seed == 0
    }
    shown = found("digits", "--batch-size", "64")["schedules"]
    assert {one["name"]: one["lr"] for one in shown} == runs
    assert len(runs) == 2


def test_the_table_has_the_updates_where_something_happens() -> None:
    text = call("article").stdout
    assert "study article, 100ep, batch size 8192 (its largest; --batch-size N" in text
    assert "lr 6.4 = 0.1 x 8192/128 (linear)" in text
    assert row(text, 0) == ["0", "0", "0", "6.4", "0.064"]
    assert row(text, 30) == ["30", "5", "245,760", "6.4", "6.4"]
    assert row(text, 359)[-2:] == ["6.4", "6.4"]
    assert row(text, 360) == ["360", "60", "2,949,120", "0.64", "0.64"]
    assert row(text, 599)[-2:] == ["0.064", "0.064"]
    for words in ("warmup: first at the peak, lr x 2.512", "warmup: last of the warmup"):
        assert words in text
    assert text.count("lr x 0.1 ") == 2
    assert len(text.splitlines()) < 40, "compact"


def test_arms_are_chosen_and_compared() -> None:
    assert [s["name"] for s in found("article", "warmup")["schedules"]] == ["warmup"]
    assert [s["name"] for s in found("article", "--arm", "warmup")["schedules"]] == ["warmup"]
    for names in ((), ("none", "warmup"), ("warmup",)):
        (difference,) = found("article", *names, "--diff")["differences"]
        assert (difference["first"], difference["second"]) == ("none", "warmup")
        assert (difference["first_difference"], difference["updates_that_differ"]) == (0, 30)
        assert difference["largest_share_of_peak"] == pytest.approx(0.99)
        lost = sum(10 ** (-2 + 0.4 * epoch) - 1 for epoch in range(5)) * 6
        assert difference["area_updates_at_peak"] == pytest.approx(lost)


def test_equal_arms_share_a_column_and_unlike_ones_are_not_compared() -> None:
    result = call("article-semantics", "--diff")
    assert result.exit_code == 0
    assert "the same: article, batch norm global, " in result.stdout
    assert "remainder carry has 1221 updates and article 1200: not compared" in result.stdout
    assert "batch norm global - article" in result.stdout
    assert row(result.stdout, 1220)[1:3] == ["99.942", "4,997,120"]  # its own table


def test_an_arm_that_cannot_run_says_why(home: Path) -> None:
    study = (
        'name = "s"\nworkload = "digits"\nbatch_sizes = [512]\nseeds = 1\nbudget = "10ep"\n'
        '[arms.none]\n[arms.long]\nwarmup = { duration = "30up" }\n'
    )
    (home / "s.toml").write_text(study)
    result = call("s.toml")
    assert result.exit_code == 0
    assert "infeasible: long: warmup of" in result.stdout
    alone = call("s.toml", "long")
    assert alone.exit_code == 2
    assert "arm long: warmup of" in alone.stderr
    assert call("s.toml", "--budget", "20ep", "long").exit_code == 0


def test_the_batch_of_an_arm_that_grows_is_shown(home: Path) -> None:
    """4 x the batch from half of the run on, instead of a quarter of the rate."""
    study = (
        'name = "s"\nworkload = "digits"\nbatch_sizes = [32]\nseeds = 1\nbudget = "4ep"\n'
        'decay = { kind = "multistep", at = ["50%"], factor = 0.25 }\n[arms.none]\n'
        '[arms.growth]\nbatch-growth = { most = 512 }\nwarmup = { duration = "1ep" }\n'
    )
    (home / "s.toml").write_text(study)
    none, growth = found("s.toml")["schedules"]
    assert none["batch_size_changes"] == []
    assert growth["batch_size_changes"] == [[64, 128]]
    assert (growth["updates"], growth["examples"], growth["epochs"]) == (80, 4096, 4.0)
    assert growth["warmup_updates"] == 32
    assert growth["lr"][31:] == [none["lr"][0]] * 49
    _, _, grown = call("s.toml").stdout.split("\n\n")[:3]
    assert row(grown, 64)[:5] == ["64", "2", "2,048", "128", f"{none['lr'][0]:g}"]
    compared = call("s.toml", "--diff").stdout
    assert "growth has 80 updates and none 128: not compared" in compared


def test_the_door_in_python_gives_what_the_verb_shows() -> None:
    import batchcliff

    none, warmup = batchcliff.schedule("article", "none", "warmup", diff=True).schedules
    shown = found("article", "none", "warmup", "--diff")["schedules"]
    assert [list(none.lr), list(warmup.lr)] == [one["lr"] for one in shown]
    options = {"warmup": "linear:5ep", "lr": "0.4", "updates_per_epoch": 391, "budget": "90ep"}
    (own,) = batchcliff.schedule(**options, decay="cosine").schedules
    clock = Clock(391, 1).with_budget("90ep")
    assert list(own.lr) == [
        0.4 * f for f in factors(clock, Warmup(duration="5ep"), cosine_decay)
    ]
    view = batchcliff.schedule(conventions=["torch", "keras"], warmup="5up", diff=True)
    assert view.differences()[0].differing == (0, 1, 2, 3, 4)
    with pytest.raises(batchcliff.UsageError, match="Did you mean 'article'"):
        batchcliff.schedule("artcle")


# --- a schedule of its own


def test_a_typed_schedule_is_that_of_the_library() -> None:
    shown = found(
        "--warmup", "linear:5ep", "--peak", "0.4", "--updates-per-epoch", "391",
        "--total", "90ep", "--curve", "cosine",
    )["schedules"][0]  # fmt: skip
    clock = Clock(391, 1).with_budget("90ep")
    table = factors(clock, Warmup(duration="5ep"), cosine_decay)
    assert shown["lr"] == [0.4 * factor for factor in table]
    assert (shown["updates"], shown["epochs"], shown["examples"]) == (35190, 90.0, None)
    assert (shown["warmup_updates"], shown["first_at_peak"]) == (1955, 1954)


@pytest.mark.parametrize(
    ("warmup", "updates"),
    [("5ep", 1955), ("200up", 200), ("200", 200), ("64000ex", 500), ("5%", 1760), ("0ep", 0)],
)
def test_every_unit(warmup: str, updates: int) -> None:
    options = ["--updates-per-epoch", "391", "--batch-size", "128", "--budget", "90ep"]
    shown = found("--warmup", warmup, *options)["schedules"][0]
    assert shown["warmup_updates"] == updates
    assert shown["lr"] == [min(1.0, (t + 1) / max(updates, 1)) for t in range(35190)]


def test_the_grammar_is_that_of_the_study_file(home: Path) -> None:
    ways = (
        ["--warmup", "exponential:6ep,start=0.01,stepping=epoch"],
        ["--warmup", "shape=exponential,duration=6ep,start=0.01,stepping=epoch"],
        ["--warmup", '{shape="exponential", duration="6ep", start=0.01, stepping="epoch"}'],
    )
    clock = ["--num-examples", "50000", "--batch-size", "8192", "--budget", "100ep"]
    decays = (
        ["--decay", "multistep:60%,85%,factor=0.1"],
        ["--decay", '{ kind = "multistep", at = ["60%", "85%"], factor = 0.1 }'],
    )
    lr = ["--lr", "0.1,base_batch_size=128,scaling=linear"]
    _, article = found("article")["schedules"]
    for way in ways:
        for decay in decays:
            shown = found(*way, *decay, *lr, *clock)["schedules"][0]
            assert shown["lr"] == article["lr"]
            assert shown["peak_provenance"] == article["peak_provenance"]
    carried = found(*ways[0], *decays[0], *lr, *clock, "--remainder", "carry")
    assert carried["schedules"][0]["updates"] == 611


def test_a_batch_that_grows_has_a_column_and_fewer_updates() -> None:
    """Smith et al. 2017: x5 at epochs 60 and 85, then, at the most, decay again."""
    options = [
        "--warmup",
        "1ep",
        "--num-examples",
        "1000",
        "--batch-size",
        "10",
        "--budget",
        "10ep",
        "--decay",
        "growth:60%,80%,factor=0.2,max_batch_size=50",
    ]
    shown = found(*options)["schedules"][0]
    assert shown["batch_size_changes"] == [[600, 50]]
    assert shown["updates"] == 600 + 40 + 40
    assert shown["examples"] == 10_000
    assert shown["lr"][100:640] == [1.0] * 540
    assert shown["lr"][640:] == [0.2] * 40
    text = call(*options).stdout
    assert row(text, 600) == ["600", "6", "6,000", "50", "1"]
    assert "batch size 50" in text
    late = call(*(option.replace("1ep", "7ep") for option in options))
    assert late.exit_code == 2
    assert "longer than the 600 until the batch grows" in late.stderr


# --- conventions


def test_conventions_beside_each_other_and_what_they_differ_by() -> None:
    plain = found("--diff", "torch", "transformers", "keras", "--warmup", "5up")
    for one in plain["schedules"]:
        assert one["lr"] == rates(one["name"], 5, 10)
    first, second = plain["differences"]
    assert (first["first"], first["second"], first["first_difference"]) == (
        "torch", "transformers", 0,
    )  # fmt: skip
    assert first["largest_share_of_peak"] == pytest.approx(1 / 3)
    assert first["area_updates_at_peak"] == pytest.approx(-1.0)
    assert second["second"] == "keras"
    text = call("--diff", "torch", "transformers", "keras").stdout
    assert "33.3% of the peak at update 0" in text
    assert "-1 updates at the peak" in text
    assert "torch 2.13: LinearLR(total_iters=W)" in text
    assert [row(text, t)[1] for t in range(3)] == ["0.333333", "0.466667", "0.6"]


def test_one_convention_is_compared_with_ours_and_equal_ones_are_equal() -> None:
    (difference,) = found("--diff", "pytorch-warmup", "--warmup", "7up")["differences"]
    assert difference["first"] == "batchcliff"
    assert (difference["first_difference"], difference["largest_at"]) == (None, None)
    assert "equal" in call("--diff", "--convention", "torch-same").stdout
    assert "never" in call("--convention", "timm-cosine").stdout


def test_a_convention_takes_peak_start_and_budget() -> None:
    options = ["--warmup", "4up,start=0.1", "--lr", "3.2", "--budget", "6up"]
    (shown,) = found("--convention", "torch", *options)["schedules"]
    assert shown["lr"] == rates("torch", 4, 6, 3.2, 0.1)
    assert found("torch", "--warmup", "0")["schedules"][0]["lr"] == [1.0] * 5


def test_a_name_that_is_both_a_recipe_and_a_convention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`goyal` alone is the recipe; beside another convention, or with --warmup, it is not."""
    from batchcliff import studyfile
    from batchcliff.schedule_view.make import _names_a_study

    monkeypatch.setattr(studyfile, "recipe_names", lambda: ("goyal", "digits"))
    for names, diff, expected in (
        (("goyal",), False, True),
        (("goyal", "none", "gradual"), True, True),
        (("goyal", "torch"), True, False),
        (("goyal",), True, False),
        (("digits", "none"), True, True),
        (("torch",), False, False),
    ):
        assert _names_a_study(Asked(names=names, diff=diff)) is expected, names
    assert not _names_a_study(Asked(names=("goyal",), warmup="5up"))


# --- files


def test_csv_has_a_row_for_every_update() -> None:
    result = call("digits", "--batch-size", "512", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 2 * 120
    last = rows[-1]
    assert (last["schedule"], last["update"], last["batch_size"]) == ("warmup", "119", "512")
    assert (last["epoch"], last["examples"]) == ("59.5", str(119 * 512))
    warmup = next(s for s in found("digits")["schedules"] if s["name"] == "warmup")
    assert [float(r["lr"]) for r in rows if r["schedule"] == "warmup"] == warmup["lr"]


@pytest.mark.parametrize("suffix", ["svg", "png", "html", "SVG"])
def test_a_picture_is_written_whole(suffix: str, home: Path) -> None:
    path = home / f"lr.{suffix}"
    result = call("article", "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert f"plot: {path}" in result.stdout
    data = path.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
    else:
        text = data.decode()
        assert "learning rate" in text
        assert "study article, 100ep, batch size 8192" in text
    if suffix == "html":
        assert "default-src 'none'; script-src 'sha256-" in html.unescape(text)
        markup = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
        assert not re.search(r"(src|href)=", markup), "nothing is fetched"
        assert '"warmup"' in text
    assert [p.name for p in home.iterdir()] == [path.name]


def test_altair_agrees_with_the_chart_and_every_jump_is_in_it() -> None:
    altair = pytest.importorskip("altair")
    view = make_view(Asked(names=("article",), batch_size=128))
    spec = chart(view)
    altair.Chart.from_dict(spec).to_dict()
    rows = [r for r in spec["datasets"]["rates"] if r["arm"] == "warmup"]
    assert len(rows) < 2 * MAX_POINTS
    drawn = {int(r["update"].replace(",", "")): r["lr"] for r in rows}
    lr = view.schedules[1].lr
    assert len(lr) == 39_000
    jumps = [t for t, (a, b) in enumerate(pairwise(lr), 1) if a != b]
    assert len(jumps) == 7
    for t in jumps:
        assert (drawn[t - 1], drawn[t]) == (lr[t - 1], lr[t])


def test_a_disk_that_refuses_is_exit_74(home: Path) -> None:
    result = call("torch", "--plot", str(home / "no such folder" / "x.svg"))
    assert result.exit_code == 74
    assert "--plot" in result.stderr


# --- values


def test_marks_of_a_schedule() -> None:
    schedule = Schedule(name="x", lr=(0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1), peak=1.0,
                        warmup_updates=2)  # fmt: skip
    marks = schedule.marks()
    assert marks[1] == "last of the warmup, first at the peak, lr x 2"
    assert marks[4] == "lr x 0.1"
    assert (marks[0], marks[6]) == ("first", "last")
    assert schedule.area == pytest.approx(3.8)
    ramp = Schedule(name="x", lr=tuple(i / 50 for i in range(51)), peak=1.0)
    assert ramp.jumps() == []  # no step of a ramp is a jump
    one = Schedule(name="x", lr=(2.0,), peak=2.0)
    assert one.marks() == {0: "first, first at the peak, last"}


def test_progress_of_a_fixed_batch() -> None:
    progress = progress_of([(0, 8192, Fraction(50_000, 8192))])
    assert progress.epochs(611) == Fraction(611 * 8192, 50_000)
    assert progress.examples(611) == 611 * 8192
    assert Progress().epochs(3) is None


def test_sparkline_is_high_where_the_rate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lr = (1.0,) * 60 + (0.1,) * 40
    schedule = Schedule(name="x", lr=lr, peak=1.0)
    assert sparkline(schedule, 10) in ("█" * 6 + "▁" * 4, "#" * 6 + "_" * 4)
    assert len(sparkline(Schedule(name="x", lr=(1.0, 0.5), peak=1.0))) == 2
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert sparkline(schedule, 10) == "#" * 6 + "_" * 4
