"""Learning rates that are chosen: one budget, one choice for ever, no look at the test set."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import fake_worker
import numpy as np
import pytest
import study_runs

from batchcliff.api import report, run, status
from batchcliff.data.sources import Dataset, load
from batchcliff.data.validation import held_out, held_out_mask, num_held_out
from batchcliff.errors import UsageError
from batchcliff.planning import lr_choices, plan
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Arm, StudySpec
from batchcliff.stats.tuning import best_lr
from batchcliff.study import supervisor, tuning
from batchcliff.study.engines.local import Worker
from batchcliff.study.store import Store
from batchcliff.study.supervisor import RunSummary
from batchcliff.studyfile import load_study, parse_study
from batchcliff.studyfile.tuning import tried

RATES = (0.05, 0.1, 0.2)
WARMUP = (("duration", "10%"),)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)
    monkeypatch.setattr(supervisor, "code_name", lambda: "no code trains here")


def study(seeds: int = 2, sizes: tuple[int, ...] = (8, 16), tuning_seeds: int = 2) -> StudySpec:
    """Arms none (the rule), tuned, and tuned with warmup, of the faulty workload."""
    plain = study_runs.study_of(seeds, sizes)
    rule = dataclasses.replace(plain.lr, tune=RATES, tuning_seeds=tuning_seeds)
    arms = (
        Arm(name="none"),
        Arm(name="tuned", lr=rule),
        Arm(name="warm", lr=rule, techniques=(("warmup", WARMUP),)),
    )
    return dataclasses.replace(plain, arms=arms)


def chosen(folder: Path) -> dict[tuple[str, int], float | None]:
    with Store.open(folder) as store:
        return {(c.arm, c.batch_size): c.lr for c in lr_choices(store, store.records())}


def tuned_records(folder: Path) -> list[TrialRecord]:
    with Store.open(folder) as store:
        return list(store.records().values())


def brute_force(records: list[TrialRecord]) -> dict[tuple[str, int], float]:
    """The best rate of each cell, from the definition."""
    found = {}
    for place in {(r.spec.arm, r.spec.batch_size) for r in records if r.spec.validation}:
        means = {}
        for r in records:
            if r.spec.validation and (r.spec.arm, r.spec.batch_size) == place:
                means.setdefault(r.spec.lr, []).append(r.accuracy)
        best = max(sum(values) / len(values) for values in means.values())
        found[place] = min(lr for lr, v in means.items() if sum(v) / len(v) == best)
    return found


# --- the plan ------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "seeds"), [((8,), 1), ((8, 16, 32), 3)])
def test_every_cell_has_the_same_budget_and_no_tuning_trial_is_a_reported_one(
    sizes: tuple[int, ...], seeds: int
) -> None:
    made = study(seeds, sizes, tuning_seeds=2)
    cells = tuning.tuned_cells(made, "d" * 64)
    assert {cell.place for cell in cells} == set(itertools.product(("tuned", "warm"), sizes))
    budgets = Counter(len({t.trial_id for t in cell.trials}) for cell in cells)
    assert budgets == {len(RATES) * 2: len(cells)}
    for cell in cells:
        assert all(t.validation == 0.1 for t in cell.trials)
        for candidate in cell.candidates:
            reported = cell.reported(candidate.lr, made.seeds)
            assert [(t.lr, t.validation) for t in reported] == [(candidate.lr, 0.0)] * seeds


def test_the_candidates_follow_the_scaling_rule() -> None:
    cells = {cell.place: cell for cell in tuning.tuned_cells(study(), "d" * 64)}
    assert [c.lr for c in cells["tuned", 16].candidates] == list(RATES)
    assert [c.lr for c in cells["tuned", 8].candidates] == [rate / 2 for rate in RATES]


def test_few_trials_span_the_grid_and_more_of_them_keep_the_former() -> None:
    rates = [0.1 * 2**k for k in range(9)]
    assert tried(rates, 3) == (rates[4], rates[0], rates[8])
    orders = [tried(rates, count) for count in range(2, 10)]
    assert all(a == b[: len(a)] for a, b in itertools.pairwise(orders))
    assert sorted(orders[-1]) == rates


def test_ids_of_untuned_trials_have_nothing_of_it() -> None:
    spec = tuning.tuned_cells(study(), "d" * 64)[0].candidates[0]
    assert "validation" not in dataclasses.replace(spec, validation=0.0).key()
    assert spec.key()["validation"] == 0.1


# --- runs ----------------------------------------------------------------------------------


def test_two_stages_and_a_twin_by_brute_force(tmp_path: Path, pretended: None) -> None:
    made = study()
    summary = study_runs.run(made, tmp_path, choose=best_lr)
    assert (summary.exit_code, summary.missing) == (0, 0)
    found, records = chosen(tmp_path), tuned_records(tmp_path)
    assert found == brute_force(records) and len(found) == 4
    for record in records:
        place = record.spec.arm, record.spec.batch_size
        if place in found and not record.spec.validation and record.spec.arm == "warm":
            assert record.spec.lr == found[place]
    planned = plan(made, out=tmp_path, workload="faulty:workload")
    assert (planned.done, len(planned.trials), len(planned.tuning)) == (12, 12, 24)
    told = status(tmp_path)
    assert told.counts["missing"] == 0 and [c.planned for c in told.tuning] == [6] * 4


class Killed(Exception):
    """In place of a signal between two steps."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_the_stages_changes_no_choice(
    tmp_path: Path, pretended: None, when: str
) -> None:
    """After the choice stands in the plan, not even another way to choose can change it."""

    def worst(records: list[TrialRecord]) -> float | None:
        return min(records, key=lambda r: r.accuracy or 0.0).spec.lr

    def dies(records: list[TrialRecord]) -> float | None:
        raise Killed

    class Dies(study_runs.Told):
        def note(self, text: str) -> None:
            raise Killed(text)

    study_runs.run(study(), tmp_path / "whole", choose=best_lr)
    with pytest.raises(Killed):
        if when == "before":
            study_runs.run(study(), tmp_path / "cut", choose=dies)
        else:
            study_runs.run(study(), tmp_path / "cut", Dies(), choose=best_lr)
    told = status(tmp_path / "cut")
    # After the choice, the trials of a cell that took the rule's rate are those of the rule.
    rule = study().lr
    same = [
        b
        for (arm, b), lr in chosen(tmp_path / "whole").items()
        if arm == "tuned" and lr == rule.base * b / rule.base_batch_size
    ]
    assert told.counts["missing"] == (8 if when == "before" else 8 - 2 * len(same))
    assert not any(c.counts["missing"] for c in told.tuning)
    again = best_lr if when == "before" else worst
    assert study_runs.run(study(), tmp_path / "cut", choose=again).exit_code == 0
    assert chosen(tmp_path / "cut") == chosen(tmp_path / "whole")
    assert study_runs.table(tmp_path / "cut") == study_runs.table(tmp_path / "whole")


