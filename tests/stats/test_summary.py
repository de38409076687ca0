"""One value for a whole study, and an honest answer to every kind of bad input."""

from __future__ import annotations

import pytest
from builders import make_provenance, make_record, make_spec, make_study

from batchcliff.canonical import canonical_json
from batchcliff.errors import UsageError
from batchcliff.record import Outcome
from batchcliff.stats.summary import summarize

DEMO = {  # the shape of DEMO.md's table; four seeds
    "none": {
        32: [0.984, 0.981, 0.978, 0.981],
        64: [0.975, 0.96, 0.98, 0.965],
        128: [0.97, 0.96, 0.975, 0.955],
        256: [0.93, 0.86, 0.8, 0.18],
        512: [0.2, 0.3, "diverged", 0.2],
        1024: [0.1, "diverged", "diverged", 0.13],
    },
    "warmup": {
        32: [0.984, 0.987, 0.981, 0.984],
        64: [0.984, 0.989, 0.979, 0.984],
        128: [0.979, 0.981, 0.977, 0.979],
        256: [0.973, 0.98, 0.966, 0.973],
        512: [0.2, 0.2, 0.21, 0.22],
        1024: ["diverged", 0.1, 0.11, 0.1],
    },
}


def test_the_demo_study_reads_as_its_table():
    study = summarize(*make_study(DEMO), reference_arm="none")
    none, warmup = study.arm("none"), study.arm("warmup")
    assert (study.chance, study.threshold) == (0.1, pytest.approx(study.plateau - 0.02))
    assert [c.cell.batch_size for c in none.cells] == [32, 64, 128, 256, 512, 1024]
    cell = none.cells[4]
    assert (cell.cell.ok, cell.cell.diverged, cell.failing) == (3, 1, 4)
    assert cell.mean.value == pytest.approx(0.7 / 3)
    assert cell.mean_with_failures.value == pytest.approx(0.8 / 4)
    assert (cell.failure_share.value, cell.failure_share.high) == (1.0, 1.0)
    assert none.tolerance.covers(129) and none.collapse.bracket == (256, 512)
    assert warmup.tolerance.bracket == (256, 512)
    assert none.tolerance_shift is None and none.differences == ()
    assert warmup.tolerance_shift.factor.value > 1.3
    assert [d.batch_size for d in warmup.differences] == [32, 64, 128, 256, 512, 1024]
    assert study.notes == ()


def test_a_summary_is_plain_data_and_the_same_every_time():
    records, planned = make_study(DEMO)
    first = canonical_json(summarize(records, planned, "none"))
    assert first == canonical_json(summarize(records[::-1], planned, "none"))
    assert b"nan" not in first


def test_gaps_are_counted_and_told():
    table = {"none": {32: [0.98, 0.97, None], 64: [0.9, "oom", "timeout"], 128: [None] * 3}}
    study = summarize(*make_study(table), reference_arm="none")
    assert any(note.startswith("4 of 9 planned trials: missing") for note in study.notes)
    assert any("1 of 9 planned trials: oom" in note for note in study.notes)
    empty = study.arm("none").cells[2]
    assert empty.mean.value is None and empty.failure_share.value is None
    assert empty.cell.missing == 3
    assert study.arm("none").tolerance.value is not None


def test_no_record_at_all_is_an_answer_not_a_crash():
    _, planned = make_study(DEMO)
    study = summarize([], planned, "none")
    assert study.plateau is None and study.chance is None
    for arm in study.arms:
        assert arm.tolerance.value is None and "no measured trial" in arm.tolerance.note
    assert study.arm("warmup").tolerance_shift.p_value is None


def test_all_diverged_is_an_answer_not_a_crash():
    table = {arm: {32: ["diverged"] * 3, 64: ["diverged"] * 3} for arm in ("none", "warmup")}
    study = summarize(*make_study(table), reference_arm="none")
    assert any("learns nothing" in note for note in study.notes)
    assert study.arm("warmup").collapse.value is None
    assert study.arm("none").cells[0].failure_share.value == 1.0


def test_an_arm_without_a_record_does_not_spoil_the_others():
    table = {"none": DEMO["none"], "warmup": {size: [None] * 4 for size in DEMO["none"]}}
    study = summarize(*make_study(table), reference_arm="none")
    assert study.arm("none").tolerance.value is not None
    assert "no measured trial" in study.arm("warmup").tolerance.note
    assert study.arm("warmup").collapse_shift.factor.value is None


def test_one_seed_has_values_and_brackets_but_no_interval():
    table = {arm: {b: v[:1] for b, v in cells.items()} for arm, cells in DEMO.items()}
    study = summarize(*make_study(table), reference_arm="none")
    for arm in study.arms:
        for found in (arm.tolerance, arm.collapse):
            assert found.bracket is not None and not found.has_interval
        assert all(not cell.mean.has_interval for cell in arm.cells)


