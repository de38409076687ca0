"""Any model: the engine on networks of a user's own, against plain compiled PyTorch.

    python benchmarks/bench_models.py --json FILE

ResNet-18 (32 px), ResNet-50 (64 px), a small ViT (64 px) and a GPT on bytes, each trained by
batchcliff as `run --workload` would, and by a loop as one writes it by hand: torch.compile,
bf16 autocast, channels-last, torch.optim.SGD (fused), one captured graph an update, the data
and every epoch's order on the device already. Same initial weights, same order, so the losses
of the first updates are held against each other. On random images: speed does not depend on
what they show. On a CPU neither is compiled, the networks are tiny, and what counts are seconds
that the process computed.

Every network and engine is a process of its own: all compile at once, then they are timed
one after the other, the median epoch, the first and the last left out, no evaluation between.
--limit: seconds after which what is still compiling is left out; the file has each network
as soon as both of its engines are timed, so that a run that is cut loses no more than the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_training import random_data
from floor import clock_of
from networks import Gpt, ResNet, ViT
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.provenance import code_name, utc_now
from batchcliff.randomness import derive
from batchcliff.spec import BatchNorm, Decay, Optimizer, Settings, TrialSpec
from batchcliff.training.compiled import captured, compiles
from batchcliff.training.deterministic import choose_algorithms
from batchcliff.training.epochs import epoch_tensors, train
from batchcliff.training.precision import device_name, precision
from batchcliff.training.prepare import prepare
from batchcliff.training.trial import rates

CLASSES, LR, MOMENTUM, SEED = 10, 0.01, 0.9, 0
COMPARED = 10  # updates whose losses are held against each other
# Relative difference of those losses. Both round activations to bfloat16 (8 bits), at other
# places, as other kernels are fused; in float32 on a CPU they do the same arithmetic. How far
# rounding alone drives a network apart is measured: the loop by hand, compiled and not.
TOLERANCE = {"bf16": 0.02, "fp32": 1e-5}
ENGINES = ("batchcliff", "plain compiled PyTorch")

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, the images it is trained on, and how much of it is timed."""

    build: Callable[[Shape, int], nn.Module]
    shape: Shape  # (H, W, C)
    batch_size: int
    num_train: int
    epochs: int  # of which the first and the last are not timed


def resnet18(shape: Shape, classes: int) -> nn.Module:
    return ResNet(shape[2], classes, blocks=(2, 2, 2, 2), bottleneck=False, large=False)


def resnet50(shape: Shape, classes: int) -> nn.Module:
    return ResNet(shape[2], classes, blocks=(3, 4, 6, 3), bottleneck=True, large=True)


def vit_small(shape: Shape, classes: int) -> nn.Module:
    return ViT(shape, classes, patch=8, width=384, depth=12, heads=6)


def gpt(shape: Shape, classes: int) -> nn.Module:
    return Gpt(shape, classes, width=512, depth=6, heads=8)


LARGE = {
    "ResNet-18 at 32 px": Case(
        build=resnet18, shape=(32, 32, 3), batch_size=512, num_train=20_480, epochs=6
    ),
    "ResNet-50 at 64 px": Case(
        build=resnet50, shape=(64, 64, 3), batch_size=512, num_train=20_480, epochs=6
    ),
    "ViT-S/8 at 64 px": Case(
        build=vit_small, shape=(64, 64, 3), batch_size=512, num_train=20_480, epochs=6
    ),
    "GPT on 256 bytes": Case(
        build=gpt, shape=(16, 16, 1), batch_size=256, num_train=10_240, epochs=6
    ),
}