def test_control_another_way_to_choose_would_be_seen(tmp_path: Path, pretended: None) -> None:
    study_runs.run(study(), tmp_path / "best", choose=best_lr)
    first = chosen(tmp_path / "best")
    study_runs.run(study(), tmp_path / "low", choose=lambda rs: min(r.spec.lr for r in rs))
    assert chosen(tmp_path / "low") != first


def test_two_drivers_at_once(tmp_path: Path, pretended: None) -> None:
    def drive() -> RunSummary:
        return study_runs.run(study(), tmp_path / "two", choose=best_lr)

    assert study_runs.two_at_once(drive) == [0, 0]
    study_runs.run(study(), tmp_path / "one", choose=best_lr)
    assert study_runs.table(tmp_path / "two") == study_runs.table(tmp_path / "one")
    with Store.open(tmp_path / "two") as store:
        cells = Counter((p.arm, p.batch_size, p.seed) for p in store.planned())
        assert max(v for (_, _, s), v in cells.items() if s < tuning.FIRST_SEED) == 1


def test_more_seeds_keep_the_choice(tmp_path: Path, pretended: None) -> None:
    study_runs.run(study(1), tmp_path, choose=best_lr)
    before = chosen(tmp_path)
    summary = study_runs.run(study(3), tmp_path, choose=best_lr, extend=True)
    assert (summary.exit_code, chosen(tmp_path)) == (0, before)
    with Store.open(tmp_path) as store:
        assert sum(not p.tuning for p in store.planned()) == 3 * 2 * 3


def test_a_cell_whose_tuning_cannot_run_is_infeasible(tmp_path: Path, pretended: None) -> None:
    """64 examples, 6 held out: a batch of 64 fits the study and not the tuning."""
    made = study(1, (8, 64))
    assert study_runs.run(made, tmp_path, choose=best_lr).exit_code == 0
    counts = {(c.arm, c.batch_size): c.counts for c in status(tmp_path).cells}
    assert counts["none", 64]["ok"] == counts["tuned", 64]["infeasible"] == 1
    reasons = {r.reason for r in tuned_records(tmp_path) if r.outcome is Outcome.INFEASIBLE}
    assert any("without the 6 held out" in reason for reason in reasons)


# --- the data ------------------------------------------------------------------------------


def same_for_any_test_set(split: object) -> bool:
    whole = load("digits")
    noise = np.random.default_rng(0).integers(0, 10, whole.test_labels.shape)
    other = dataclasses.replace(whole, test_labels=noise, test_images=whole.test_images[::-1])
    one, two = split(whole, 0.1), split(other, 0.1)  # type: ignore[operator]
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in names)


