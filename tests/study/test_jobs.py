"""Which trials go together: laws over random studies."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_runs import study_of

from batchcliff.spec import Arm, BatchNorm, Model, TrialSpec
from batchcliff.study import grid
from batchcliff.study import jobs as module
from batchcliff.study.jobs import STACK, Busy, Job, Kills, choose, jobs, stack_width, stackable
from batchcliff.training.arithmetic import shape_key
from batchcliff.workloads import workload

WARMUP = Arm(name="warmup", techniques=(("warmup", (("duration", "1ep"),)),))
GHOST = Arm(name="ghost", settings=(("batch_norm.group", 4),))
STUDY = study_of(seeds=5, batch_sizes=(8, 16, 32), arms=(Arm(name="none"), WARMUP, GHOST))
SPECS = grid.trials(dataclasses.replace(STUDY, settings=workload("digits").settings), "d" * 64)


@settings(max_examples=40)
@given(st.permutations(SPECS), st.integers(0, len(SPECS)), st.integers(1, 9))
def test_law_every_trial_is_in_exactly_one_job_of_its_shape(
    order: list[TrialSpec], count: int, stack: int
) -> None:
    specs = order[:count]
    found = jobs(specs, stack=stack)
    assert Counter(s.trial_id for job in found for s in job.specs) == Counter(
        s.trial_id for s in specs
    )
    sizes: dict[bytes, list[int]] = {}
    for job in found:
        assert {shape_key(spec) for spec in job.specs} == {job.shape}
        sizes.setdefault(job.shape, []).append(len(job.specs))
    for shape, parts in sizes.items():
        one = next(spec for spec in specs if shape_key(spec) == shape)
        most = stack if stackable(one) else 1
        assert all(part == most for part in parts[:-1]), "full stacks first"
        assert 1 <= parts[-1] <= most


@settings(max_examples=40)
@given(st.permutations(SPECS), st.integers(1, 9))
def test_law_jobs_keep_the_order_of_the_trials(order: list[TrialSpec], stack: int) -> None:
    found = jobs(order, stack=stack)
    place = {spec.trial_id: at for at, spec in enumerate(order)}
    for shape in {job.shape for job in found}:
        own = [place[s.trial_id] for job in found if job.shape == shape for s in job.specs]
        assert own == sorted(own)
    firsts = [place[job.specs[0].trial_id] for job in found]
    shapes = list(dict.fromkeys(job.shape for job in found))
    first_of_shape = [firsts[[j.shape for j in found].index(shape)] for shape in shapes]
    assert first_of_shape == sorted(first_of_shape)


def test_arms_and_seeds_share_a_shape_and_settings_do_not() -> None:
    """What a stack holds: warmup and none together; another batch-norm group apart."""
    found = jobs(SPECS, stack=len(SPECS))
    assert sorted((job.specs[0].batch_size, len(job.specs)) for job in found) == [
        *[(8, 1)] * 5, (8, 10), *[(16, 1)] * 5, (16, 10), *[(32, 1)] * 5, (32, 10)
    ]  # fmt: skip


DIGITS = next(spec for spec in SPECS if spec.arm == "none" and spec.batch_size == 8)


def test_five_trials_make_a_four_and_a_one() -> None:
    five = [spec for spec in SPECS if spec.arm == "none" and spec.batch_size == 8]
    assert [len(job.specs) for job in jobs(five, stack=STACK)] == [4, 1]


def test_only_networks_whose_bits_do_not_depend_on_neighbours_are_stacked() -> None:
    def changed(**settings: object) -> TrialSpec:
        return dataclasses.replace(
            DIGITS, settings=dataclasses.replace(DIGITS.settings, **settings)
        )

    assert stackable(DIGITS)
    assert not stackable(changed(batch_norm=BatchNorm(group=8, running="mean")))
    assert not stackable(changed(model=Model(widths=((8,), (8, 12)))))
    assert not stackable(changed(model=workload("article").settings.model)), "too large"
    assert [stack_width([DIGITS] * n) for n in (1, 2, 3, 4)] == [2, 2, 4, 4]
    assert stack_width([changed(model=Model(widths=((4,),)))]) == 1


JOBS = [Job(shape, (SPECS[at],)) for at, shape in enumerate([b"a", b"b", b"a", b"c"])]
names = st.sampled_from([b"a", b"b", b"c", b"d"])


@given(st.lists(st.sampled_from(JOBS), max_size=4), st.none() | names, st.sets(names))
def test_law_a_worker_keeps_its_shape_and_avoids_those_of_others(
    waiting: list[Job], mine: bytes | None, others: set[bytes]
) -> None:
    job = choose(waiting, mine, others)
    if not waiting:
        assert job is None
        return
    assert job in waiting
    first = waiting.index(job)
    if any(w.shape == mine for w in waiting):
        assert job.shape == mine
        assert all(w.shape != mine for w in waiting[:first])
    elif any(w.shape not in others for w in waiting):
        assert job.shape not in others
        assert all(w.shape in others for w in waiting[:first])
    else:
        assert job is waiting[0]


def test_choose_changes_nothing() -> None:
    waiting = list(JOBS)
    choose(waiting, b"b", {b"a"})
    assert waiting == JOBS


class Clock:
    """Time that passes when it is told to; the worker is looked at every half second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.count = 0
        kills = Kills(lambda: self.count)
        self.busy = Busy(JOBS[0], {}, {}, kills, heard=self.now, looked=self.now)

    def says(self, event: str, after: float = 0.0, **fields: object) -> None:
        self.now += after
        self.busy.hears({"event": event, **fields})

    def advances(self, *, count: int = 1, every: float) -> None:
        for _ in range(count):
            done = self.busy.place[1] + 1
            self.says("progress", every, ids=["a"], done=done)

    def hangs_after(self) -> float:
        """Seconds of silence from now on until it is taken for hung."""
        began = self.now
        while not self.busy.is_hung():
            self.now += 0.5
        return self.now - began


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_phase_of_unknown_length_may_be_silent_for_long(clock: Clock) -> None:
    """A compilation is none of what hangs, nor is the first epoch of a slow trial."""
    assert clock.hangs_after() == pytest.approx(1_800, abs=1)
    clock.says("phase", phase="training")
    assert clock.hangs_after() == pytest.approx(1_800, abs=1)
    clock.says("started", ids=["a"])
    assert clock.busy.phase == "preparing"
    assert clock.hangs_after() == pytest.approx(1_800, abs=1)


