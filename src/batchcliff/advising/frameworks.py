"""Settings as a Python file that runs as given: plain torch, Lightning, transformers."""

from __future__ import annotations

import textwrap

from batchcliff.advising.optimizer_code import optimizer_lines
from batchcliff.advising.schedule_code import schedule_lines
from batchcliff.advising.settings import TrainingSettings, left_out
from batchcliff.schedules.conventions import compare
from batchcliff.study.printable import printable

WIDTH = 92


def torch_code(settings: TrainingSettings, head: tuple[str, ...]) -> str:
    """A training loop in plain torch, with random data as a stand-in."""
    chosen = settings.trial.settings
    clip = settings.optimizer.clip_norm
    cast = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp16-unscaled": "torch.float16"}
    loss = ["loss = loss_function(model(inputs), labels)"]
    if chosen.precision in cast:
        device = "inputs.device.type"
        loss = [f"with torch.autocast({device}, dtype={cast[chosen.precision]}):", *_in(loss)]
    loop = [
        "for inputs, labels in batches:  # BATCH_SIZE examples each",
        *_in([*loss, "optimizer.zero_grad()", "loss.backward()"]),
        *_in([f"torch.nn.utils.clip_grad_norm_(model.parameters(), {clip!r})"] if clip else []),
        *_in(["optimizer.step()", "scheduler.step()  # once an update, after the optimizer"]),
    ]
    smoothing = f"label_smoothing={chosen.label_smoothing!r}" if chosen.label_smoothing else ""
    train = [
        "def train(model, batches):",
        *_in(
            [
                *(
                    ['torch.set_float32_matmul_precision("high")  # tf32']
                    if chosen.precision == "tf32"
                    else []
                ),
                "optimizer = make_optimizer(model)",
                "scheduler = make_scheduler(optimizer)",
                f"loss_function = torch.nn.CrossEntropyLoss({smoothing})",
                *loop,
            ]
        ),
    ]
    stand_in = [
        'if __name__ == "__main__":',
        *_in(
            [
                "# A stand-in, so that this file runs: put your network and your data here.",
                "network = torch.nn.Linear(8, 4)",
                "inputs, labels = torch.randn(BATCH_SIZE, 8), torch.randint(4, (BATCH_SIZE,))",
                "train(network, [(inputs, labels)] * min(UPDATES, 3))",
            ]
        ),
    ]
    return _file(settings, head, "torch", ["import torch"], [train, stand_in])


