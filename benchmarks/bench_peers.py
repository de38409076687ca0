"""Our number, the peers', the floor, and their ratios, in one run on one device.

    python benchmarks/bench_peers.py --json FILE

On a CUDA device the article's network on 50,000 random images, on a CPU that of `digits`; no
data set is needed, since speed does not depend on what the pixels show. Ours is a trial as a
study runs it: augmentation, batch norm in groups, a test after every epoch, and on a CPU four
seeds side by side. The peers train the same architecture as people write it, without tests:

* `DataLoader`: a Dataset of single images with crop and flip, worker processes, autocast.
* `compiled PyTorch`: torch.compile, bfloat16 autocast, channels-last, the data and their order
  on the device, one captured graph an update, no augmentation. On a CPU it is not compiled.
* `Keras 3`: compile and fit on arrays, no augmentation, on JAX if it is there; --keras names a
  Python that has it, if this one has not. Left out, and said, where there is none.

The floor is the time that the device needs for the arithmetic of an update or for the bytes of
a fully fused one, whichever is longer, at the rates that its own matrix product and copy reach
in this run. One process an engine, one after the other, whole epochs, the first left out; on
a CPU one core each, and the seconds that it computed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from floor import CLASSES, SHAPES, WIDTHS, clock_of, floor, measured_rates, wait

TRAIN = {"cuda": 50_000, "cpu": 1_024}
SIZES = {"cuda": (128, 1_024, 8_192), "cpu": (32, 128, 512)}
LR, MOMENTUM = 0.01, 0.9
OURS, KERAS = "batchcliff", "Keras 3"
Epoch = Callable[[], int]  # trains on some examples; how many, once the device has done it


# --- engines: each yields, for one batch size, a function that trains an epoch ---------------


def epochs_of_ours(device: str, size: int, seconds: float) -> float:
    """Examples per second of whole epochs of a trial, with its tests."""
    import torch
    from bench_training import measure, random_data

    from batchcliff.study.jobs import STACK
    from batchcliff.training.deterministic import choose_algorithms
    from batchcliff.workloads import ARTICLE, DIGITS

    choose_algorithms(deterministic=False, alone=True)
    cuda = device == "cuda"
    torch.set_num_threads(torch.get_num_threads() if cuda else 1)
    data = random_data(SHAPES[device], TRAIN[device], TRAIN[device] // 5, device)
    rate, _ = measure(
        ARTICLE if cuda else DIGITS, data, size, 1 if cuda else STACK,
        epochs=max(3, round(seconds * (150_000 if cuda else 2_500) / TRAIN[device])),
        clock=clock_of(device),
    )  # fmt: skip
    return rate


def dataloader(device: str, size: int) -> Epoch:
    """The loop of the tutorials."""
    import numpy as np
    import torch

    torch.backends.cudnn.benchmark = True
    images, labels = _arrays(device)
    height, width, _ = SHAPES[device]
    cuda = device == "cuda"

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, i: int) -> Any:
            padded = np.pad(images[i], ((4, 4), (4, 4), (0, 0)))
            top, left, flip = np.random.randint(0, (9, 9, 2))
            image = padded[top : top + height, left : left + width, :]
            image = image[:, ::-1] if flip else image
            return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255, labels[i]

    workers = len(os.sched_getaffinity(0)) if cuda else 0
    loader = torch.utils.data.DataLoader(
        Images(), size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=cuda,
        persistent_workers=workers > 0,
    )  # fmt: skip
    net = torch_net(device)
    optimizer = torch.optim.SGD(net.parameters(), LR, momentum=MOMENTUM)

    def epoch() -> int:
        seen = 0
        for images_BCHW, labels_B in loader:
            x = images_BCHW.to(device, non_blocking=True)
            with torch.autocast(device, torch.bfloat16, enabled=cuda):
                logits = net(x.to(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels_B.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(x)
        wait(device)
        return seen

    return epoch


def compiled(device: str, size: int) -> Epoch:
    """What is fast and still short: everything on the device, one launch an update."""
    import torch
    import torch.nn.functional as F

    from batchcliff.training.compiled import captured, compiles

    torch.backends.cudnn.benchmark = True
    arrays = _arrays(device)
    images, labels = (torch.from_numpy(array).to(device) for array in arrays)
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    net, cuda = torch_net(device), device == "cuda"
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, LR, momentum=MOMENTUM, fused=cuda)
    for p in parameters:
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    index_B = torch.zeros(size, dtype=torch.int64, device=device)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            logits = net(images[index].float() / 255)
        return F.cross_entropy(logits.float(), labels[index])

    compile_: Any = torch.compile
    of = compile_(loss_of, dynamic=False) if compiles(torch.device(device)) else loss_of

    def update() -> None:
        found = torch.autograd.grad(of(index_B), parameters)
        for p, gradient in zip(parameters, found, strict=True):
            p.grad = gradient
        optimizer.step()

    advance = captured(update, [*parameters, *net.buffers()], torch.device(device))

    def epoch() -> int:
        order = torch.randperm(len(labels), device=device)
        count = len(labels) // size
        for at in range(0, count * size, size):
            index_B.copy_(order[at : at + size])
            advance()
        wait(device)
        return count * size

    return epoch


def keras_fit(device: str, size: int) -> Epoch:
    """`fit` on arrays."""
    import keras
    import numpy as np
    from keras import layers

    if device == "cuda":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images, labels = _arrays(device)
    x = start = layers.Input(SHAPES[device])
    blocks = WIDTHS[device]
    for number, block in enumerate(blocks):
        for channels in block:
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.Activation("relu")(layers.BatchNormalization()(x))
        last = number + 1 == len(blocks)
        x = (layers.GlobalAveragePooling2D() if last else layers.AveragePooling2D(2))(x)
    net = keras.Model(start, layers.Dense(CLASSES, activation="softmax", dtype="float32")(x))
    net.compile(keras.optimizers.SGD(LR, MOMENTUM), "categorical_crossentropy")
    count = len(labels) // size * size
    x_train = images[:count].astype("float32") / 255
    y_train = np.eye(CLASSES, dtype="float32")[labels[:count]]

    def epoch() -> int:
        told = net.fit(x_train, y_train, batch_size=size, epochs=1, verbose=0)
        if not np.isfinite(told.history["loss"][-1]):  # so that it has been trained, by now
            raise RuntimeError(f"batch {size}: a loss of {told.history['loss'][-1]}")
        return count

    return epoch


PEERS: dict[str, Callable[[str, int], Epoch]] = {
    "DataLoader": dataloader,
    "compiled PyTorch": compiled,
    KERAS: keras_fit,
}


def _arrays(device: str) -> tuple[Any, Any]:
    """Random images uint8 [N, H, W, C] and labels int64 [N]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (TRAIN[device], *SHAPES[device])
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, CLASSES, TRAIN[device])


