"""Exports for Lightning, transformers and timm: by the library where it is installed, by a
stand-in that takes the same calls where it is not."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from test_schedule_and_optimizer import FACTS, PLAIN, recommended

from batchcliff.advising.frameworks import lightning_code, transformers_code
from batchcliff.advising.settings import settings_of
from batchcliff.advising.timm_yaml import timm_factors, timm_schedule, timm_yaml
from batchcliff.errors import UsageError
from batchcliff.spec import Decay, Optimizer
from batchcliff.stats.advice import Recommendation
from batchcliff.training.arithmetic import learning_rates

DROP = dataclasses.replace(PLAIN, remainder="drop")
TORCH_SGD = Optimizer(form="torch", weight_decay=1e-4, clip_norm=2.0)


def settings(**changes: Any) -> Any:
    return dataclasses.replace(DROP, **{"optimizer": TORCH_SGD, **changes})


# Asked before any stand-in takes the name.
SPECS = {n: importlib.util.find_spec(n) for n in ("lightning", "transformers", "timm", "yaml")}


def installed(name: str) -> bool:
    return SPECS[name] is not None


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what is not installed: they keep what they are called with."""
    if not installed("lightning"):
        lightning = types.ModuleType("lightning")
        lightning.LightningModule = torch.nn.Module  # type: ignore[attr-defined]
        lightning.Trainer = types.SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lightning", lightning)
    if not installed("transformers"):
        transformers = types.ModuleType("transformers")
        transformers.TrainingArguments = types.SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "transformers", transformers)


def executed(text: str) -> dict[str, Any]:
    ast.parse(text)
    found: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, "exported.py", "exec"), found)
    return found


def rates_of(found: Recommendation) -> list[float]:
    assert found.trial is not None
    return learning_rates(found.trial, FACTS.num_train)


@pytest.mark.usefixtures("libraries")
@pytest.mark.filterwarnings("ignore")  # of libraries that are not ours
def test_lightning_trains_at_the_rates_of_the_trial(tmp_path: Path) -> None:
    found = recommended({"duration": "8up"}, settings=settings(), budget="20up")
    told = executed(lightning_code(settings_of(found), ("head",)))
    module = told["Advised"](torch.nn.Linear(8, 4))
    pair = module.configure_optimizers()
    assert pair["lr_scheduler"]["interval"] == "step"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = told["make_trainer"](
        accelerator="cpu", enable_model_summary=False, default_root_dir=str(tmp_path), **quiet
    )
    assert (trainer.max_steps, trainer.gradient_clip_val) == (20, 2.0)
    batch = (torch.randn(64, 8), torch.randint(4, (64,)))
    used: list[float] = []
    if installed("lightning"):
        step = type(module).training_step

        def watched(self: Any, batch: Any, batch_idx: int) -> Any:
            used.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return step(self, batch, batch_idx)

        type(module).training_step = watched
        data = torch.utils.data.TensorDataset(*(part.repeat_interleave(7, 0) for part in batch))
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=64))
    else:
        for _ in range(20):
            used.append(pair["optimizer"].param_groups[0]["lr"])
            module.training_step(batch, 0).backward()
            pair["optimizer"].step()
            pair["lr_scheduler"]["scheduler"].step()
    assert used == pytest.approx(rates_of(found))


@pytest.mark.usefixtures("libraries")
@pytest.mark.filterwarnings("ignore")  # of libraries that are not ours
def test_transformers_trains_at_the_rates_of_the_trial(tmp_path: Path) -> None:
    found = recommended({"duration": "8up"}, settings=settings(), budget="20up")
    told = executed(transformers_code(settings_of(found), ("head",)))
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    arguments = told["training_arguments"](str(tmp_path), **quiet)
    # 0 would be no clipping; the library's own default is 1
    assert (arguments.max_steps, arguments.max_grad_norm) == (20, 2.0)
    assert arguments.per_device_train_batch_size == 64
    model = Classifier()
    pair = told["optimizers"](model)
    used: list[float] = []
    pair[0].register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    if installed("transformers"):
        from transformers import Trainer

        data = [{"inputs": torch.randn(8), "labels": i % 4} for i in range(640)]
        Trainer(model, arguments, train_dataset=data, optimizers=pair).train()
    else:
        for _ in range(20):
            model(torch.randn(64, 8), torch.randint(4, (64,)))["loss"].backward()
            pair[0].step()
            pair[1].step()
    assert used == pytest.approx(rates_of(found))


class Classifier(torch.nn.Module):
    """What the Trainer needs of a model: a loss in what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.linear(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_transformers_own_warmup_is_counted() -> None:
    """(t + 1)/W here, t/W there: one W-th of the peak apart at every update of the warmup."""
    found = recommended({"duration": "50up"}, settings=settings())
    text = " ".join(transformers_code(settings_of(found), ("head",)).split())
    assert "warmup_steps=50" in text and "0.02 of the peak" in text.replace(" # ", " ")
    plain = transformers_code(settings_of(recommended(settings=settings())), ("head",))
    assert "warmup_steps" not in plain


# --- timm


def values_of(text: str) -> dict[str, str]:
    """The keys of the file, and their texts."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_]+: \S.*", line) for line in lines)
    return dict(line.split(": ", 1) for line in lines)