def lightning_code(settings: TrainingSettings, head: tuple[str, ...]) -> str:
    """A LightningModule around any network, and the Trainer's arguments."""
    chosen = settings.trial.settings
    precision = {"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(chosen.precision, "32-true")
    smoothing = f"label_smoothing={chosen.label_smoothing!r}" if chosen.label_smoothing else ""
    module = [
        "class Advised(lightning.LightningModule):",
        *_in(
            [
                "def __init__(self, network):",
                "    super().__init__()",
                "    self.network = network",
                f"    self.loss_function = torch.nn.CrossEntropyLoss({smoothing})",
                "",
                "def training_step(self, batch, batch_idx):",
                "    inputs, labels = batch",
                "    return self.loss_function(self.network(inputs), labels)",
                "",
                "def configure_optimizers(self):",
                "    optimizer = make_optimizer(self.network)",
                "    # Lightning steps once an epoch unless told otherwise.",
                '    each = {"scheduler": make_scheduler(optimizer), "interval": "step"}',
                '    return {"optimizer": optimizer, "lr_scheduler": each}',
            ]
        ),
    ]
    clip = settings.optimizer.clip_norm
    trainer = [
        "def make_trainer(**more):",
        *_in(
            [
                "# BATCH_SIZE = the loader's x devices x accumulate_grad_batches",
                'options = {"max_steps": UPDATES, "max_epochs": -1}',
                'options["accumulate_grad_batches"] = 1',
                f'options["precision"] = "{precision}"',
                *([f'options["gradient_clip_val"] = {clip!r}  # by norm'] if clip else []),
                "return lightning.Trainer(**options | more)",
            ]
        ),
    ]
    imports = ["import lightning", "import torch"]
    return _file(settings, head, "lightning", imports, [module, trainer])


def transformers_code(settings: TrainingSettings, head: tuple[str, ...]) -> str:
    """TrainingArguments, and the optimizer and schedule to pass beside them."""
    chosen = settings.trial.settings
    arguments = {
        "per_device_train_batch_size": "BATCH_SIZE",
        "gradient_accumulation_steps": "1",
        "max_steps": "UPDATES",
        "learning_rate": "LEARNING_RATE",
        # transformers clips at 1 unless told otherwise
        "max_grad_norm": repr(settings.optimizer.clip_norm),
        "label_smoothing_factor": repr(chosen.label_smoothing),
        "dataloader_drop_last": "True",
        "bf16": repr(chosen.precision == "bf16"),
        "fp16": repr(chosen.precision == "fp16"),
    }
    function = [
        "def training_arguments(output_dir, **more):",
        *_in(
            [
                "# BATCH_SIZE = per_device_train_batch_size x devices x accumulation",
                "options = {",
                *_in([f'"{name}": {value},' for name, value in arguments.items()]),
                "}",
                "return TrainingArguments(output_dir=output_dir, **options | more)",
            ]
        ),
    ]
    pair = [
        "def optimizers(model):",
        *_in(
            [
                '"""For Trainer(model, args, ..., optimizers=optimizers(model))."""',
                "optimizer = make_optimizer(model)",
                "return optimizer, make_scheduler(optimizer)",
            ]
        ),
    ]
    imports = ["import torch", "from transformers import TrainingArguments"]
    told = (*head, *_native_warmup(settings))
    return _file(settings, told, "transformers", imports, [function, pair])


def _native_warmup(settings: TrainingSettings) -> list[str]:
    """What transformers' own warmup would do instead, counted."""
    warmup, count = settings.warmup, settings.rises
    if warmup is None:
        return []
    native = compare("batchcliff", "transformers", count, settings.updates).rates
    gaps = [
        abs(ours - theirs)
        for ours, (_, theirs) in zip(settings.factors[:count], native, strict=False)
    ]
    told = (
        f"The schedule is passed to the Trainer. Its own, warmup_steps={count}, runs update t "
        f"at t/{count} of the peak: the first at rate 0, and during the warmup up to "
        f"{max(gaps):.3g} of the peak away from what was run."
    )
    return ["", told]


def _in(lines: list[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _file(
    settings: TrainingSettings,
    head: tuple[str, ...],
    target: str,
    imports: list[str],
    parts: list[list[str]],
) -> str:
    constants, schedule = schedule_lines(settings)
    more, optimizer = optimizer_lines(settings)
    per_epoch = float(settings.clock.updates_per_epoch)
    length = f"{printable(settings.trial.budget)}, {per_epoch:g} an epoch"
    numbers = [
        f"BATCH_SIZE = {settings.batch_size}  # examples per update, whatever the devices",
        f"LEARNING_RATE = {settings.lr!r}  # the peak: {printable(settings.rule)}",
        f"UPDATES = {settings.updates}  # {length}",
        *constants,
    ]
    scheduler = [
        "def make_scheduler(optimizer):",
        "    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor)",
    ]
    standard = ["import math", ""] if any("math." in line for line in schedule) else []
    blocks = [optimizer, schedule, scheduler, *parts]
    lines = [
        *comment(head, left_out(settings, target)),
        "",
        *standard,
        *imports,
        *more,
        "",
        *numbers,
    ]
    for block in blocks:
        lines += ["", "", *block]
    return "\n".join(lines) + "\n"


def comment(head: tuple[str, ...], missing: tuple[str, ...]) -> list[str]:
    """The head of a file as comment lines: what it is, then what it leaves out."""
    found: list[str] = []
    said = [*head]
    if missing:
        said += ["", "Left out, since this format cannot say it:"]
    for line in said:
        found += [f"# {part}" for part in textwrap.wrap(line, WIDTH)] or ["#"]
    for line in missing:
        wrapped = textwrap.wrap(line, WIDTH - 2)
        found += [f"# - {wrapped[0]}", *(f"#   {part}" for part in wrapped[1:])]
    return found
