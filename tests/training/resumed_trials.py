"""Trials that are ended and go on: cases of every kind, run with checkpoints kept in memory.

As a program, `resumed_trials.py FOLDER CASE...` goes on with the checkpoint of each case, in a
fresh process, and prints what comes of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_trials import CLASSES, SMALL, facts_of, small_data, small_spec, with_settings
from torch import nn

from batchcliff.canonical import canonical_json, to_plain
from batchcliff.data.resident import Resident
from batchcliff.optimizers import RULES
from batchcliff.record import TrialRecord
from batchcliff.spec import PROBES, BatchNorm, Decay, Model, TrialSpec
from batchcliff.study.grid import with_techniques
from batchcliff.training.arithmetic import ledger
from batchcliff.training.checkpoint import Checkpoints, Saved, Unusable, named_state
from batchcliff.training.prepare import Build, Prepared, prepare
from batchcliff.training.pretrained import Pretrained
from batchcliff.training.trial import run_trials
from batchcliff.workloads import OWN_BATCH_NORM, OWN_MODEL

SHAPE = (8, 8, 1)
BATCH = 16  # of 40 examples: batches run across the ends of epochs


@dataclass
class Shelf:
    """A place for checkpoints that lets go of none; `told` is what was said."""

    kept: dict[int, bytes] = field(default_factory=dict)
    told: list[tuple[str, int]] = field(default_factory=list)

    def newest(self, read: Callable[[bytes], Saved], most_bytes: int) -> Saved | None:
        if not self.kept:
            return None
        data = self.kept[max(self.kept)]
        if len(data) > most_bytes:
            raise Unusable(f"larger than {most_bytes} bytes")
        return read(data)

    def keep(self, update: int, data: bytes) -> None:
        self.kept[update] = data

    def checkpoints(self, every_seconds: float = 0.0) -> Checkpoints:
        return Checkpoints(
            self,
            every_seconds=every_seconds,
            tell=lambda text, update: self.told.append((text, update)),
        )


@dataclass
class Ended:
    """What came of a run: its records, and every tensor of it, as bytes."""

    records: list[TrialRecord]
    state: dict[str, bytes]

    @classmethod
    def of(cls, records: list[TrialRecord], prepared: Prepared) -> Ended:
        state = {n: t.cpu().numpy().tobytes() for n, t in named_state(prepared).items()}
        return cls(records, state)

    @property
    def facts(self) -> list[TrialRecord]:
        return [dataclasses.replace(record, provenance=None) for record in self.records]

    @property
    def resumed_from(self) -> int:
        (count,) = {r.provenance.resumed_from for r in self.records if r.provenance}
        return count

    @property
    def digest(self) -> str:
        """Of all facts and tensors: equal if and only if every bit is."""
        found = hashlib.sha256(canonical_json(to_plain(self.facts)))
        for name in sorted(self.state):
            found.update(name.encode() + self.state[name])
        return found.hexdigest()


class Dropping(nn.Module):
    """A network of somebody's own that draws random numbers, and has a buffer that counts."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(shape[0] * shape[1] * shape[2], 12)
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(torch.relu(self.norm(self.hidden(x_BCHW.flatten(1)))))
        return self.head(hidden)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    specs: tuple[TrialSpec, ...]
    build: Build | None = None
    most: int = 0  # examples at once


def _case(pairs: dict[str, Any] | None = None, **changes: Any) -> Case:
    """One trial: `changes` of its settings or fields, and techniques with their options."""
    own = ("batch_size", "lr", "budget", "decay")
    fields = {name: changes.pop(name) for name in own if name in changes}
    settings = with_settings(SMALL, **{"evaluate_every": 2, **changes})
    values = {"batch_size": BATCH, "budget": "4ep", "lr": 0.05, "seed": 3, **fields}
    steps = Decay(kind="multistep", at=("50%",), factor=0.5)
    spec = small_spec(**{"settings": settings, "decay": steps, **values})
    chosen = tuple((n, tuple(sorted(o.items()))) for n, o in (pairs or {}).items())
    return Case((with_techniques(spec, chosen),))


def _rule(name: str) -> Case:
    return _case(optimizer__name=name, optimizer__weight_decay=1e-3, lr=0.01)


def _stacked(case: Case) -> Case:
    seeds = (dataclasses.replace(case.specs[0], seed=seed) for seed in (5, 7))
    return Case((*case.specs, *seeds))


