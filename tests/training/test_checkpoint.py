"""A run that was ended and goes on: equal, bit for bit, to one that nobody disturbed."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import resumed_trials
import torch
from resumed_trials import (
    CASES,
    RULE_CASES,
    TECHNIQUE_CASES,
    Case,
    Shelf,
    gone_on,
    trained,
)
from small_trials import PretendedTurn, facts_of, ready, small_data
from test_compiled import on_gpu
from torch import Tensor

from batchcliff.data.resident import Resident
from batchcliff.data.sources import load
from batchcliff.optimizers import RULES
from batchcliff.record import Outcome
from batchcliff.spec import Decay, Pretraining, TrialSpec
from batchcliff.techniques import TECHNIQUES
from batchcliff.training import checkpoint, loss_scaling
from batchcliff.training.arithmetic import ledger, timeline_of
from batchcliff.training.checkpoint import named_state
from batchcliff.training.prepare import Prepared
from batchcliff.training.pretrained import Pretrained
from batchcliff.training.trial import run_trials
from batchcliff.workloads import DIGITS

DATA = small_data()


def boundaries(case: Case, num_train: int = 40) -> list[int]:
    """Every update at which an epoch, or a stretch of one batch size, ends; not the last."""
    return [piece.last for piece in timeline_of(case.specs[0], num_train).pieces()[:-1]]


def test_every_rule_and_every_technique_has_a_case() -> None:
    assert RULE_CASES.keys() == RULES.keys()
    assert TECHNIQUE_CASES.keys() == TECHNIQUES.keys()


@pytest.mark.parametrize("name", CASES)
def test_gate_resumed_equals_uninterrupted_at_every_epoch(name: str) -> None:
    """Records, weights, optimizer, logs and counters; and saving changes nothing."""
    case, shelf = CASES[name], Shelf()
    plain = trained(case, DATA)
    saved = trained(case, DATA, shelf.checkpoints())
    assert saved.digest == plain.digest
    assert saved.resumed_from == 0
    assert shelf.told == []
    diverges = plain.records[0].outcome is Outcome.DIVERGED and len(case.specs) == 1
    ends = boundaries(case)
    assert list(shelf.kept) == (ends[: len(shelf.kept)] if diverges else ends)
    assert len(shelf.kept) >= 2
    for update, data in shelf.kept.items():
        resumed = gone_on(case, DATA, data)
        assert resumed.resumed_from == update
        assert resumed.digest == plain.digest, update


def test_the_cases_are_what_they_are_called() -> None:
    """Else the gate would hold for less than it says."""
    outcomes = {name: trained(CASES[name], DATA).records for name in ("diverging", "stack")}
    assert [r.outcome for r in outcomes["diverging"]] == [Outcome.DIVERGED]
    assert [r.outcome for r in outcomes["stack"]] == [Outcome.OK] * 3
    assert len(timeline_of(CASES["technique batch-growth"].specs[0], 40).stretches) > 1
    assert len(timeline_of(CASES["technique batch-warmup"].specs[0], 40).stretches) > 1


def test_gate_in_a_fresh_process(tmp_path: Path) -> None:
    names, expected = ["rule adamw", "growing, scaled", "own", "stack"], ""
    for name in names:
        shelf, case = Shelf(), CASES[name]
        whole = trained(case, DATA, shelf.checkpoints())
        update = boundaries(case)[1]
        (tmp_path / f"{name}.safetensors").write_bytes(shelf.kept[update])
        expected += f"{update} {whole.digest}\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", resumed_trials.__file__, str(tmp_path), *names],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == expected, done.stderr


# --- with weights from another task

OLD, NEW = (load(f"digits-{which}-half") for which in ("first", "second"))


def tuning() -> TrialSpec:
    pretraining = Pretraining(data=OLD.name, budget="2ep", batch_size=64, lr=0.2)
    settings = dataclasses.replace(DIGITS.settings, pretraining=pretraining)
    return TrialSpec(
        workload="digits", data=NEW.name, data_digest=NEW.digest, arm="a", techniques=(),
        settings=settings, batch_size=256, lr=0.1, decay=Decay(kind="constant"), budget="3ep",
        seed=0,
    )  # fmt: skip


def test_gate_with_pretraining(tmp_path: Path) -> None:
    """What is left of the old task is measured from the weights that the run began with."""
    case, shelf, resident = Case((tuning(),)), Shelf(), Resident.of(NEW)

    def origin() -> Pretrained:
        return Pretrained(
            tuning(), Resident.of(OLD), num_classes=5, data_digest=OLD.digest, cache=tmp_path
        )

    pretrained = origin()
    options: dict[str, Any] = {"pretrained": pretrained, "classes": 5}
    whole = trained(case, resident, shelf.checkpoints(), **options)
    assert whole.records[0].transfer is not None
    for data in shelf.kept.values():
        options["pretrained"] = origin()
        resumed = gone_on(case, resident, data, **options)
        assert resumed.resumed_from > 0
        assert resumed.digest == whole.digest
    pretrained.digest = "others"
    with pytest.raises(checkpoint.Elsewhere, match="from other pretrained weights"):
        gone_on(case, resident, data, pretrained=pretrained, classes=5)


# --- negative controls: a variant that forgets a part is caught


def forgetting(part: str) -> Callable[[Prepared], dict[str, Tensor]]:
    """`named_state` with copies in place of a part: it is read, and goes nowhere."""

    def named(prepared: Prepared) -> dict[str, Tensor]:
        found = named_state(prepared)
        assert any(name.startswith(part) for name in found)
        return {n: t.clone() if n.startswith(part) else t for n, t in found.items()}

    return named


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("rule sgd", "optimizer.velocity"),
        ("rule adam", "optimizer.exp_avg_sq"),
        ("rule adam", "optimizer.count"),
        ("technique momentum-correction", "optimizer.last"),
        ("technique precision", "optimizer.loss_scale"),
        ("technique precision", "optimizer.updates_since_skip"),
        ("norms", "log.gradient_norm"),
        ("rule sgd", "model.blocks"),
        ("rule sgd", "losses"),
        ("rule sgd", "count"),
        ("rule sgd", "evaluation.count"),
        ("rule sgd", "evaluation.correct"),
        ("rule sgd", "evaluation.loss"),
        ("own", "model.network.norm.running"),
    ],
)
def test_control_a_part_that_is_forgotten_is_noticed(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "optimizer.loss_scale":
        monkeypatch.setattr(loss_scaling, "INITIAL", 2.0**24)  # so that it has to fall
    case, shelf = CASES[name], Shelf()
    whole = trained(case, DATA, shelf.checkpoints())
    data = shelf.kept[boundaries(case)[1]]
    assert gone_on(case, DATA, data).digest == whole.digest
    monkeypatch.setattr(checkpoint, "named_state", forgetting(part))
    assert gone_on(case, DATA, data).digest != whole.digest


def test_control_a_generator_that_is_forgotten_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a network that draws needs it."""
    for name, equal in (("own", False), ("rule sgd", True)):
        case, shelf = CASES[name], Shelf()
        whole = trained(case, DATA, shelf.checkpoints())
        data = shelf.kept[boundaries(case)[0]]
        with monkeypatch.context() as patched:
            patched.setattr(torch, "set_rng_state", lambda state: None)
            assert (gone_on(case, DATA, data).digest == whole.digest) is equal


