"""Adaptive studies: the same trials whoever runs them, when, and how often they are killed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import curved_worker
import pytest
import study_runs
from hypothesis import given
from hypothesis import strategies as st

from batchcliff import api, planning, show
from batchcliff.errors import UsageError
from batchcliff.record import TrialRecord
from batchcliff.spec import Arm, BatchNorm, Search, StudySpec
from batchcliff.stats.search import search
from batchcliff.study import grid, supervisor
from batchcliff.study.adaptive import Adaptive, ladder, recorded
from batchcliff.study.engines.local import Worker
from batchcliff.study.store import Store
from batchcliff.studyfile import load_study, parse_study
from batchcliff.training.arithmetic import DataFacts

SIZES = (4, 8, 16, 32, 64)
LADDER = (4, 6, 8, 11, 16, 23, 32, 45, 64)
WARMUP = (("warmup", (("duration", "50%"),)),)
FACTS = DataFacts(num_train=64, num_test=32, num_classes=4, image_shape=(4, 4, 1))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", curved_worker.COMMAND)
    monkeypatch.setattr(supervisor, "code_name", lambda: "no code trains here")


def study(seeds: int = 3, sizes: tuple[int, ...] = SIZES, **options: Any) -> StudySpec:
    arms = (Arm(name="none"), Arm(name="warmup", techniques=WARMUP))
    plain = study_runs.study_of(seeds, sizes, arms)
    return dataclasses.replace(plain, search=Search(**options), budget="8ep")


def run(made: StudySpec, folder: Path, told: study_runs.Told | None = None, **more: Any) -> Any:
    return study_runs.run(made, folder, told, **{"seek": search, **more})


def places(folder: Path) -> dict[tuple[str, int, int], TrialRecord]:
    with Store.open(folder) as store:
        return recorded(store.planned(), store.records())


# --- the ladder ----------------------------------------------------------------------------


@given(
    st.sets(st.integers(1, 20_000), min_size=2, max_size=8),
    st.floats(1.05, 2.0),
    st.sampled_from([1, 8, 32]),
)
def test_law_ladder(coarse: set[int], precision: float, multiple: int) -> None:
    sizes = ladder(sorted(coarse), precision, multiple)
    assert coarse <= set(sizes) and list(sizes) == sorted(set(sizes))
    assert all(size % multiple == 0 for size in set(sizes) - coarse)
    for low, high in itertools.pairwise(sizes):
        room = 8 * multiple  # what rounding two neighbours may cost
        assert high <= low * precision * 1.01 + room


def test_the_article_s_ladder() -> None:
    sizes = ladder([2**k for k in range(7, 14)], math.sqrt(2), 8)
    assert sizes[:5] == (128, 184, 256, 360, 512) and len(sizes) == 13
    assert all(size % 8 == 0 for size in sizes)
    assert ladder(SIZES, math.sqrt(2)) == LADDER and ladder(SIZES, 2.0) == SIZES


def test_only_sizes_that_can_run_are_tried() -> None:
    """64 examples: 128 is too large. Every size fits all arms' groups."""
    made = study(sizes=(16, 32, 64, 128))
    settings = dataclasses.replace(made.settings, batch_norm=BatchNorm(group="B/8"))
    adaptive = Adaptive(
        dataclasses.replace(made, settings=settings), "d" * 64, "", FACTS, search
    )
    assert adaptive.ladders == dict.fromkeys(("none", "warmup"), (16, 24, 32, 48, 64))
    assert any("larger than the training set" in why for why in adaptive.reasons.values())


# --- runs ----------------------------------------------------------------------------------


def test_it_finds_both_arms_cliffs_with_a_part_of_the_grid(
    tmp_path: Path, pretended: None
) -> None:
    told = study_runs.Told()
    summary = run(study(), tmp_path, told)
    assert (summary.exit_code, summary.missing) == (0, 0)
    found = places(tmp_path)
    assert summary.counts == {"ok": len(found)} and len(found) <= 2 * 3 * len(LADDER) / 3
    assert {size for _, size, _ in found} <= set(LADDER)
    legend, *lines = api.status(tmp_path).search
    assert "measured means" in legend and "seeds at hand" in legend
    assert [line.partition("; estimate")[0] for line in lines] == [
        f"{kind} cliff of {arm}: found: {low} holds, {high} falls and the curve crosses at {at}"
        for arm, low, high, crossings in (
            ("none", 16, 23, (16, 19)),
            ("warmup", 32, 45, (32, 38)),
        )
        for kind, at in zip(("tolerance", "collapse"), crossings, strict=True)
    ]
    assert "searching: nothing" not in told.notes and "16 holds, 23 falls" in told.notes
    totals = told.of("started")[0][1] + sum(event[1] for event in told.of("more"))
    assert totals == len(found)
    with Store.open(tmp_path) as store:
        assert all(len(store.attempts(p.trial_id)) == 1 for p in store.planned())