def torch_net(device: str) -> Any:
    """The architecture in PyTorch's own layers."""
    import torch
    from torch import nn

    previous, layers = SHAPES[device][2], []
    for number, block in enumerate(WIDTHS[device]):
        for channels in block:
            layers += [nn.Conv2d(previous, channels, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            previous = channels
        last = number + 1 == len(WIDTHS[device])
        layers.append(nn.AdaptiveAvgPool2d(1) if last else nn.AvgPool2d(2))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous, CLASSES))
    torch.set_num_threads(torch.get_num_threads() if device == "cuda" else 1)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


# --- one run ---------------------------------------------------------------------------------


def rate_of(epoch: Epoch, seconds: float, clock: Callable[[], float]) -> float:
    """Examples per second over whole epochs, for at least so long, the first left out."""
    epoch()
    begin, seen = clock(), 0
    while (spent := clock() - begin) < seconds or not seen:
        seen += epoch()
    return seen / spent


def one(engine: str, device: str, sizes: list[int], seconds: float) -> None:
    """A process' share: a line of JSON for each batch size, and the versions first. On a CPU
    it has one core, whatever its libraries would take."""
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if engine == KERAS:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras

        print(json.dumps(f"{keras.__version__}, {keras.backend.backend()}"), flush=True)
    else:
        import torch

        print(json.dumps(torch.__version__), flush=True)
    for size in sizes:
        if engine == OURS:
            rate = epochs_of_ours(device, size, seconds)
        else:
            rate = rate_of(PEERS[engine](device, size), seconds, clock_of(device))
        print(json.dumps(rate), flush=True)