def test_control_state_without_a_name_is_noticed() -> None:
    """A rule that keeps something new, or a loop that logs it, cannot be saved without it."""
    prepared = ready(CASES["rule sgd"].specs[0], DATA)
    assert checkpoint.named_state(prepared)
    tensors, more = prepared.loop.tensors, torch.zeros(3)
    prepared.loop.tensors = lambda: [*tensors(), more]  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="state without a name"):
        checkpoint.named_state(prepared)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["rule adam", "technique batch-growth", "own"])
def test_what_is_saved_is_the_state_in_stream_order(name: str) -> None:
    """The file has the bits that the device had at that point of its queue, though updates
    follow at once; and a run that goes on from there ends where the other did."""
    case, shelf, data = CASES[name], Shelf(), on_gpu(DATA)
    checkpoints, clones = shelf.checkpoints(), {}
    offer = checkpoints.offer

    def cloning(update: int) -> None:
        clones[update] = {n: t.clone() for n, t in checkpoints._state.items()}
        offer(update)

    checkpoints.offer = cloning  # type: ignore[method-assign]
    whole = trained(case, data, checkpoints)
    assert list(shelf.kept) == boundaries(case)
    for update, content in shelf.kept.items():
        found = checkpoint.load(content)
        assert all(torch.equal(found[n], t.cpu()) for n, t in clones[update].items())
        resumed = gone_on(case, data, content)
        assert resumed.resumed_from == update
        losses = [torch.frombuffer(bytearray(r.state["losses"]), dtype=torch.float32)
                  for r in (resumed, whole)]  # fmt: skip
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


