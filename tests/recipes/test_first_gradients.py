"""The recipe of the first gradients: planned offline, and run in miniature."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from digit_trials import ON_DIGITS, trained

from batchcliff.planning import plan
from batchcliff.record import Outcome, TrialRecord
from batchcliff.stats.noise_scale import sharpness_shares
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import shape_key


@functools.cache
def records() -> dict[str, TrialRecord]:
    study = load_study("first-gradients", overrides=ON_DIGITS, batch_sizes="128", budget="8ep")
    return {spec.arm: trained(spec) for spec in trials(study, "")}


def test_a_plan_needs_no_data_and_is_small(tmp_path: Path) -> None:
    found = plan("first-gradients", out=tmp_path / "none")
    assert found.infeasible == 0
    assert len({shape_key(t.spec) for t in found.trials}) == 3
    assert sum(t.ledger.epochs for t in found.trials if t.ledger) == 48


def test_both_arms_begin_alike_and_warmup_lowers_the_share_of_the_limit() -> None:
    plain, warmed = records()["none"], records()["warmup"]
    assert plain.outcome is warmed.outcome is Outcome.OK
    assert plain.probes is not None and warmed.probes is not None
    assert plain.probes.updates == warmed.probes.updates
    assert plain.probes.sharpness[0] == pytest.approx(warmed.probes.sharpness[0])
    assert plain.probes.noise_trace[0] == pytest.approx(warmed.probes.noise_trace[0])
    first = [sharpness_shares(r.spec, r.probes)[0][1] for r in (plain, warmed) if r.probes]
    assert first[1] == pytest.approx(0.01 * first[0])  # the warmup begins at a hundredth
    ratios = [r.probes.update_ratio[-1][0] for r in (plain, warmed) if r.probes]
    assert ratios[1] == pytest.approx(0.01 * (ratios[0] or 0.0), rel=1e-2)
    assert len(plain.curves.first_gradient_norms) == len(plain.probes.first_losses) == 64
