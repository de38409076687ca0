"""Resuming inside of the frameworks themselves: a trainer stops, another goes on.

tests/schedules/test_adapters.py has every order of loading in torch alone.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from batchcliff.schedules import Clock, Warmup, factors
from batchcliff.spec import Decay

TOTAL, STOPPED, PEAK = 12, 5, 0.4
CLOCK = Clock(TOTAL, 1).with_budget(f"{TOTAL}up")
DECAY = Decay(kind="linear", floor=0.25)
FULL = [PEAK * factor for factor in factors(CLOCK, Warmup(duration=4), DECAY)]


def warmup_lr(optimizer: Any) -> Any:
    adapter = importlib.import_module("batchcliff.schedules.adapters.torch")
    return adapter.WarmupLR(optimizer, 4, clock=CLOCK, decay=DECAY)


def lightning_module(used: list[float]) -> Any:
    lightning, torch = pytest.importorskip("lightning"), pytest.importorskip("torch")
    adapter = importlib.import_module("batchcliff.schedules.adapters.lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.layer(batch).square().mean()

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            used.append(optimizer.param_groups[0]["lr"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=PEAK, momentum=0.9)
            return adapter.optimizer_config(optimizer, warmup_lr(optimizer))

    return Module()


def fit(updates: int, used: list[float], folder: Path, accumulate: int, resume: Any) -> Any:
    lightning, torch = pytest.importorskip("lightning"), pytest.importorskip("torch")
    trainer = lightning.Trainer(
        max_steps=updates,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accumulate_grad_batches=accumulate,
        default_root_dir=str(folder),
    )
    batches = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2)  # 4 an epoch
    trainer.fit(lightning_module(used), batches, ckpt_path=resume)
    return trainer


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's own
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_goes_on_where_it_stopped(accumulate: int, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    used: list[float] = []
    first = fit(STOPPED, used, tmp_path, accumulate, None)
    assert used == FULL[:STOPPED]
    first.save_checkpoint(tmp_path / "half.ckpt")
    fit(TOTAL, used, tmp_path, accumulate, str(tmp_path / "half.ckpt"))
    assert used == FULL


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lightnings_own_default_is_another_schedule(tmp_path: Path) -> None:
    """A negative control: without `interval="step"` the rate moves once an epoch."""
    torch = pytest.importorskip("torch")
    module = lightning_module(used := [])

    def configure() -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=PEAK)
        return {"optimizer": optimizer, "lr_scheduler": warmup_lr(optimizer)}

    module.configure_optimizers = configure
    trainer = pytest.importorskip("lightning").Trainer(
        max_steps=8, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2))
    assert used == [FULL[0]] * 4 + [FULL[1]] * 4
    assert used != FULL[:8]


def train(updates: int, used: list[float], folder: Path, resume: bool) -> None:
    """Hugging Face's Trainer over a tiny module, through the factory that bears its name."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    adapter = importlib.import_module("batchcliff.schedules.adapters.transformers")

    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x: Any) -> Any:
            return {"loss": self.layer(x).square().mean()}

    class Recorder(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_pre_optimizer_step(self, *given: Any, **more: Any) -> None:
            used.append(more["optimizer"].param_groups[0]["lr"])

    module = Module()
    optimizer = torch.optim.SGD(module.parameters(), lr=PEAK, momentum=0.9)
    scheduler = adapter.get_linear_schedule_with_warmup(optimizer, 4, TOTAL)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=updates, per_device_train_batch_size=2, use_cpu=True,
        save_steps=STOPPED, report_to=[], disable_tqdm=True, gradient_accumulation_steps=2,
        logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=module, args=arguments, train_dataset=[{"x": torch.ones(2)}] * 16,
        optimizers=(optimizer, scheduler), callbacks=[Recorder()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_trainer_of_transformers_goes_on_where_it_stopped(tmp_path: Path) -> None:
    table = factors(CLOCK, Warmup(duration=4), Decay(kind="linear"))
    expected = [PEAK * factor for factor in table]
    used: list[float] = []
    train(STOPPED, used, tmp_path, resume=False)
    assert used == expected[:STOPPED]
    train(TOTAL, used, tmp_path, resume=True)
    assert used == expected
