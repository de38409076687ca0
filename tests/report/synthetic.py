"""Synthetic studies in the article's shape: known values, no training."""

from __future__ import annotations

import math
import random

from batchcliff.record import Curves, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import Arm, Decay, LrRule, Settings, StudySpec, TrialSpec

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
TABLE = {
    "none": (0.9105, 0.9052, 0.8997, 0.8882, 0.8549, 0.2083, 0.1884),
    "warmup": (0.9175, 0.9141, 0.9085, 0.9073, 0.8939, 0.8799, 0.1592),
}
WARMUP = (("warmup", (("duration", "6ep"), ("shape", "exponential"), ("start", 0.01))),)
EPOCHS = 100
DECAY = Decay(at=("60%", "85%"))


class Synthetic:
    """Makes a study in the article's form and its records; options as keywords."""

    def __init__(self, seeds: int = 3, sizes: tuple[int, ...] = SIZES, **study: object) -> None:
        self.seeds, self.sizes = seeds, sizes
        arms = (Arm(name="none"), Arm(name="warmup", techniques=WARMUP))
        values: dict[str, object] = {
            "name": "article",
            "workload": "article",
            "batch_sizes": sizes,
            "seeds": tuple(range(seeds)),
            "budget": "100ep",
            "lr": LrRule(base=0.1, base_batch_size=128),
            "decay": DECAY,
            "arms": arms,
            "settings": Settings(),
            "data": "cifar10",
            "published": "article",
            "description": "The article's own experiment.",
        }
        self.study = StudySpec(**{**values, **study})  # type: ignore[arg-type]

    def specs(self) -> list[TrialSpec]:
        """The plan: arms, batch sizes, seeds."""
        return [
            TrialSpec(
                workload=self.study.workload,
                data=self.study.data,
                data_digest="d" * 64,
                arm=arm.name,
                techniques=arm.techniques,
                settings=Settings(),
                batch_size=size,
                lr=0.1 * size / 128,
                decay=DECAY,
                budget="100ep",
                seed=seed,
            )
            for arm in self.study.arms
            for size in self.sizes
            for seed in range(self.seeds)
        ]

    def planned(self) -> list[tuple[str, int, int, str]]:
        """The plan as the report's caller has it."""
        return [(s.arm, s.batch_size, s.seed, s.trial_id) for s in self.specs()]

    def records(self, diverged: bool = True) -> list[TrialRecord]:
        """Records around the article's table; some collapsed trials diverge."""
        return [self.record(spec, diverged) for spec in self.specs()]

    def record(self, spec: TrialSpec, diverged: bool = True) -> TrialRecord:
        """One record, drawn from the spec alone."""
        rng = random.Random(f"{spec.arm!r}/{spec.batch_size}/{spec.seed}")
        table = TABLE.get(spec.arm, TABLE["none"])
        size = min(range(len(SIZES)), key=lambda i: abs(SIZES[i] - spec.batch_size))
        accuracy = table[size] + (rng.gauss(0, 0.003) if self.seeds > 1 else 0.0)
        if diverged and accuracy < 0.5 and spec.seed % 3 == 2:
            return self.diverged(spec, rng.randrange(3, 40))
        return TrialRecord(
            spec=spec,
            outcome=Outcome.OK,
            accuracy=accuracy,
            accuracy_reestimated=min(accuracy + rng.random() * 0.01, 1.0),
            test_loss=1 - accuracy,
            train_loss=(1 - accuracy) / 2,
            updates=ledger(spec).updates,
            ledger=ledger(spec),
            curves=curves(spec, accuracy, rng),
            provenance=provenance(),
        )

    def diverged(self, spec: TrialSpec, bad: int) -> TrialRecord:
        """A trial whose loss was not finite at update `bad`."""
        nan = (math.nan,) * (EPOCHS - 1)
        return TrialRecord(
            spec=spec,
            outcome=Outcome.DIVERGED,
            reason=f"loss is not finite at update {bad}",
            first_bad_update=bad,
            updates=bad,
            ledger=ledger(spec),
            curves=Curves(
                train_loss=(2.3, *nan), lr=rates(spec), test_accuracy=(0.1,) + (None,) * 99
            ),
            provenance=provenance(),
        )


def ledger(spec: TrialSpec) -> Ledger:
    """Keras' floor(N/B) updates an epoch on 50,000 images."""
    an_epoch = 50_000 // spec.batch_size
    return Ledger(
        num_train=50_000,
        num_test=10_000,
        num_classes=10,
        updates=an_epoch * EPOCHS,
        updates_per_epoch=float(an_epoch),
        epochs=float(EPOCHS),
        examples=an_epoch * EPOCHS * spec.batch_size,
        dropped_per_epoch=50_000 - an_epoch * spec.batch_size,
        batch_norm_group=spec.batch_size // 8,
        batch_norm_horizon_epochs=100 / an_epoch,
        accumulation=1,
        warmup_updates=6 * an_epoch if spec.techniques else 0,
        lr_provenance=f"{spec.lr:g} = 0.1 x {spec.batch_size}/128 (linear)",
    )


def rates(spec: TrialSpec) -> tuple[float, ...]:
    """The article's schedule, per epoch."""
    found = []
    for epoch in range(EPOCHS):
        rate = spec.lr * (0.01 if epoch >= 85 else 0.1 if epoch >= 60 else 1.0)
        if spec.techniques and epoch <= 5:
            rate = spec.lr * 10 ** (-2 + 0.4 * epoch)
        found.append(rate)
    return tuple(found)


def curves(spec: TrialSpec, accuracy: float, rng: random.Random) -> Curves:
    """Curves that end at `accuracy`."""
    share = [1 - math.exp(-(epoch + 1) / 15) for epoch in range(EPOCHS)]
    noise = [rng.gauss(0, 0.015) * (epoch < 60) for epoch in range(EPOCHS)]
    up = [0.1 + (accuracy - 0.1) * s + n for s, n in zip(share, noise, strict=True)]
    loss = [2.3 * (1 - s * (accuracy - 0.05)) for s in share]
    return Curves(
        train_loss=tuple(loss),
        lr=rates(spec),
        test_accuracy=tuple(min(max(u, 0.0), 1.0) for u in up),
    )


def provenance() -> Provenance:
    """One machine, one version."""
    return Provenance(
        seconds=11.5,
        compile_seconds=20.0,
        examples_per_second=220_000.0,
        started="2026-01-01T00:00:00Z",
        stacked=1,
        device="NVIDIA H100 80GB HBM3",
        versions=(("python", "3.11.7"), ("torch", "2.11.0")),
        numerics=(("cudnn", "9.1"), ("tf32", "off")),
        code="batchcliff 0.1.0 (abc123)",
        data_source="Parquet, JPEG-recompressed CIFAR-10",
    )
