"""evaluation = "reestimated": the same training, judged by other statistics."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_trials import SMALL, run, small_data, small_spec, with_settings

from batchcliff.models.conv_net import ConvNet
from batchcliff.record import Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import BatchNorm
from batchcliff.training.arithmetic import shape_key
from batchcliff.training.evaluate import Evaluation
from batchcliff.training.records import Ran, write_record

# A horizon of 100 updates in a run of 12: the running statistics lag far behind.
LAGGING = with_settings(SMALL, batch_norm__momentum=0.99)
JUDGED = with_settings(LAGGING, evaluation="reestimated")


def test_only_the_judgement_differs() -> None:
    resident = small_data()
    plain, judged = (
        run([small_spec(settings=s, budget="30ep")], resident) for s in (LAGGING, JUDGED)
    )
    assert torch.equal(plain.losses, judged.losses)
    assert all(torch.equal(v, judged.state(0)[k]) for k, v in plain.state(0).items())
    one, two = plain.records[0], judged.records[0]
    assert one.curves == two.curves
    assert two.accuracy == two.accuracy_reestimated == one.accuracy_reestimated
    assert two.accuracy != one.accuracy == two.curves.test_accuracy[-1]
    assert two.test_loss != one.test_loss
    assert two.train_loss == one.train_loss
    assert two.trial_id != one.trial_id
    assert shape_key(two.spec) == shape_key(one.spec)  # one compiled update serves both


def recorded(evaluation: str, last: float, reestimated: float) -> TrialRecord:
    """Of a run with finite training losses, whose two last test losses are as given."""
    ran = run([small_spec()], small_data())
    settings = with_settings(SMALL, evaluation=evaluation)
    ledger, provenance = ran.records[0].ledger, ran.records[0].provenance
    assert isinstance(ledger, Ledger) and isinstance(provenance, Provenance)
    tests = [(0.1, 3.0), (0.2, 2.0), (0.3, last), (0.4, reestimated)]
    spec = small_spec(settings=settings)
    left = Ran(losses=torch.ones(12), logs={}, tests=tests)
    return write_record(spec, ledger, left, provenance, 40)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_judging_loss_decides_what_diverged(bad: float) -> None:
    assert recorded("running", 1.0, bad).outcome is Outcome.OK
    assert recorded("running", bad, 1.0).outcome is Outcome.DIVERGED
    assert recorded("reestimated", 1.0, bad).outcome is Outcome.DIVERGED
    kept = recorded("reestimated", bad, 1.0)
    assert (kept.outcome, kept.accuracy, kept.test_loss) == (Outcome.OK, 0.4, 1.0)
    assert kept.curves.test_accuracy == (0.1, 0.2, None)
    assert recorded("running", 1.0, bad).accuracy_reestimated is None


def test_the_plain_setting_leaves_no_trace() -> None:
    spec = small_spec()
    assert "evaluation" not in str(spec.key())
    assert dataclasses.replace(spec, settings=JUDGED).key()["settings"]["evaluation"]


@pytest.mark.parametrize(("examples", "sizes"), [(10_000, [5000] * 2), (7_300, [1000] * 7)])
def test_batches_that_are_evaluated_at_once(examples: int, sizes: list[int]) -> None:
    """Every example once, with the statistics that its own batch of 1,000 gives it."""
    network = ConvNet(
        widths=((8,),), image_channels=3, num_classes=2, batch_norm=BatchNorm(),
        batch_norm_group=2,
    )  # fmt: skip
    images = torch.zeros(examples, 1, 1, 3, dtype=torch.uint8)
    labels = torch.zeros(examples, dtype=torch.int64)
    evaluation = Evaluation(network, SMALL, images, labels, stack=1, evaluations=1, scale=1.0)
    every = torch.arange(examples)
    plain = torch.split(every, 1000)
    assert all(map(torch.equal, evaluation._batches(every), plain))
    (layer,) = network.relu_norms()
    layer.convolves = True
    found = evaluation._batches(every)
    assert [len(batch) for batch in found] == sizes + [examples % 1000] * (examples % 1000 > 0)
    assert torch.equal(torch.cat(found).sort().values, every)
    for batch in found[: len(sizes)]:
        place = torch.arange(len(batch))
        assert torch.equal(place * 8 // len(batch), batch % 1000 * 8 // 1000)
    layer.shards = 3
    assert all(map(torch.equal, evaluation._batches(every), plain))