def test_a_record_is_that_of_the_grid(tmp_path: Path, pretended: None) -> None:
    run(study(), tmp_path)
    whole = dataclasses.replace(study(), search=None, batch_sizes=LADDER)
    found = places(tmp_path)
    one = next(iter(found.values())).spec
    own = one.workload.partition("@")[2]  # the digest of the workload's source
    ids = {trial.trial_id for trial in grid.trials(whole, one.data_digest, own)}
    assert {r.trial_id for r in found.values()} < ids


class Killed(Exception):
    """In place of a signal between two steps."""


class Dies(study_runs.Told):
    """Dies at the n-th thing that is told of a kind."""

    def __init__(self, kind: str, count: int) -> None:
        super().__init__()
        self.kind, self.left = kind, count

    def _tell(self, kind: str) -> None:
        self.left -= kind == self.kind
        if not self.left:
            raise Killed

    def finished(self, record: TrialRecord) -> None:
        self._tell("finished")

    def more(self, *, trials: int, examples: int) -> None:
        self._tell("more")


@pytest.mark.parametrize(
    ("kind", "count", "workers"), [("finished", 1, 1), ("finished", 5, 3), ("more", 2, 1)]
)
def test_a_killed_run_goes_on_with_the_same_decisions(
    tmp_path: Path, pretended: None, kind: str, count: int, workers: int
) -> None:
    run(study(), tmp_path / "whole")
    with pytest.raises(Killed):
        run(study(), tmp_path / "cut", Dies(kind, count), workers=workers)
    cut = places(tmp_path / "cut")
    assert len(cut) < len(places(tmp_path / "whole"))
    assert run(study(), tmp_path / "cut", workers=workers).exit_code == 0
    assert study_runs.table(tmp_path / "cut") == study_runs.table(tmp_path / "whole")


def test_control_a_search_that_counts_its_calls_would_be_seen(
    tmp_path: Path, pretended: None
) -> None:
    calls = itertools.count()

    def moody(made: StudySpec, *args: Any) -> Any:
        more = dataclasses.replace(made.search or Search(), at_once=1 + next(calls))
        return search(dataclasses.replace(made, search=more), *args)

    run(study(), tmp_path / "whole", seek=moody)
    with pytest.raises(Killed):
        run(study(), tmp_path / "cut", Dies("finished", 5), seek=moody)
    run(study(), tmp_path / "cut", seek=moody)
    assert study_runs.table(tmp_path / "cut") != study_runs.table(tmp_path / "whole")


def test_two_drivers_at_once_train_no_trial_twice(tmp_path: Path, pretended: None) -> None:
    assert study_runs.two_at_once(lambda: run(study(), tmp_path / "two")) == [0, 0]
    run(study(), tmp_path / "one")
    assert study_runs.table(tmp_path / "two") == study_runs.table(tmp_path / "one")
    with Store.open(tmp_path / "two") as store:
        planned = store.planned()
        assert len(set(planned)) == len(planned)
        assert all(len(store.attempts(p.trial_id)) == 1 for p in planned)


@pytest.mark.parametrize("limit", [1, 5, 1_000])
def test_a_budget_of_trials_or_examples_is_kept(
    tmp_path: Path, pretended: None, limit: int
) -> None:
    run(study(trials=limit), tmp_path / "trials")
    run(study(examples=limit * 8 * 64), tmp_path / "examples")
    count = len(places(tmp_path / "trials"))
    assert count == min(limit, count) and (count == limit or limit == 1_000)
    assert len(places(tmp_path / "examples")) == count
    said = api.status(tmp_path / "trials").search
    assert any("searching" in line for line in said) == (limit < 1_000)


def test_records_that_are_there_already_are_used(tmp_path: Path, pretended: None) -> None:
    """A search may begin with the records of a grid, and pass over rounds that have all."""
    study_runs.run(dataclasses.replace(study(1), search=None), tmp_path)
    told = study_runs.Told()
    before = len(places(tmp_path))
    assert run(study(1), tmp_path, told, extend=True).exit_code == 0
    found = places(tmp_path)
    assert before == 10 and {size for _, size, _ in found} > set(SIZES)
    assert len(told.of("trial_started")) == len(found) - before <= 4
    third = study_runs.Told()
    assert run(study(3), tmp_path, third, extend=True).exit_code == 0