# --- when, and at what cost


def test_a_run_that_is_shorter_than_the_interval_saves_nothing() -> None:
    shelf = Shelf()
    trained(CASES["rule sgd"], DATA, shelf.checkpoints(every_seconds=1e9))
    assert shelf.kept == {}


def test_one_is_saved_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At an epoch's end, the first one after the interval; the clock is the test's."""
    now = [0.0]
    monkeypatch.setattr("batchcliff.training.epochs.time.monotonic", lambda: now[0])
    case, shelf = CASES["technique longer-training"], Shelf()
    checkpoints = shelf.checkpoints(every_seconds=10.0)
    offer = checkpoints.offer

    def ticking(update: int) -> None:
        now[0] += 4.0
        offer(update)

    checkpoints.offer = ticking  # type: ignore[method-assign]
    trained(case, DATA, checkpoints)
    assert list(shelf.kept) == boundaries(case)[2::3]


def test_a_place_that_cannot_keep_costs_the_trial_nothing() -> None:
    shelf, case = Shelf(), CASES["rule sgd"]

    def keep(update: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    shelf.keep = keep  # type: ignore[method-assign]
    ended = trained(case, DATA, shelf.checkpoints())
    assert ended.digest == trained(case, DATA).digest
    assert len(shelf.told) == len(boundaries(case))
    assert shelf.told[0] == ("could not be saved: [Errno 28] No space left on device", 0)


def test_what_a_record_says_of_it() -> None:
    """The seconds are those of all of the run; and people are told where it goes on."""
    case, shelf = CASES["rule sgd"], Shelf()
    trained(case, DATA, shelf.checkpoints())
    update = boundaries(case)[0]
    data = shelf.kept[update]
    said = checkpoint._header(data)[checkpoint.METADATA]
    slow = checkpoint.encode(checkpoint.load(data), {**said, "seconds": "1000.0"})
    again = Shelf({update: slow})
    ended = trained(case, DATA, again.checkpoints(1e9))
    provenance = ended.records[0].provenance
    assert provenance is not None
    assert 1000 < provenance.seconds < 2000, "not twice"
    assert provenance.resumed_from == update
    assert again.told == [(f"goes on from update {update} of 10", update)]
    assert math.isclose(provenance.examples_per_second, 160 / provenance.seconds)


def test_what_was_waited_for_a_turn_is_in_no_checkpoint() -> None:
    """A negative wait, of 5,000 seconds, is in each of them, and once in a run that goes on."""
    case, shelf = CASES["rule sgd"], Shelf()
    (spec,), turn = case.specs, PretendedTurn(-5_000.0)
    ledgers, prepared = [ledger(spec, facts_of(DATA))], ready(spec, DATA)
    with shelf.checkpoints() as checkpoints:
        options: dict[str, Any] = {"code": "code", "checkpoints": checkpoints, "turn": turn}
        run_trials([spec], ledgers, DATA, prepared, **options)
    assert list(shelf.kept) == boundaries(case)
    for data in shelf.kept.values():
        seconds = float(checkpoint._header(data)[checkpoint.METADATA]["seconds"])
        assert 5_000 < seconds < 6_000
    ended = gone_on(case, DATA, shelf.kept[boundaries(case)[0]])
    provenance = ended.records[0].provenance
    assert provenance is not None and provenance.resumed_from
    assert 5_000 < provenance.seconds < 6_000
