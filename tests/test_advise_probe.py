"""`batchcliff advise --probe`: predictions against the truth, the study to run, bad input."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff.advising.probe import Probed, advise_probe, probed_toml
from batchcliff.advising.probe_words import answer, caveats, details, head
from batchcliff.cli import app
from batchcliff.stats.intervals import Estimate
from batchcliff.studyfile import load_study, parse_study
from batchcliff.workloads import load_workload
from batchcliff.workloads.noisy_quadratic import QUADRATIC
from batchcliff.workloads.quadratic_truth import divergence_rate

SOURCE = """
from batchcliff import LrRule, Settings, Workload

def build(shape, classes):
    from torch import nn
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.Tanh(), nn.Linear(16, classes))

def workload():
    return Workload(name="mine", data="digits", build=build, budget="4ep",
                    lr=LrRule(base=0.05, base_batch_size=32),
                    settings=Settings(loss="logits", augmentation="none", precision="fp32"))
"""


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["advise", *words])


@functools.cache
def quadratic() -> dict[str, Any]:
    """The quadratic through the command line, once for all tests."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found = call("--probe", "noisy-quadratic", "--seconds", "3600", "--json")
            assert list(Path(folder).iterdir()) == []
        finally:
            os.chdir(before)
    assert found.exit_code == 0, found.output
    value: dict[str, Any] = json.loads(found.stdout)
    return value


def test_the_quadratic_is_predicted_as_derived() -> None:
    """Closed forms: tr(Sigma) / |G|^2 = 4.1 at the start, 2 (1 + m) / h_max, and equation 7."""
    found = quadratic()["probe"]
    start, last = found["predictions"]
    c, h = QUADRATIC.noise, QUADRATIC.curvatures
    truth = sum(c) / sum(x * x for x in h)
    assert start["noise_scale"]["value"] == pytest.approx(truth, rel=0.1)
    assert last["critical"] and not start["critical"]
    assert last["noise_scale"]["value"] > 2 * truth  # the gradient shrinks, the noise does not
    stable = divergence_rate(QUADRATIC, 0.9)
    assert last["stable_lr"]["value"] == pytest.approx(stable, rel=0.005)
    assert last["rule_reaches_it"] == pytest.approx(64 * stable / 0.56, rel=0.01)


def test_nothing_is_recommended_and_it_is_said() -> None:
    value = quadratic()
    assert value["measured"] is False and "no batch size is recommended" in value["answer"]
    assert "cliff lay at 0.9 to 26 times it" in value["not_promised"][-4]
    assert "chosen" not in value and "advice" not in value


def test_the_next_study_lies_around_what_was_predicted() -> None:
    found = quadratic()["probe"]
    sizes, last = found["next_study"]["batch_sizes"], found["predictions"][-1]
    assert 64 in sizes  # the plateau is measured where the rate is given
    assert min(sizes) <= last["noise_scale"]["value"] <= max(sizes)
    assert any(size > last["rule_reaches_it"] for size in sizes)
    assert found["next_study"]["arms"] == found["study"]["arms"]
    speeds = found["readings"]["speeds"]
    assert speeds[0]["batch_size"] == 16 and all(s["rate"] > 0 for s in speeds)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probed:
    """A network of the user's own, without any study file."""
    (tmp_path / "my_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    return advise_probe(None, workload="my_net:workload", seconds=3600.0)


def test_an_own_network_without_a_study_file(mine: Probed) -> None:
    assert mine.last is not None and mine.last.noise_scale.n == 16
    assert mine.last.stable_lr.value is not None and mine.last.stable_lr.value > 0.05
    assert mine.readings.spec.batch_size == 32 and mine.readings.problems == ()
    text = probed_toml(mine, head(mine))
    assert "--workload MODULE:FUNCTION, as for the probe" in text
    again = parse_study(text, workload=load_workload("my_net:workload"))
    assert again.batch_sizes == mine.next_study.batch_sizes
    assert [arm.name for arm in again.arms] == ["none", "warmup"]
    rows = dict(details(mine))
    assert "fits as one micro batch" in rows["memory"] and "about" in rows["stable lr"]
    assert answer(mine).startswith("study mine, arm 'none': predicted by a probe")
    assert any("not over seeds" in line for line in caveats(mine))


def test_digits_as_text_and_as_the_study_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its measured cliff lies near 128 (results/digits); at these rates it trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    found = call("--probe", "digits", "--arm", "warmup", "--seconds", "3600", "-f", "toml")
    assert found.exit_code == 0, found.output
    Path("next.toml").write_text(found.stdout)
    study = load_study("next.toml")
    assert study.arms == load_study("digits").arms and study.name == "digits-measure"
    assert 64 in study.batch_sizes and max(study.batch_sizes) >= 128
    assert "from predictions: no study was run" in found.stdout
    assert "critical batch:" in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["next.toml"]


BAD = [
    ((), "name a study, such as digits; or --probe"),
    (("--probe",), "name a study file or a recipe, such as digits, or --workload"),
    (("--probe", "digitz"), "Did you mean 'digits'?"),
    (
        ("--probe", "digits", "--arm", "larz"),
        "no arm 'larz' in this study. Known: none, warmup",
    ),
    (("--probe", "digits", "--format", "torch"), "a probe has measured no settings to export"),
    (("--probe", "digits", "--seconds", "0"), "--seconds 0: write at least 1, such as 60"),
    (("--probe", "digits", "--seconds", "nan"), "--seconds nan: write at least 1"),
    (("--probe", "digits", "--device", "tpu"), "write auto, cpu, cuda or cuda:0"),
    (("--probe", "--workload", "no_such:thing"), "No module named 'no_such'"),
    (("digits", "--seconds", "9"), "--seconds 9.0: belongs to --probe"),
    (("digits", "--device", "cpu"), "--device cpu: belongs to --probe"),
    (("digits", "--workload", "a:b"), "--workload a:b: belongs to --probe"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_input_is_refused_before_anything_runs(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = call(*words)
    assert found.exit_code == 2 and said in found.stderr, found.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_unknown_is_said(mine: Probed) -> None:
    """Every number may be missing; none of them becomes another."""
    import dataclasses

    readings = dataclasses.replace(mine.readings, speeds=(), places=(), room=None)
    empty = dataclasses.replace(
        mine, readings=readings, predictions=(), throughput=None, memory=None
    )
    assert [much.partition(":")[0] for _, much in details(empty)[:5]] == ["unknown"] * 5
    assert "a device that could not be measured" in answer(empty)
    assert mine.last is not None
    lost = Estimate(
        value=50.0, low=50.0, high=None, level=0.95, method="", n=16,
        note="the gradient is lost in its noise", censored="above", unbounded="high",
    )  # fmt: skip
    last = dataclasses.replace(mine.last, noise_scale=lost)
    said = dict(details(dataclasses.replace(mine, predictions=(mine.predictions[0], last))))
    assert said["critical batch"].startswith("> 50 (the gradient is lost in its noise)")
    assert math.isfinite(mine.readings.seconds)