TINY = {
    "ResNet-18 at 32 px": Case(
        build=lambda shape, classes: ResNet(
            shape[2], classes, blocks=(1, 1), bottleneck=False, large=False, width=8
        ),
        shape=(8, 8, 1), batch_size=16, num_train=960, epochs=16,
    ),
    "ResNet-50 at 64 px": Case(
        build=lambda shape, classes: ResNet(
            shape[2], classes, blocks=(1, 1), bottleneck=True, large=True, width=8
        ),
        shape=(16, 16, 3), batch_size=16, num_train=960, epochs=16,
    ),
    "ViT-S/8 at 64 px": Case(
        build=lambda shape, classes: ViT(shape, classes, patch=4, width=16, depth=2, heads=2),
        shape=(8, 8, 1), batch_size=16, num_train=960, epochs=16,
    ),
    "GPT on 256 bytes": Case(
        build=lambda shape, classes: Gpt(shape, classes, width=16, depth=2, heads=2),
        shape=(8, 8, 1), batch_size=16, num_train=960, epochs=16,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one engine did: examples/s, the losses of every update, seconds of preparation;
    those of the first updates without compiling, of the loop by hand."""

    rate: float
    losses: list[float]
    prepared: float
    uncompiled: list[float] | None = None


def trial(case: Case, number_format: str) -> TrialSpec:
    """The trial of a user's network that the engine runs."""
    return TrialSpec(
        workload="own", data="random", data_digest="random", arm="none", techniques=(),
        settings=Settings(
            batch_norm=BatchNorm(group="global", running="mean"),
            optimizer=Optimizer(form="torch", momentum=MOMENTUM),
            loss="logits", augmentation="none", precision=number_format,
            remainder="drop", evaluate_every=0,
        ),
        batch_size=case.batch_size, lr=LR, decay=Decay(kind="constant"),
        budget=f"{case.epochs}ep", seed=SEED,
    )  # fmt: skip


def ours(case: Case, data: Resident, wait: Callable[[], None]) -> Run:
    """Train with batchcliff's engine; `wait` returns when the device is free to be timed."""
    spec = trial(case, number_format(data))
    ready = prepare(spec, data, num_classes=CLASSES, stack=1, user_build=case.build)
    wait()
    ready.restart([spec], rates([spec], data))
    ends: list[tuple[float, int]] = []
    clock = clock_of(data.train_images.device.type)
    losses_US = train(ready, [spec], data, lambda done, _: ends.append((clock(), done)))
    per_epoch = case.num_train // case.batch_size
    whole = {done: at for at, done in ends if done % per_epoch == 0}
    # Without a queue an epoch is told of after the next one has been trained, and the last but
    # one therefore after the evaluation of the whole run.
    late = 2 if data.train_images.device.type == "cuda" else 3
    timed = list(whole.values())[: 1 - late]
    return Run(rate_of(case, timed), losses_US[:, 0].tolist(), ready.seconds)


def rate_of(case: Case, ends: list[float]) -> float:
    """Examples per second of the median epoch between these ends."""
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    return case.num_train // case.batch_size * case.batch_size / seconds


class Plain:
    """The loop by hand: `update` reads its row of the epoch's order by a counter."""

    def __init__(self, case: Case, data: Resident, updates: int) -> None:
        self.data, self.device = data, data.train_images.device
        self.format = number_format(data)
        torch.manual_seed(derive(SEED, "init") % 2**63)  # as the engine seeds a user's network
        model = case.build(case.shape, CLASSES)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters, LR, momentum=MOMENTUM, fused=self.device.type == "cuda"
        )
        for p in self.parameters:  # made now, so that warming up can be undone
            self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        per_epoch = case.num_train // case.batch_size
        self.order_UB = torch.zeros(
            per_epoch, case.batch_size, dtype=torch.int32, device=self.device
        )
        self.losses_U = torch.zeros(updates, device=self.device)
        self.count = torch.zeros((), dtype=torch.int64, device=self.device)
        self.loss_function: Callable[[Tensor], Tensor] = self.loss

    def loss(self, index_B: Tensor) -> Tensor:
        """Mean cross entropy of a batch."""
        images = self.data.train_images[index_B].permute(0, 3, 1, 2).float() * self.data.scale
        logits = self.model(images)
        return F.cross_entropy(logits.float(), self.data.train_labels[index_B])

    def update(self) -> None:
        """One update; nothing comes from the host."""
        row = (self.count % len(self.order_UB)).view(1)
        index_B = self.order_UB.index_select(0, row)[0].long()
        with precision(self.format, self.device):
            loss = self.loss_function(index_B)
        for p, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters), strict=True
        ):
            p.grad = gradient
        self.optimizer.step()
        self.losses_U.index_copy_(0, self.count.view(1), loss.detach().view(1))
        self.count += 1

    def tensors(self) -> list[Tensor]:
        """Everything that an update changes."""
        momenta = [self.optimizer.state[p]["momentum_buffer"] for p in self.parameters]
        state = [*self.parameters, *self.model.buffers(), *momenta]
        return [*state, self.losses_U, self.count]