def test_mixed_numerics_are_told_and_equal_ones_are_not():
    planned = [make_spec("none", 32, seed) for seed in (0, 1)]

    def notes(*threads):
        records = [
            make_record("none", 32, seed, 0.9, provenance=make_provenance(threads=count))
            for seed, count in enumerate(threads)
        ]
        return summarize(records, planned, "none").notes

    assert any("mixed numerics: threads is 1, 2" in note for note in notes("1", "2"))
    assert not any("mixed" in note for note in notes("2", "2"))


def test_records_outside_of_the_plan_are_left_out_and_told():
    records, planned = make_study(DEMO)
    study = summarize([*records, make_record("none", 32, 99, 0.1)], planned, "none")
    assert "1 records are outside of the plan and were left out" in study.notes
    assert study.plateau == summarize(records, planned, "none").plateau


def test_contradictions_are_refused_by_name():
    records, planned = make_study(DEMO)
    with pytest.raises(UsageError, match=r"'warmpu' is not planned. Did you mean 'warmup'"):
        summarize(records, planned, "warmpu")
    with pytest.raises(UsageError, match=r"no arm 'non' .* Did you mean 'none'"):
        summarize(records, planned, "none").arm("non")
    other = make_record("none", 32, 50, 0.9, num_classes=100)
    with pytest.raises(UsageError, match=r"differ in num_classes: \[10, 100\]"):
        summarize([*records, other], planned, "none")
    mixed = [*planned, make_spec("late", 32, 0, data_digest="f" * 64)]
    with pytest.raises(UsageError, match="differ in more than the arm"):
        summarize(records, mixed, "none")


def test_the_reestimated_accuracy_is_another_study():
    records = [
        make_record("none", size, seed, 0.5, Outcome.OK, reestimated=0.9)
        for size in (32, 64)
        for seed in range(3)
    ]
    planned = [record.spec for record in records]
    assert summarize(records, planned, "none").plateau == pytest.approx(0.5)
    found = summarize(records, planned, "none", accuracy="reestimated")
    assert (found.plateau, found.accuracy) == (pytest.approx(0.9), "reestimated")


def test_trials_that_count_as_collapsed_above_the_floor_are_named_and_cells_stay():
    gone, stands = [0.2, 0.1, 0.1], [0.98, 0.979, 0.981]
    table = {"none": {32: stands, 64: stands, 128: gone, 256: [0.65, 0.1, 0.1]}}
    found = summarize(*make_study(table), reference_arm="none")
    (note,) = found.notes
    assert "(1 of 3 of 'none' at 256): cliffs and shifts count them as collapsed" in note
    assert [cell.failing for cell in found.arms[0].cells] == [0, 0, 3, 2]


def test_a_reference_that_rises_with_batch_size_is_told():
    """Its plateau averages what is under its best: a fall from there means little."""
    rising = {"none": {32: [0.5, 0.5], 64: [0.6, 0.6], 128: [0.7, 0.7]}}
    (note,) = summarize(*make_study(rising), reference_arm="none").notes
    assert "better at 128 (70.0%) than on its plateau (60.0%" in note
    flat = {"none": {32: [0.60, 0.60], 64: [0.63, 0.63], 128: [0.62, 0.62]}}
    assert summarize(*make_study(flat), reference_arm="none").notes == ()


def test_a_reference_without_a_plateau_is_told():
    """Simulated, 95% intervals of its tolerance cliff hold 78 to 90% of the truths."""
    falls = {"none": {32: [0.9, 0.9, 0.1], 64: [0.9, 0.1, 0.1], 128: [0.1, 0.1, 0.1]}}
    (note,) = summarize(*make_study(falls), reference_arm="none").notes
    assert "no plateau: 1 of 3 trials collapse at its smallest batch size 32 already" in note
    stray = {"none": {32: [0.9, 0.9, 0.1], 64: [0.9, 0.9, 0.9], 128: [0.1, 0.1, 0.1]}}
    told = summarize(*make_study(stray), reference_arm="none").notes
    assert not any("no plateau" in note for note in told)


def test_intervals_of_accuracies_stay_inside_of_what_is_possible():
    table = {
        "none": {32: [0.99, 0.97], 64: [0.2, 0.9]},
        "warmup": {32: [0.1, 0.9], 64: [0.9, 0.2]},
    }
    study = summarize(*make_study(table), reference_arm="none")
    cells = [c for arm in study.arms for c in arm.cells]
    assert (cells[0].mean.high, cells[0].mean_with_failures.high) == (1.0, 1.0)
    assert cells[0].mean.low is not None and 0 < cells[0].mean.low < 0.97
    assert all(c.mean.low is None and "no useful interval" in c.mean.note for c in cells[1:])
    differences = [d.difference for d in study.arm("warmup").differences]
    assert all(d.low is None and "no useful interval" in d.note for d in differences)
