"""The engine trains a network of a user's own as the plain loop of the benchmark does."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import select
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE

NETWORKS = ("ResNet-18 at 32 px", "ResNet-50 at 64 px", "ViT-S/8 at 64 px", "GPT on 256 bytes")


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_models")


def losses(bench: Any, name: str) -> tuple[Any, Any]:
    case = dataclasses.replace(bench.TINY[name], epochs=4, num_train=48)
    data = bench.random_data(case.shape, case.num_train, 16, "cpu")
    return tuple(engine(case, data, lambda: None) for engine in (bench.ours, bench.plain))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_losses_of_every_update_agree(bench: Any, name: str) -> None:
    ours, plain = losses(bench, name)
    assert len(ours.losses) == len(plain.losses) == 12
    assert bench.difference(ours.losses, plain.losses, 12) <= bench.TOLERANCE["fp32"]
    assert ours.losses[0] != ours.losses[-1]
    updates = bench.COMPARED  # on a CPU nothing is compiled: the loop by hand is itself
    assert bench.difference(plain.uncompiled, plain.losses, updates) == 0


def test_a_loop_that_is_silently_different_is_found(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a rate that is a hundredth too high, in one of the two."""
    real = bench.Plain
    monkeypatch.setattr(bench, "Plain", lambda *a: changed(real(*a)))

    def changed(loop: Any) -> Any:
        loop.optimizer.param_groups[0]["lr"] *= 1.01
        return loop

    ours, plain = losses(bench, NETWORKS[0])
    assert bench.difference(ours.losses, plain.losses, 12) > bench.TOLERANCE["fp32"]


def test_what_is_timed_has_no_evaluation_in_it(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by one when it is read, and by a million at each evaluation."""
    ticks, late = itertools.count(), [0.0]
    monkeypatch.setattr(bench, "clock_of", lambda _: lambda: next(ticks) + late[0])
    real = bench.prepare

    def slow_to_evaluate(*arguments: Any, **options: Any) -> Any:
        ready = real(*arguments, **options)
        evaluate = ready.evaluate

        def slowly() -> None:
            late[0] += 1e6
            evaluate()

        monkeypatch.setattr(ready, "evaluate", slowly)
        return ready

    monkeypatch.setattr(bench, "prepare", slow_to_evaluate)
    ours, _ = losses(bench, NETWORKS[3])
    assert late[0] == 1e6 and 1 < ours.rate < 1e4


def test_the_median_epoch_counts(bench: Any) -> None:
    """An epoch of the five that the machine was away for does not."""
    case = dataclasses.replace(bench.TINY[NETWORKS[0]], batch_size=16, num_train=100)
    assert bench.rate_of(case, [0.0, 2.0, 4.0, 99.0, 101.0, 103.5]) == 96 / 2


def test_a_loss_that_is_no_number_never_agrees(bench: Any) -> None:
    nan = [1.0, float("nan")]
    assert bench.difference(nan, nan, 2) == float("inf")
    assert bench.difference(nan, nan, 1) == 0.0
    assert set(bench.LARGE) == set(bench.TINY) == set(NETWORKS)


def test_what_is_not_ready_in_time_is_left_out(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is ready, the other never; the clock is at the deadline at the second look."""
    code = "import sys, time; time.sleep(float(sys.argv[1])); print('ready', flush=True)"
    children = {
        ("model", engine): subprocess.Popen(
            [sys.executable, "-c", code, seconds], stdout=subprocess.PIPE, text=True
        )
        for engine, seconds in zip(bench.ENGINES, ("0", "3600"), strict=True)
    }
    try:
        first = children["model", bench.ENGINES[0]]
        assert select.select([first.stdout], [], [], PATIENCE)[0]
        looks = iter([0.0, 1.0])
        monkeypatch.setattr(bench, "time", SimpleNamespace(monotonic=lambda: next(looks)))
        found = bench.prepared(children, 1.0)
        assert found == {("model", bench.ENGINES[0])}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