RESNET = {"model": Model(name="resnet", widths=((4,), (4,)), init="he-normal")}
GROWING = {"at": ("40%",), "factor": 2, "most": "N/1"}
TECHNIQUE_CASES: dict[str, Case] = {
    "cutout": _case({"cutout": {"size": 3}}),
    "ghost-batch-norm": _case({"ghost-batch-norm": {"group": 8}}),
    "gi-adam": _case({"gi-adam": {}}, optimizer__name="adam", lr=0.01),
    "gradient-clipping": _case({"gradient-clipping": {"max_norm": 0.5}}),
    "label-smoothing": _case({"label-smoothing": {}}),
    "lamb": _case({"lamb": {"exclude": "norms-and-biases"}}, lr=0.01),
    "larc": _case({"larc": {"exclude": "norms-and-biases"}}),
    "lars": _case({"lars": {"exclude": "norms-and-biases"}}, lr=1.0),
    "mixup": _case({"mixup": {}}),
    "momentum-correction": _case({"momentum-correction": {}}),
    "nesterov": _case({"nesterov": {}}),
    "no-decay": _case({"no-decay": {}}, optimizer__weight_decay=1e-3),
    "precision": _case({"precision": {"format": "fp16"}}),
    "radam": _case({"radam": {}}, optimizer__name="adam", lr=0.01),
    "random-erasing": _case({"random-erasing": {}}),
    "reestimated-batch-norm": _case({"reestimated-batch-norm": {}}),
    "warmup": _case({"warmup": {"duration": "2ep"}}),
    "weight-decay": _case({"weight-decay": {"weight_decay": 0.01}}),
    "zero-gamma": _case({"zero-gamma": {}}, **RESNET),
    "batch-growth": _case({"batch-growth": GROWING}),
    "batch-warmup": _case({"batch-warmup": {"duration": "3ep", "start": 4, "steps": 2}}),
    "longer-training": _case({"longer-training": {"reference_batch_size": 8}}),
}
RULE_CASES = {name: _rule(name) for name in RULES}
OTHER_CASES: dict[str, Case] = {
    "article": _case(
        batch_norm=BatchNorm(momentum=0.9, group="B/4", running="per-group"),
        loss="clipped-softmax", augmentation="as-written", precision="bf16", remainder="drop",
    ),
    "coded": _case(augmentation="as-coded", optimizer__form="torch", optimizer__nesterov=True),
    "norms": _case(gradient_norms=True),
    "probes": _case(probes=PROBES, probe_at=("0up", "3up", "1ep", "3ep")),
    "scaled norms": _case(gradient_norms=True, precision="fp16", evaluate_every=0),
    "growing, scaled": _case({"batch-growth": GROWING}, precision="fp16", gradient_norms=True),
    "diverging": _case(
        decay=Decay(kind="multistep", at=("50%",), factor=1e38), gradient_norms=True
    ),
    "stack": _stacked(_case()),
    "stack, one diverges": _stacked(_case({"warmup": {"duration": "1ep"}}, lr=30.0)),
    "micro batches": Case(
        _case({"ghost-batch-norm": {"group": 4}, "mixup": {}}, precision="fp16").specs, most=8
    ),
    "own": Case(_case(model=OWN_MODEL, batch_norm=OWN_BATCH_NORM).specs, Dropping),
}  # fmt: skip
CASES = {
    **{f"rule {name}": case for name, case in RULE_CASES.items()},
    **{f"technique {name}": case for name, case in TECHNIQUE_CASES.items()},
    **OTHER_CASES,
}


def trained(
    case: Case,
    resident: Resident,
    checkpoints: Checkpoints | None = None,
    *,
    code: str = "code",
    pretrained: Pretrained | None = None,
    classes: int = CLASSES,
) -> Ended:
    """The trials of a case in a fresh network, from where `checkpoints` say."""
    specs = list(case.specs)
    prepared = prepare(
        specs[0],
        resident,
        num_classes=classes,
        stack=len(specs),
        user_build=case.build,
        most=case.most,
    )
    torch.manual_seed(12345)  # of the process: nothing of a trial may come from it
    ledgers = [ledger(spec, facts_of(resident)) for spec in specs]
    options: dict[str, Any] = {"code": code, "pretrained": pretrained}
    if checkpoints is None:
        records = run_trials(specs, ledgers, resident, prepared, **options)
    else:
        with checkpoints:
            records = run_trials(
                specs, ledgers, resident, prepared, checkpoints=checkpoints, **options
            )
    return Ended.of(records, prepared)


def gone_on(case: Case, resident: Resident, data: bytes, **options: Any) -> Ended:
    """The trials of a case from one checkpoint on."""
    return trained(case, resident, Shelf({1: data}).checkpoints(1e9), **options)


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        data = (Path(folder) / f"{name}.safetensors").read_bytes()
        ended = gone_on(CASES[name], small_data(), data)
        print(ended.resumed_from, ended.digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