CASES = [
    (None, Decay(kind="constant")),
    ({"duration": "2ep"}, Decay(kind="constant")),
    ({"duration": "2ep"}, Decay(at=("60%", "85%"))),
    ({"duration": "2ep", "start": 0.1}, Decay(at=("60%", "85%"))),
    ({"duration": "2ep"}, Decay(kind="cosine")),
    ({"duration": "10%"}, Decay(kind="linear", floor=0.1)),
    (None, Decay(kind="polynomial", power=2.0)),
    ({"duration": "20up", "shape": "exponential", "start": 0.01}, Decay(at=("50%",))),
]


@pytest.mark.parametrize(("warmup", "decay"), CASES, ids=str)
def test_the_rates_are_timms_own(warmup: Any, decay: Decay) -> None:
    """Our text of timm's arithmetic against timm, driven as its train.py does."""
    factory = timm_scheduler_factory()
    schedule = timm_schedule(settings_of(recommended(warmup, decay=decay, settings=DROP)))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, epochs = factory.create_scheduler_v2(
        optimizer,
        sched=schedule.sched,
        num_epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup_lr=schedule.warmup,
        warmup_prefix=schedule.warmup_prefix,
        min_lr=schedule.floor,
        decay_rate=schedule.decay_rate,
        decay_milestones=list(schedule.decay_milestones),
        step_on_epochs=False,
        updates_per_epoch=schedule.updates_per_epoch,
    )
    assert isinstance(epochs, int)  # train.py makes a range of it
    assert epochs * schedule.updates_per_epoch == schedule.updates
    used = []
    for update in range(schedule.updates):
        scheduler.step_update(update)
        used.append(optimizer.param_groups[0]["lr"])
    assert used == pytest.approx(timm_factors(schedule, schedule.updates), abs=1e-12)


def timm_scheduler_factory() -> Any:
    """timm's schedulers without the rest of timm, which needs torchvision."""
    spec = SPECS["timm"]
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("timm is not installed")
    if "timm" not in sys.modules:
        bare = types.ModuleType("timm")
        bare.__spec__ = spec
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["timm"] = bare
    return importlib.import_module("timm.scheduler.scheduler_factory")


@pytest.mark.parametrize(("warmup", "decay"), CASES, ids=str)
def test_the_file_says_how_far_its_rates_are(warmup: Any, decay: Decay) -> None:
    found = recommended(warmup, decay=decay, settings=DROP)
    resolved = settings_of(found)
    theirs = timm_factors(timm_schedule(resolved), resolved.updates)
    gap = max(abs(a - b) for a, b in zip(resolved.factors, theirs, strict=True))
    text = timm_yaml(resolved, ("head",))
    flat = " ".join(text.replace("#", " ").split())
    if gap <= 1e-9:
        assert "The rate of every update is what was run." in flat
    else:
        assert f"up to {gap:.3g} of the peak" in flat
    linear = warmup is None or "shape" not in warmup
    exact = decay.kind in ("constant", "multistep") and linear
    assert (gap <= 1e-9) == (exact or warmup is None)
    assert ("timm's warmup is linear" in flat) == (not linear)


def test_the_keys_of_the_file() -> None:
    chosen = settings(label_smoothing=0.1, mixup=0.2, random_erasing=0.25, precision="bf16")
    text = timm_yaml(settings_of(recommended({"duration": "2ep"}, settings=chosen)), ("h",))
    found = values_of(text)
    assert found["opt"] == "momentum" and found["opt_kwargs"] == "{filter_bias_and_bn: false}"
    assert (found["lr"], found["weight_decay"]) == ("0.3", "0.0001")
    assert (found["smoothing"], found["mixup"], found["reprob"]) == ("0.1", "0.2", "0.25")
    assert (found["clip_grad"], found["amp"], found["amp_dtype"]) == ("2.0", "true", "bfloat16")
    small = settings(optimizer=Optimizer(name="adamw", eps=1e-8, weight_decay=5e-6))
    other = values_of(timm_yaml(settings_of(recommended(settings=small)), ("h",)))
    assert other["opt"] == "adamw" and other["clip_grad"] == "null"
    # YAML 1.1 takes 5e-06 for a text
    assert (other["weight_decay"], other["opt_eps"]) == ("5.0e-06", "1.0e-08")
    if installed("yaml"):
        import yaml

        assert yaml.safe_load(text)["warmup_epochs"] == pytest.approx(29 / 15)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"settings": settings(optimizer=Optimizer(name="lars"))}, "scales other tensors"),
        ({"decay": Decay(kind="one-cycle")}, "no schedule that is a one-cycle decay"),
    ],
)
def test_what_timm_cannot_do_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=f"{why}.*--format torch"):
        timm_yaml(settings_of(recommended(**changes)), ("h",))


def test_a_run_that_ends_inside_of_an_epoch_is_told() -> None:
    carried = dataclasses.replace(PLAIN, optimizer=TORCH_SGD)
    text = timm_yaml(settings_of(recommended(settings=carried, budget="20up")), ("h",))
    assert "timm trains whole epochs: 30 updates, where 20 were" in " ".join(
        text.replace("#", " ").split()
    )
