"""Techniques of the model seam: what they make of a trial, and that they train."""

from __future__ import annotations

import re

import pytest
from small_trials import run, small_data, small_spec, with_settings

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study

STUDY = """
name = "s"
workload = "digits"
batch_sizes = [64, 128]
seeds = 1
{settings}
[arms.none]
[arms.other]
{arm}
"""


def arm(text: str, settings: str = "") -> list[TrialSpec]:
    """The trials of an arm."""
    study = parse_study(STUDY.format(arm=text, settings=settings))
    return [spec for spec in trials(study, "d" * 64) if spec.arm == "other"]


RESNET = 'settings = {{ model = {{ name = "resnet", widths = [[8], [16]] {more} }} }}'


def test_ghost_batch_norm_is_a_setting_by_another_name() -> None:
    found = arm("ghost-batch-norm = { group = 32 }")
    norms = [spec.settings.batch_norm for spec in found]
    assert {(n.group, n.running) for n in norms} == {(32, "mean")}
    assert found[0].techniques == ()
    spelled = arm("batch_norm = { group = 32 }")
    assert [s.trial_id for s in spelled] == [s.trial_id for s in found]


def test_zero_gamma_reaches_residual_networks_only() -> None:
    found = arm("zero-gamma = {}", RESNET.format(more=""))
    assert all(spec.settings.model.zero_gamma for spec in found)
    message = "zero-gamma: the network 'conv-net' has no residual blocks that it knows."
    with pytest.raises(NoEffect, match=re.escape(message)):
        arm("zero-gamma = {}")


@pytest.mark.parametrize(
    ("text", "settings", "kind", "message"),
    [
        ("ghost-batch-norm = { group = 1 }", "", UsageError, "1 examples have no variance"),
        ("ghost-batch-norm = {}", "", UsageError, "group is missing"),
        ('ghost-batch-norm = { group = "B/8" }', "", UsageError, "whole number"),
        (
            "ghost-batch-norm = { group = 32 }",
            'settings = { batch_norm = { group = 32, running = "mean" } }',
            NoEffect,
            "changes nothing: the trials are the same without it",
        ),
        (
            "zero-gamma = {}",
            RESNET.format(more=", zero_gamma = true"),
            NoEffect,
            "changes nothing: the trials are the same without it",
        ),
    ],
)
def test_what_is_refused_names_its_line(
    text: str, settings: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^study file:.*{message}"):
        arm(text, settings)


def test_they_train_and_are_not_the_plain_trial() -> None:
    """A trial of each on small data: finite, and with other losses than without it."""
    data = small_data()
    base = with_settings(
        small_spec().settings,
        model__name="resnet", model__widths=((8,), (16,)),
        batch_norm__group="global", batch_norm__running="mean",
    )  # fmt: skip
    changes = [{}, {"model__zero_gamma": True}, {"model__init": "he-normal"},
               {"batch_norm__group": 5}]  # fmt: skip
    specs = [small_spec(settings=with_settings(base, **change)) for change in changes]
    curves = []
    for spec in specs:
        losses = run([spec], data).losses[:, 0]
        assert losses.isfinite().all()
        assert losses[-3:].mean() < losses[:3].mean()
        curves.append(tuple(losses.tolist()))
    assert len(set(curves)) == len(curves)