def plain(case: Case, data: Resident, wait: Callable[[], None]) -> Run:
    """Train with the loop by hand, in the engine's order, all of it on the device before."""
    begin, spec = time.perf_counter(), trial(case, number_format(data))
    per_epoch = case.num_train // case.batch_size
    loop = Plain(case, data, per_epoch * case.epochs)
    orders = [
        epoch_tensors([spec], data, e * per_epoch, (e + 1) * per_epoch)[0][..., 0]
        for e in range(case.epochs)
    ]
    orders = [order_UB.to(loop.device) for order_UB in orders]
    eager = Plain(case, data, COMPARED)
    for update in range(COMPARED):
        eager.order_UB.copy_(orders[update // per_epoch])
        eager.update()
    uncompiled = eager.losses_U.tolist()
    del eager
    advance: Callable[[], None] = loop.update
    if compiles(loop.device):
        compile_: Any = torch.compile
        loop.loss_function = compile_(loop.loss, dynamic=False)
        advance = captured(loop.update, loop.tensors(), loop.device)
    prepared = time.perf_counter() - begin
    wait()
    ends, clock = [], clock_of(loop.device.type)
    for order_UB in orders:
        loop.order_UB.copy_(order_UB)
        for _ in range(per_epoch):
            advance()
        if loop.device.type == "cuda":
            torch.cuda.synchronize()  # once an epoch: a thousandth of its time
        ends.append(clock())
    return Run(rate_of(case, ends[:-1]), loop.losses_U.tolist(), prepared, uncompiled)


def number_format(data: Resident) -> str:
    """bfloat16 where it is fast."""
    return "bf16" if data.train_images.device.type == "cuda" else "fp32"


def difference(losses: list[float], others: list[float], updates: int) -> float:
    """Largest relative difference of the losses of the first `updates` updates; infinite
    where one is no number."""
    pairs = list(zip(losses[:updates], others[:updates], strict=True))
    if any(a != a or b != b for a, b in pairs):
        return float("inf")
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def one(name: str, engine: str, device: str) -> None:
    """A process' share: prepare, say so, wait for a line, time, print the run."""
    torch.set_num_threads(1)
    choose_algorithms(deterministic=False, alone=False)  # as torch does unless told to try them
    case = (LARGE if device == "cuda" else TINY)[name]
    data = random_data(case.shape, case.num_train, 1_000, device)

    def wait() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    found = (ours if engine == ENGINES[0] else plain)(case, data, wait)
    print(json.dumps(dataclasses.astuple(found)), flush=True)


def pairs(
    names: list[str], device: str, limit: float
) -> Iterator[tuple[str, tuple[Run, Run] | None]]:
    """(network, its two runs) in turn: prepared side by side, timed one after the other; None
    for one that is not ready within `limit` seconds. CalledProcessError if one fails."""
    deadline, children = time.monotonic() + limit, {}
    share = max(1, len(os.sched_getaffinity(0)) // (2 * len(names)))
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(share)}
    for name in names:
        for engine in ENGINES:
            command = [sys.executable, __file__, "--one", name, engine, device]
            children[name, engine] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=environment,
            )  # fmt: skip
    try:
        ready = prepared(children, deadline)
        for key, child in children.items():
            if key not in ready:  # not while others are timed
                child.kill()
        for name in names:
            if any((name, engine) not in ready for engine in ENGINES):
                yield name, None
                continue
            us, them = (timed(children[name, engine]) for engine in ENGINES)
            yield name, (us, them)
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def prepared(
    children: dict[tuple[str, str], subprocess.Popen[str]], deadline: float
) -> set[tuple[str, str]]:
    """Those that have said by the deadline that they are ready, or have failed."""
    ready = set()
    with selectors.DefaultSelector() as selector:
        for key, child in children.items():
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ, key)
        while len(ready) < len(children) and (left := deadline - time.monotonic()) > 0:
            for found, _ in selector.select(left):
                selector.unregister(found.fileobj)
                ready.add(found.data)
    return ready


def timed(child: subprocess.Popen[str]) -> Run:
    """Let a process that is ready train. CalledProcessError if it fails."""
    assert child.stdout is not None
    child.stdout.readline()
    out, _ = child.communicate("go\n")
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args)
    return Run(*json.loads(out))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(LARGE), help="some of them")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of compiling")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return 0
    cuda = torch.cuda.is_available()
    cases = LARGE if cuda else TINY
    tolerance, begin = TOLERANCE["bf16" if cuda else "fp32"], time.perf_counter()
    name_of_device = device_name(torch.device("cuda" if cuda else "cpu"))
    rows, differing = [], 0  # differing: or not timed
    for name, runs in pairs(arguments.models, "cuda" if cuda else "cpu", arguments.limit):
        if runs is None:
            print(f"{name:<20} not ready after {arguments.limit:g} s", flush=True)
            differing += 1
            continue
        us, them = runs
        assert them.uncompiled is not None
        apart = difference(us.losses, them.losses, COMPARED)
        rounding = difference(them.uncompiled, them.losses, COMPARED)
        allowed = max(tolerance, 2 * rounding)
        differing += apart > allowed
        verdict = "agree" if apart <= allowed else "DIFFER"
        said = f"{verdict} ({apart:.2g}, of rounding alone {rounding:.2g})"
        print(
            f"{name:<20} batch {cases[name].batch_size:>4}  {us.rate:>9,.0f} examples/s, plain "
            f"{them.rate:>9,.0f}, ratio {us.rate / them.rate:.2f}; losses {said}; prepared in "
            f"{us.prepared:.0f} s, plain {them.prepared:.0f} s",
            flush=True,
        )
        for engine, run in zip(ENGINES, (us, them), strict=True):
            rows.append({
                "batch_size": cases[name].batch_size,
                "examples_per_second": round(run.rate),
                **({} if engine == ENGINES[0] else {"peer": engine}),
                "prepare_seconds": round(run.prepared, 2),
                "loss_difference": apart,
                "loss_difference_of_rounding": rounding,
                "epochs": cases[name].epochs,
                "device": name_of_device,
                "what": f"a user's network, updates alone, {name}",
                "torch": torch.__version__,
                "code": code_name(),
                "cores": len(os.sched_getaffinity(0)),
                "date": utc_now()[:10],
            })  # fmt: skip
        if arguments.json:  # as it stands, lest a run that is cut loses it
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{name_of_device}, torch {torch.__version__}: {time.perf_counter() - begin:.0f} s")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
