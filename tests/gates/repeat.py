"""Trains one trial in a process of its own, whole and from a checkpoint on, bit for bit.

    repeat.py DEVICE SAVE       whole; its checkpoint in the middle goes to the file SAVE
    repeat.py DEVICE SAVE gone  whole, and from the checkpoint of the other process on, and from
                                a copy of it with one bit changed

tests/training must be on the path. Prints a line of JSON: digests of all weights, states, logs
and of the record, by kind of run, and the checkpoint's update.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from resumed_trials import Ended, Shelf
from small_trials import CLASSES, facts_of, small_data, small_spec

from batchcliff.data.resident import Resident
from batchcliff.spec import BatchNorm, Decay, Model, Settings
from batchcliff.training import checkpoint
from batchcliff.training.arithmetic import ledger
from batchcliff.training.checkpoint import Checkpoints
from batchcliff.training.deterministic import choose_algorithms
from batchcliff.training.prepare import Prepared, prepare
from batchcliff.training.trial import run_trials

PATIENCE = 240.0  # seconds

# The article's network and conventions, as narrow as our kernels serve: bfloat16, ghost batch
# norm, augmentation; 24 updates in 3 epochs.
SPEC = small_spec(
    settings=Settings(
        model=Model(widths=((8,), (16, 16))),
        batch_norm=BatchNorm(momentum=0.9, group="B/4", running="per-group"),
        loss="clipped-softmax",
        augmentation="as-written",
        precision="bf16",
        remainder="drop",
    ),
    batch_size=64,
    budget="3ep",
    lr=0.05,
    decay=Decay(kind="multistep", at=("50%",), factor=0.1),
)


def place(device: str) -> Resident:
    data = small_data(train=512, test=256, shape=(8, 8, 3))
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return Resident(*(array.to(device) for array in arrays), data.scale)


def ended(prepared: Prepared, resident: Resident, checkpoints: Checkpoints) -> Ended:
    with checkpoints:
        records = run_trials(
            [SPEC],
            [ledger(SPEC, facts_of(resident))],
            resident,
            prepared,
            code="code",
            checkpoints=checkpoints,
        )
    return Ended.of(records, prepared)


def disturbed(data: bytes) -> bytes:
    """The checkpoint with the lowest bit of one weight changed."""
    tensors = checkpoint.load(data)
    name = next(name for name in tensors if name.startswith("model.") and "weight" in name)
    tensors[name].view(-1).view(torch.int32)[0] ^= 1
    return checkpoint.encode(tensors, checkpoint._header(data)[checkpoint.METADATA])


def other_process(path: Path) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, "the other process has saved nothing"
        time.sleep(0.05)
    return path.read_bytes()


def main(device: str, save: str, *more: str) -> None:
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(0)
    choose_algorithms(deterministic=True, alone=True)
    resident = place(device)
    prepared = prepare(SPEC, resident, num_classes=CLASSES, stack=1)
    shelf, path = Shelf(), Path(save)
    said = {"whole": ended(prepared, resident, shelf.checkpoints()).digest}
    said |= {"kernels": prepared.kernels, "compiled": str(prepared.compiled)}
    if not more:
        path.with_suffix(".part").write_bytes(shelf.kept[min(shelf.kept)])
        path.with_suffix(".part").rename(path)
    else:
        data = other_process(path)
        for name, content in (("resumed", data), ("disturbed", disturbed(data))):
            run = ended(prepared, resident, Shelf({1: content}).checkpoints(1e9))
            said |= {name: run.digest, "from": str(run.resumed_from)}
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
