"""The engine trains a network of a user's own as the plain loop of the benchmark does."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import time
from typing import Any

import pytest

NETWORKS = ("ResNet-18 at 32 px", "ResNet-50 at 64 px", "ViT-S/8 at 64 px", "GPT on 256 bytes")


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_models")


def losses(bench: Any, name: str) -> tuple[Any, Any]:
    case = dataclasses.replace(bench.TINY[name], epochs=3, num_train=64)
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


def test_a_loss_that_is_no_number_never_agrees(bench: Any) -> None:
    nan = [1.0, float("nan")]
    assert bench.difference(nan, nan, 2) == float("inf")
    assert bench.difference(nan, nan, 1) == 0.0
    assert set(bench.LARGE) == set(bench.TINY) == set(NETWORKS)


def test_what_is_not_ready_in_time_is_left_out(bench: Any) -> None:
    code = "import sys, time; time.sleep(float(sys.argv[1])); print('ready', flush=True)"
    children = {
        ("model", engine): subprocess.Popen(
            [sys.executable, "-c", code, seconds], stdout=subprocess.PIPE, text=True
        )
        for engine, seconds in zip(bench.ENGINES, ("0", "600"), strict=True)
    }
    try:
        found = bench.prepared(children, time.monotonic() + 5)
        assert found == {("model", bench.ENGINES[0])}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