def test_twenty_times_the_median_without_progress_is_a_hang(clock: Clock) -> None:
    clock.says("phase", phase="training")
    clock.advances(count=9, every=1.0)
    assert clock.hangs_after() == pytest.approx(60, abs=1), "sixty seconds at least"
    clock.advances(count=20, every=10.0)
    assert clock.hangs_after() == pytest.approx(200, abs=1)
    clock.advances(every=150.0)
    assert clock.hangs_after() == pytest.approx(200, abs=1), "one that was slow changes little"


def test_an_evaluation_is_measured_apart_from_training(clock: Clock) -> None:
    clock.says("phase", phase="training")
    clock.advances(count=9, every=1.0)
    clock.says("phase", phase="evaluating")
    assert clock.hangs_after() == pytest.approx(1_800, abs=1), "the first one"
    clock.says("phase", phase="training")
    clock.says("phase", phase="evaluating")
    median = statistics.median_high(clock.busy.gaps["evaluating"])
    assert clock.hangs_after() == pytest.approx(20 * median, abs=1)
    clock.says("phase", phase="training")
    clock.advances(every=1.0)
    assert clock.hangs_after() == pytest.approx(60, abs=1)


def test_a_sign_of_life_is_no_progress(clock: Clock) -> None:
    clock.says("phase", phase="training")
    clock.advances(count=3, every=1.0)
    for _ in range(140):
        clock.says("progress", 0.5, ids=["a"], done=1)
        clock.says("phase", phase="training")
        hung = clock.busy.is_hung()
    assert hung
    clock.advances(every=1.0)
    assert not clock.busy.is_hung()


def test_time_in_which_nobody_listened_is_not_the_workers(clock: Clock) -> None:
    """A batch system stops all processes of a job and lets them go on an hour later."""
    clock.says("phase", phase="training")
    clock.advances(count=3, every=1.0)
    clock.now += 3_600
    assert not clock.busy.is_hung()
    assert clock.hangs_after() == pytest.approx(60, abs=1)


def test_a_kill_for_lack_of_memory_is_of_who_has_not_spoken_since(clock: Clock) -> None:
    """One that was counted before the worker's last words but for some seconds, in which they
    may have waited for us, was of somebody else."""
    clock.says("phase", phase="training")
    clock.count += 1
    clock.advances(every=1.0)
    assert clock.busy.kills.grew(), "these words may be older than the kill"
    clock.advances(count=2, every=5.0)
    assert not clock.busy.kills.grew()
    clock.now += 3600
    clock.count += 1
    assert clock.busy.kills.grew(), "and not a word since"
    clock.says("progress", ids=["a"], done=clock.busy.place[1])
    assert clock.busy.kills.grew()
    clock.says("progress", 5.0, ids=["a"], done=clock.busy.place[1])
    assert not clock.busy.kills.grew(), "a sign of life without progress is one"


def test_a_worker_that_waits_for_its_turn_is_heard_as_long_as_it_says_so(clock: Clock) -> None:
    """Hours, while a colleague trains; one that falls silent meanwhile hangs."""
    for _ in range(20_000):
        clock.says("phase", 0.5, phase=module.WAITING)
        assert not clock.busy.is_hung()
    assert clock.hangs_after() == pytest.approx(60, abs=1), "not half an hour: it is to speak"
    clock.says("phase", phase=module.WAITING)
    assert not clock.busy.is_hung()


def test_what_it_waits_measures_nothing(clock: Clock) -> None:
    """Neither the wait nor what came before it: training is as unknown as without a wait."""
    clock.says("started", 100.0, ids=["a"])
    for _ in range(100):
        clock.says("phase", 0.5, phase=module.WAITING)
    clock.says("phase", 0.5, phase="training")
    assert clock.busy.gaps == {}
    assert clock.hangs_after() == pytest.approx(1_800, abs=1)
    clock.advances(count=9, every=1.0)
    assert clock.hangs_after() == pytest.approx(60, abs=1)