def run(
    engine: str,
    python: str,
    device: str,
    sizes: list[int],
    seconds: float,
    measured: Callable[[int, float], None],
) -> str:
    """Versions, and why there is less than asked for; `measured` is told examples per second
    of a batch size as soon as they are known.

    A process for all sizes, and where it fails, another for those that are left. RuntimeError
    where ours fails.
    """
    told: list[str] = []
    left = list(sizes)
    while left:
        command = [python, __file__, "--one", engine, device, ",".join(map(str, left))]
        command += ["--seconds", str(seconds)]
        version = ""
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
        ):
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    if version:
                        measured(left.pop(0), json.loads(line))
                    else:
                        version = json.loads(line)
                status = child.wait()
            finally:
                child.kill()  # where we are asked to end, too
            errors.seek(0)
            said = errors.read()
        told += [version] if version and version not in told else []
        if left:
            why = said.strip().splitlines() or [f"ended with {status}"]
            if engine == OURS:
                raise RuntimeError(f"{engine}: {said[-2000:]}")
            if not version:  # it is not there
                return "; ".join([*told, f"left out: {why[-1]}"])
            told.append(f"{left.pop(0)} left out: {why[-1]}")
    return "; ".join(told)


def rows_of(
    found: dict[str, dict[int, float]], limit: float, common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Ours with the floor and the ratios, then the peers', for each batch size."""
    peers = {name: rates for name, rates in found.items() if name != OURS}
    for size, rate in found[OURS].items():
        best = max((rates[size] for rates in peers.values() if size in rates), default=None)
        yield {
            "batch_size": size, "examples_per_second": round(rate), "floor": round(limit),
            "ratio_to_floor": round(rate / limit, 3),
            "ratio_to_fastest_peer": None if best is None else round(rate / best, 2), **common,
        }  # fmt: skip
        for name, rates in peers.items():
            if size in rates:
                yield {
                    "batch_size": size, "examples_per_second": round(rates[size]),
                    "peer": name, **common,
                }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", default="")
    parser.add_argument("--seconds", type=float, default=0.0, help="at least, a measurement")
    parser.add_argument("--keras", default=sys.executable, help="a Python that has Keras")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        engine, device, sizes = chosen.one
        one(engine, device, [int(s) for s in sizes.split(",")], chosen.seconds)
        return 0
    import torch

    from batchcliff.provenance import code_name, utc_now
    from batchcliff.training.precision import device_name

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [int(s) for s in chosen.batch_sizes.split(",") if s] or list(SIZES[device])
    seconds, name = chosen.seconds or 3.0, device_name(torch.device(device))
    rates = measured_rates(device)
    limit = floor(device, rates)
    print(
        f"{name}: matrix product {rates[0] / 1e12:.3g} TFLOP/s, copy {rates[1] / 1e9:.3g} "
        f"GB/s; floor {limit:,.0f} examples/s"
    )
    common = {
        "device": name, "torch": torch.__version__, "code": code_name(),
        "what": f"network of {'article' if device == 'cuda' else 'digits, one core, CPU time'}",
        "cores": len(os.sched_getaffinity(0)), "date": utc_now()[:10],
    }  # fmt: skip
    found: dict[str, dict[int, float]] = {}
    for engine in (OURS, *PEERS):
        python = chosen.keras if engine == KERAS else sys.executable
        rates_of_it = found.setdefault(engine, {})

        def keep(size: int, rate: float, rates: dict[int, float] = rates_of_it) -> None:
            rates[size] = rate
            if chosen.json:  # each at once: what is there stays if a later one fails or hangs
                rows = list(rows_of(found, limit, common))
                chosen.json.write_text(json.dumps(rows, indent=1) + "\n")

        versions = run(engine, python, device, sizes, seconds, keep)
        print(f"{engine} ({versions})", flush=True)
    for row in rows_of(found, limit, common):
        line = f"batch {row['batch_size']:>5}  {row['examples_per_second']:>9,} examples/s  "
        if peer := row.get("peer"):
            print(f"{line}{peer}")
            continue
        ratio = row["ratio_to_fastest_peer"]
        print(
            f"{line}{OURS}: {f'{ratio:.2f} of the fastest peer, ' if ratio else ''}"
            f"{row['ratio_to_floor']:.0%} of the floor"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
