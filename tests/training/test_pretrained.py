"""Pretraining and what fine-tuning leaves of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from batchcliff.data.resident import Resident
from batchcliff.data.sources import load
from batchcliff.errors import DataError, UsageError
from batchcliff.record import TrialRecord
from batchcliff.spec import Decay, Pretraining, TrialSpec
from batchcliff.training.arithmetic import DataFacts, ledger
from batchcliff.training.prepare import prepare
from batchcliff.training.pretrained import Pretrained, old_task
from batchcliff.training.trial import run_trials
from batchcliff.workloads import DIGITS

OLD, NEW = (load(f"digits-{which}-half") for which in ("first", "second"))
PRETRAINING = Pretraining(data=OLD.name, budget="6ep", batch_size=64, lr=0.4)


def spec(lr: float = 0.1, **changes: Any) -> TrialSpec:
    settings = dataclasses.replace(DIGITS.settings, pretraining=PRETRAINING, evaluate_every=0)
    values: dict[str, Any] = {
        "workload": "digits", "data": NEW.name, "data_digest": NEW.digest, "arm": "a",
        "techniques": (), "settings": settings, "batch_size": 64, "lr": lr,
        "decay": Decay(kind="constant"), "budget": "2ep", "seed": 0,
    }  # fmt: skip
    return TrialSpec(**{**values, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def origin(trial: TrialSpec, cache: Path, weights: Path | None = None) -> Pretrained:
    return Pretrained(
        trial, Resident.of(OLD), num_classes=5, data_digest=OLD.digest, cache=cache,
        weights=weights,
    )  # fmt: skip


def tuned(trial: TrialSpec, pretrained: Pretrained) -> TrialRecord:
    resident = Resident.of(NEW)
    facts = DataFacts(num_train=len(NEW.train_labels), num_test=len(NEW.test_labels),
                      num_classes=5, image_shape=(8, 8, 1))  # fmt: skip
    ready = prepare(trial, resident, num_classes=5, stack=1)
    records = run_trials(
        [trial], [ledger(trial, facts)], resident, ready, pretrained=pretrained
    )
    return records[0]


def test_a_rate_of_nothing_leaves_everything(cache: Path) -> None:
    """The negative control of both measures: nothing moved, and the old task is as it was."""
    pretrained = origin(spec(), cache)
    still = dataclasses.replace(
        spec(1e-30).settings,
        batch_norm=dataclasses.replace(DIGITS.settings.batch_norm, momentum=1 - 1e-12),
    )
    transfer = tuned(spec(1e-30, settings=still), pretrained).transfer
    assert transfer is not None
    assert transfer.distance == pytest.approx(0, abs=1e-6)
    assert transfer.old_accuracy == transfer.old_accuracy_before > 0.8


def test_the_larger_the_rate_the_more_is_destroyed(cache: Path) -> None:
    pretrained = origin(spec(), cache)
    found = [tuned(spec(lr), pretrained).transfer for lr in (0.003, 0.3)]
    small, large = found
    assert small is not None
    assert large is not None
    assert 0 < (small.distance or 0) < 0.2 * (large.distance or 0)
    assert (large.old_accuracy_reestimated or 0) < (small.old_accuracy_reestimated or 0)
    assert small.weights == large.weights
    assert small.old_accuracy_before == large.old_accuracy_before


def test_twin_of_the_distance(cache: Path) -> None:
    """From the file of weights and the trained network, by hand."""
    pretrained, trial = origin(spec(), cache), spec(0.2)
    resident = Resident.of(NEW)
    facts = DataFacts(num_train=len(NEW.train_labels), num_test=len(NEW.test_labels),
                      num_classes=5, image_shape=(8, 8, 1))  # fmt: skip
    ready = prepare(trial, resident, num_classes=5, stack=1)
    (record,) = run_trials(
        [trial], [ledger(trial, facts)], resident, ready, pretrained=pretrained
    )
    (path,) = cache.glob("pretrained-*.safetensors")
    old, new = load_file(path), dict(ready.model.named_parameters())
    moved = {n: (new[n].detach() - old[n]).flatten() for n in new if n not in HEADS}
    assert record.transfer is not None
    assert record.transfer.distance == pytest.approx(
        math.sqrt(sum(float(m @ m) for m in moved.values()))
        / math.sqrt(sum(float(old[n].flatten() @ old[n].flatten()) for n in moved)),
        rel=1e-4,
    )


HEADS = {"head.weight", "head.bias"}


def test_trials_begin_with_the_weights_but_not_with_the_last_layer(cache: Path) -> None:
    pretrained = origin(spec(), cache)
    ready = prepare(spec(), Resident.of(NEW), num_classes=5, stack=1)
    ready.restart([spec()], torch.full_like(ready.loop.rates_US, 0.1))
    fresh = {name: tensor.clone() for name, tensor in ready.model.state_dict().items()}
    pretrained.start(ready.model)
    for name, tensor in ready.model.state_dict().items():
        expected = fresh[name] if name in HEADS else pretrained.state[name]
        assert torch.equal(tensor, expected), name


def test_who_comes_second_takes_what_the_first_made(cache: Path) -> None:
    first = origin(spec(), cache)
    (path,) = cache.glob("pretrained-*.safetensors")
    before = path.stat().st_mtime_ns
    second = origin(spec(0.5), cache)  # another trial of the seed, the same old task
    assert second.digest == first.digest
    assert path.stat().st_mtime_ns == before
    assert not [p for p in cache.iterdir() if p != path], "nothing is left behind"


def test_a_file_of_weights(cache: Path, tmp_path: Path) -> None:
    import hashlib

    made = origin(spec(), cache)
    path = tmp_path / "w.safetensors"
    save_file({n: t.contiguous() for n, t in made.state.items()}, path)

    def named(file: Path) -> TrialSpec:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        given = dataclasses.replace(PRETRAINING, weights=digest)
        return spec(settings=dataclasses.replace(spec().settings, pretraining=given))

    taken = origin(named(path), tmp_path, path)
    assert taken.before == made.before
    assert list(tmp_path.iterdir()) == [path], "nothing was trained"
    with pytest.raises(DataError, match=r"its SHA-256 is [0-9a-f]{64}, and the study's"):
        origin(spec(), tmp_path, path)
    for change, message in (
        ({"head.weight": None}, r"has no tensor 'head.weight' \[5, 128\]"),
        ({"head.bias": torch.zeros(4)}, r"head.bias is \[4\]; the network of .* needs \[5\]"),
        ({"extra": torch.zeros(1)}, "the network has no tensor 'extra'"),
    ):
        state = {**{n: t.contiguous() for n, t in made.state.items()}, **change}
        bad = tmp_path / "bad.safetensors"
        save_file({n: t for n, t in state.items() if t is not None}, bad)
        with pytest.raises(DataError, match=message):
            origin(named(bad), tmp_path, bad)
    bad.write_bytes(b"\x80\x04K\x01.")  # a pickle is not read
    with pytest.raises(DataError, match="is no safetensors file"):
        origin(named(bad), tmp_path, bad)


def test_pretraining_that_diverges_says_what_to_write(tmp_path: Path) -> None:
    wild = dataclasses.replace(PRETRAINING, lr=1e30)
    trial = spec(settings=dataclasses.replace(spec().settings, pretraining=wild))
    with pytest.raises(UsageError, match=r"smaller settings.pretraining.lr than 1e\+30"):
        origin(trial, tmp_path)


def test_the_old_task_has_the_trials_settings_and_none_of_its_techniques() -> None:
    trial = spec(techniques=(("warmup", (("duration", "1ep"),)),), seed=3)
    old = old_task(trial, OLD.digest)
    assert (old.data, old.techniques, old.seed) == (OLD.name, (), 3)
    assert (old.batch_size, old.lr, old.budget) == (64, 0.4, "6ep")
    assert old.settings.pretraining is None
    assert old.settings.batch_norm == trial.settings.batch_norm