def test_nothing_of_the_test_set_reaches_a_tuning_trial() -> None:
    def peeks(whole: Dataset, share: float) -> Dataset:
        return dataclasses.replace(held_out(whole, share), test_labels=whole.test_labels)

    assert same_for_any_test_set(held_out)
    assert not same_for_any_test_set(peeks)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5])
def test_the_split_is_stratified_and_loses_nothing(share: float) -> None:
    whole = load("digits")
    mask = held_out_mask(whole.train_labels, share)
    assert mask.sum() == num_held_out(len(mask), share) > 0
    each = np.bincount(whole.train_labels, mask, 10)
    assert np.all(np.abs(each - share * np.bincount(whole.train_labels)) <= 1)
    cut = held_out(whole, share)
    labels = np.concatenate([cut.train_labels, cut.test_labels])
    assert np.array_equal(np.sort(labels), np.sort(whole.train_labels))


TEXT = """\
name = "end"
workload = "digits"
batch_sizes = [128]
seeds = 2
budget = "2ep"
reference_arm = "rule"
lr = { base = 0.9, base_batch_size = 64 }

[arms.rule]
[arms.tuned]
lr = { tune = [0.1, 0.4, 1.6] }
"""


def test_digits_from_file_to_report(tmp_path: Path) -> None:
    """Trained for real; the reported accuracies are of the test set, the choice is not."""
    made = parse_study(TEXT)
    assert run(made, out=tmp_path, device="cpu", workers=1).exit_code == 0
    records = tuned_records(tmp_path)
    assert chosen(tmp_path) == brute_force(records)
    sizes = {bool(r.spec.validation): (r.ledger.num_train, r.ledger.num_test) for r in records}
    assert sizes == {True: (922, 102), False: (1024, 773)}
    for record in records:
        counted = record.accuracy * record.ledger.num_test
        assert counted == pytest.approx(round(counted), abs=1e-6)
    page = report(tmp_path).page
    text = (page.parent / "results.md").read_text()
    assert "| tuned | 128 | 0.2: " in text
    assert ("edge of its grid; a better one" in text) == (chosen(tmp_path)["tuned", 128] != 0.8)


# --- bad files -----------------------------------------------------------------------------

RULE = "lr = { tune = [0.1, 0.4, 1.6] }"
BAD = {
    "lr = { tune = [] }": ("tune = []", "at least two"),
    "lr = { tune = [0.1] }": ("tune = [0.1]", "at least two"),
    "lr = { tune = [0.1, 0.1] }": ("tune", "twice"),
    "lr = { tune = [0.1, -1.0] }": ("tune", "above 0"),
    "lr = { tune = [0.1, 0.2], trials = 3 }": ("trials = 3", "Write at most 2"),
    "lr = { tune = [0.1, 0.2], trials = 1 }": ("trials = 1", ">= 2"),
    "lr = { trials = 3 }": ("trials = 3", "Write e.g. tune"),
    "lr = { validation = 0.2 }": ("validation = 0.2", "Write e.g. tune"),
    "lr = { tune = [0.1, 0.2], validation = 0.0 }": ("validation", "at most 0.5"),
    "lr = { tune = [0.1, 0.2], tuning_seeds = 0 }": ("tuning_seeds = 0", "from 1"),
    "lr = { base = 0.1, tune = [0.1, 0.2] }": ("base = 0.1", "in its place"),
    'lr = { tune = [0.1, 0.2], scaling = "liner" }': ("scaling", "Did you mean 'linear'?"),
    'lr = { tune = [0.1, 0.2], scaling = "malladi" }': ("scaling", "rule for Adam"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_tables_are_refused_with_line_and_key(line: str) -> None:
    key, hint = BAD[line]
    with pytest.raises(UsageError) as caught:
        parse_study(TEXT.replace(RULE, line), label="s.toml")
    assert str(caught.value).startswith("s.toml:11: ") and "arms.tuned.lr" in str(caught.value)
    assert key in str(caught.value) and hint in str(caught.value)


def test_unequal_budgets_and_rates_without_use_are_refused() -> None:
    more = TEXT + "[arms.other]\nzero-gamma = {}\nlr = { tune = [0.1, 0.2] }\n"
    more = more.replace("zero-gamma = {}", 'warmup = { duration = "10%" }')
    with pytest.raises(UsageError, match="2 rates here and 3 rates in arm 'tuned'"):
        parse_study(more)
    parse_study(more.replace("[0.1, 0.2]", "[0.1, 0.2, 0.9]"))
    whole = TEXT.replace("base = 0.9", "tune = [0.1, 0.2]").replace(RULE, "lr = { base = 1.0 }")
    with pytest.raises(UsageError, match=r"the study's lr\.tune stands in its place"):
        parse_study(whole)


def test_a_tuned_study_survives_being_written_as_a_file(tmp_path: Path) -> None:
    from batchcliff.advising.study_toml import study_toml

    made = parse_study(TEXT)
    file = tmp_path / "again.toml"
    file.write_text(study_toml(made))
    assert load_study(file) == made