def test_plan_says_what_is_next_and_the_worst_case(
    tmp_path: Path, pretended: None, capsys: pytest.CaptureFixture[str]
) -> None:
    made = study(trials=20)
    first = planning.plan(made, out=tmp_path, workload="faulty:workload")
    assert (len(first.trials), first.done, first.most) == (4, 0, 20)
    with pytest.raises(Killed):
        run(made, tmp_path, Dies("more", 2))
    between = planning.plan(made, out=tmp_path, workload="faulty:workload")
    assert between.done < len(between.trials) and len(between.trials) > 3
    next_ones = {t.spec.trial_id for t in between.trials}
    run(made, tmp_path)
    assert next_ones <= {r.trial_id for r in places(tmp_path).values()}
    over = planning.plan(made, out=tmp_path, workload="faulty:workload")
    assert over.done == len(over.trials) and over.differences == ()
    show.show_plan(over)
    told = capsys.readouterr().out
    assert "at most 20" in told and "cliff of warmup: found" in told


# --- the study file ------------------------------------------------------------------------

TEXT = """\
name = "s"
workload = "digits"
batch_sizes = [32, 64, 128, 256]
seeds = 2
budget = "6ep"
search = "adaptive"
[arms.none]
"""


def test_a_study_file_says_it() -> None:
    assert parse_study(TEXT).search == Search()
    table = '{ kind = "adaptive", precision = 1.2, trials = 9, examples = 77, at_once = 4 }'
    whole = parse_study(TEXT.replace('"adaptive"', table)).search
    assert whole == Search(precision=1.2, trials=9, examples=77, at_once=4)
    assert parse_study(TEXT.replace('search = "adaptive"\n', "")).search is None


BAD = {
    '"adaptiv"': "Did you mean 'adaptive'?",
    '{ kind = "adaptive", precision = 1.0 }': "from 1.05 to 2",
    '{ kind = "adaptive", trials = 0 }': "a whole number >= 1",
    '{ kind = "adaptive", trails = 5 }': "Did you mean 'trials'?",
    "true": "a table is needed",
}


@pytest.mark.parametrize("value", BAD)
def test_bad_searches_are_refused_with_line_key_and_hint(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_study(TEXT.replace('"adaptive"', value), label="s.toml")
    assert str(caught.value).startswith("s.toml:6: search") and BAD[value] in str(caught.value)


def test_what_cannot_be_searched_is_refused() -> None:
    tuned = TEXT.replace("[arms.none]", "[arms.none]\nlr = { tune = [0.1, 0.2] }")
    with pytest.raises(UsageError, match=r"s\.toml:6: search: arm 'none' chooses its learning"):
        parse_study(tuned, label="s.toml")
    with pytest.raises(UsageError, match="a smallest and a largest batch size"):
        parse_study(TEXT.replace("[32, 64, 128, 256]", "[32]"))
    target = TEXT.replace('"6ep"', '{ accuracy = 0.9, at_most = "6ep" }')
    with pytest.raises(UsageError, match="no cliff can be found"):
        parse_study(target)


def test_it_survives_being_written_as_a_file(tmp_path: Path) -> None:
    from batchcliff.advising.study_toml import study_toml

    for text in (TEXT, TEXT.replace('"adaptive"', '{ kind = "adaptive", trials = 9 }')):
        text += '[settings]\nstop = { stalled = "20%" }\n'
        made = parse_study(text)
        (tmp_path / "again.toml").write_text(study_toml(made))
        assert load_study(tmp_path / "again.toml") == made


# --- for real ------------------------------------------------------------------------------


def test_digits_from_file_to_report(tmp_path: Path) -> None:
    text = TEXT.replace("6ep", "4ep").replace("[32, 64, 128, 256]", "[128, 512]")
    text += '[settings]\nstop = { stalled = "50%" }\n'
    made = dataclasses.replace(parse_study(text), tolerance=0.1)
    summary = api.run(made, out=tmp_path, device="cpu", workers=1)
    assert summary.exit_code == 0
    found = places(tmp_path)
    assert 2 <= len(found) <= 10
    low, high = (api.status(tmp_path).search[0].split(": ")[-1].split(" ")[i] for i in (0, 2))
    sizes = ladder(made.batch_sizes, math.sqrt(2))
    if high.isdecimal():
        assert sizes.index(int(high)) == sizes.index(int(low)) + 1
    stalled = [r for r in found.values() if r.ended == "stalled"]
    assert all(r.accuracy is not None and r.accuracy < 0.3 for r in stalled)
    page = api.report(tmp_path).page
    summary_json = (page.parent / "summary.json").read_text()
    assert "Adaptive search, tolerance cliff of none" in summary_json
    assert ("ended early as stalled" in summary_json) == bool(stalled)
    header, *rows = api.export(tmp_path).splitlines()
    column = header.split(",").index("ended")
    assert sum(row.split(",")[column] == "stalled" for row in rows) == len(stalled)
