"""From the command line to the interval, where the truth is known: the whole tool at once."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchcliff.data.resident import epoch_block
from batchcliff.randomness import derive
from batchcliff.spec import TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import learning_rates
from batchcliff.workloads.noisy_quadratic import (
    DIMENSIONS,
    NUM_TRAIN,
    QUADRATIC,
    dataset,
    network,
    spectrum,
)
from batchcliff.workloads.quadratic_truth import ArmTruth, expected_accuracy, truth

DATA = dataset()
DELTA = 0.02


def types(folder: Path, *words: str) -> str:
    """`batchcliff WORDS` as somebody would type it; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "batchcliff", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("noisy-quadratic")
    said = types(place, "run", "noisy-quadratic", "--device", "cpu")
    assert "96 ok" in said
    return place


@pytest.fixture(scope="module")
def arms(folder: Path) -> dict[str, dict[str, Any]]:
    page = folder / "studies" / "noisy-quadratic" / "report" / "summary.json"
    summary = json.loads(page.read_text())["summary"]
    assert summary["delta"] == DELTA
    return {arm["arm"]: arm for arm in summary["arms"]}


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(types(folder, "export", "noisy-quadratic"))))


def specs() -> list[TrialSpec]:
    return trials(load_study("noisy-quadratic"), DATA.digest)


def with_momentum(momentum: float) -> list[TrialSpec]:
    found = []
    for spec in specs():
        optimizer = dataclasses.replace(spec.settings.optimizer, momentum=momentum)
        settings = dataclasses.replace(spec.settings, optimizer=optimizer)
        found.append(dataclasses.replace(spec, settings=settings))
    return found


def covered(estimate: dict[str, Any], value: float) -> bool:
    """Whether a closed interval of the report holds `value`."""
    assert (estimate["censored"], estimate["unbounded"]) == ("", "")
    return bool(estimate["low"] <= value <= estimate["high"])


def outside(arms: dict[str, dict[str, Any]], wrong: dict[str, ArmTruth]) -> list[str]:
    """Which of the report's intervals do not hold what a truth says."""
    shift = wrong["warmup"].tolerance / wrong["none"].tolerance
    asked = [
        ("none", "tolerance", wrong["none"].tolerance),
        ("none", "collapse", wrong["none"].divergence),
        ("warmup", "tolerance", wrong["warmup"].tolerance),
        ("warmup", "collapse", wrong["warmup"].divergence),
    ]
    found = [f"{a} {kind}" for a, kind, x in asked if not covered(arms[a][kind], x)]
    if not covered(arms["warmup"]["tolerance_shift"]["factor"], shift):
        found.append("shift")
    return found


def test_the_intervals_hold_the_truth(arms: dict[str, dict[str, Any]]) -> None:
    assert outside(arms, truth(specs(), "none", DELTA)) == []


def test_they_do_not_hold_what_is_not_true(arms: dict[str, dict[str, Any]]) -> None:
    """The control: another noise (twice as strong), another momentum."""
    louder = truth(specs(), "none", DELTA, spectrum(8.0))
    assert {"none tolerance", "warmup tolerance"} <= set(outside(arms, louder))
    lighter = truth(with_momentum(0.8), "none", DELTA)
    assert "none tolerance" in outside(arms, lighter)


def test_the_collapse_is_bracketed_and_warmup_does_not_move_it(
    arms: dict[str, dict[str, Any]],
) -> None:
    for arm in arms.values():
        low, high = arm["collapse"]["bracket"]
        assert low < 64 * 3.8 / 0.56 < high
    assert covered(arms["warmup"]["collapse_shift"]["factor"], 1.0)
    assert arms["warmup"]["collapse_shift"]["p_value"] > 0.05
    assert not covered(arms["warmup"]["tolerance_shift"]["factor"], 1.0)


def test_the_means_of_the_cells_are_the_exact_ones(rows: list[dict[str, str]]) -> None:
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        cells[row["arm"], int(row["batch_size"])].append(float(row["accuracy"]))

    def deviations(found: dict[str, ArmTruth]) -> list[float]:
        """In standard errors, of the cells where no trial has lost everything."""
        pairs = [
            (cells[arm, size], accuracy)
            for arm, what in found.items()
            for size, accuracy in zip(what.batch_sizes, what.accuracies, strict=True)
            if size < 500
        ]
        return [
            abs(float(np.mean(v)) - a) / (float(np.std(v, ddof=1)) / math.sqrt(len(v)))
            for v, a in pairs
        ]

    right = deviations(truth(specs(), "none", DELTA))
    assert len(right) == 10
    assert max(right) < 4.5 and np.mean(right) < 1.5
    assert np.mean(deviations(truth(specs(), "none", DELTA, spectrum(3.0)))) > 3


@pytest.mark.parametrize(("arm", "size", "seed"), [("none", 256, 3), ("warmup", 181, 5)])
def test_a_trial_is_what_numpy_makes_of_its_order(
    rows: list[dict[str, str]], arm: str, size: int, seed: int
) -> None:
    """The slow twin of one trial: the seed's signs and order, in double precision."""
    spec = next(t for t in specs() if (t.arm, t.batch_size, t.seed) == (arm, size, seed))
    rates = learning_rates(spec, NUM_TRAIN)
    block = epoch_block(
        seed,
        0,
        len(rates),
        batch_size=size,
        num_examples=NUM_TRAIN,
        image_shape=DATA.image_shape,
        kind="none",
        remainder="carry",
    )
    torch.manual_seed(derive(seed, "init") % 2**63)
    w = network(DATA.image_shape, 2).w.detach().double().numpy()
    h, noise = np.array(QUADRATIC.curvatures), np.sqrt(QUADRATIC.noise)
    signs = DATA.train_images[:, 0, :DIMENSIONS, 0] / 64.0 - 1.0
    v = np.zeros_like(w)
    for rate, batch in zip(rates, block.indices, strict=True):
        v = 0.9 * v - rate * (h * w - noise * signs[batch].mean(0))
        w = w + v
    row = next(
        r for r in rows if (r["arm"], int(r["batch_size"]), int(r["seed"])) == (arm, size, seed)
    )
    expected = expected_accuracy(QUADRATIC, float(h @ w**2) / 2)
    assert float(row["accuracy"]) == pytest.approx(expected, abs=2 / 2048)
