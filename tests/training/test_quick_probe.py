"""A probe before any study, in this process: against closed forms and the definition."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trials import CLASSES, SMALL, small_data, small_spec, with_settings
from torch import nn

from batchcliff.data.resident import Resident
from batchcliff.host import host_room
from batchcliff.spec import Decay, Model, Optimizer, TrialSpec
from batchcliff.stats.predictions import noise_scale, stable_lr
from batchcliff.training import quick_probe
from batchcliff.training.probe_readings import Ended, Place, Reading, Room, Speed
from batchcliff.training.quick_probe import places, speeds
from batchcliff.workloads import NOISY_QUADRATIC
from batchcliff.workloads.noisy_quadratic import NUM_TRAIN, QUADRATIC, network
from batchcliff.workloads.noisy_quadratic import dataset as quadratic_data
from batchcliff.workloads.quadratic_truth import Heavy, divergence_rate

QUADRATIC_SPEC = TrialSpec(
    workload="noisy-quadratic", data="noisy-quadratic-data", data_digest="0" * 64, arm="none",
    techniques=(), settings=NOISY_QUADRATIC.settings, batch_size=64, lr=0.56,
    decay=Decay(kind="constant"), budget="3ep", seed=0,
)  # fmt: skip
OWN = with_settings(SMALL, model=Model(name="own", widths=()))


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network without batch norm, so that an example has a gradient of its own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


@functools.cache
def quadratic_places() -> tuple[Reading, ...]:
    resident = Resident.of(quadratic_data())
    return tuple(
        places(QUADRATIC_SPEC, resident, num_classes=2, user_build=network, seconds=3600.0)
    )


def expected_square(updates: int) -> float:
    """E |G|^2 = sum h^2 E w^2 after updates of independent examples, from the definition.

    Blocks of different examples know |G|^2 less tr(Sigma) / N: the training set is the whole
    population, and its mean is exact.
    """
    rule, total = Heavy(0.9), 0.0
    for h, c, w in zip(QUADRATIC.curvatures, QUADRATIC.noise, QUADRATIC.start, strict=True):
        M, b = rule.transition(0.56, np.array([h]))
        state, spread = np.array([w, 0.0]), np.zeros((2, 2))
        for _ in range(updates):
            state = M[0] @ state
            spread = M[0] @ spread @ M[0].T + np.outer(b, b) * c / 64
        total += h * h * (state[0] ** 2 + spread[0, 0])
    return total - sum(QUADRATIC.noise) / NUM_TRAIN


def test_the_quadratic_at_its_start_is_known_exactly() -> None:
    start = quadratic_places()[0]
    assert isinstance(start, Place) and (start.update, start.lr) == (0, 0.56)
    assert len(start.trace) == quick_probe.NOISE_BLOCKS
    found = noise_scale(start.trace, start.square)
    truth = sum(QUADRATIC.noise) / expected_square(0)
    assert found.covers(truth) and not found.covers(1.5 * truth)
    assert found.value == pytest.approx(truth, rel=0.1)


def test_the_largest_stable_rate_is_that_of_the_derivation() -> None:
    """h is the Hessian of every example, so nothing is left to chance."""
    for place in quadratic_places()[:2]:
        assert isinstance(place, Place)
        found = stable_lr(Optimizer(momentum=0.9), place.sharpness)
        assert found.value == pytest.approx(divergence_rate(QUADRATIC, 0.9), rel=0.005)


def test_the_noise_scale_after_the_short_run_is_that_of_the_truth() -> None:
    """Of one run, while the truth is the mean over runs: 64 coordinates, so 18% or so."""
    _, place, ended = quadratic_places()
    assert isinstance(place, Place) and ended == Ended(reason="all", update=place.update)
    assert place.update == quick_probe.FEWEST_UPDATES  # more than a tenth of 96 updates
    truth = sum(QUADRATIC.noise) / expected_square(place.update)
    value = noise_scale(place.trace, place.square).value
    assert value == pytest.approx(truth, rel=0.5)
    assert truth > 4 * sum(QUADRATIC.noise) / expected_square(0)  # so it can fail


def test_the_noise_scale_of_an_own_network_covers_the_definition() -> None:
    data = small_data(train=640)
    spec = small_spec(settings=OWN, batch_size=16, budget="4ep", lr=0.01)
    found = [*places(spec, data, num_classes=CLASSES, user_build=linear, seconds=3600.0)]
    place = found[0]
    assert isinstance(place, Place)
    torch.manual_seed(quick_probe_seed(spec))
    net = linear((8, 8, 1), CLASSES)
    images = data.train_images.permute(0, 3, 1, 2).float() / 255
    rows = []
    for image, label in zip(images, data.train_labels, strict=True):
        loss = nn.functional.cross_entropy(net(image[None]), label[None])
        grads = torch.autograd.grad(loss, list(net.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    gradients = torch.stack(rows).double()
    trace = float(gradients.var(0).sum())
    square = float(gradients.mean(0).square().sum()) - trace / len(gradients)
    assert np.mean(place.trace) == pytest.approx(trace, rel=0.15)
    assert noise_scale(place.trace, place.square).covers(trace / square)


def quick_probe_seed(spec: TrialSpec) -> int:
    """What a network of the user's own is initialised from."""
    from batchcliff.randomness import derive

    return derive(spec.seed, "init") % 2**63


def test_a_short_run_that_diverges_says_where() -> None:
    spec = small_spec(settings=OWN, lr=3e38)
    found = [
        *places(spec, small_data(), num_classes=CLASSES, user_build=linear, seconds=3600.0)
    ]
    assert isinstance(found[0], Place) and len(found) == 2
    ended = found[1]
    assert isinstance(ended, Ended) and ended.reason == "diverged" and 0 < ended.update < 4


def test_a_short_run_that_does_not_learn_says_so() -> None:
    spec = small_spec(settings=OWN, lr=1e6)
    *_, ended = places(
        spec, small_data(), num_classes=CLASSES, user_build=linear, seconds=3600.0
    )
    assert isinstance(ended, Ended) and ended.words.startswith("its loss rose from 1.")
    spec = small_spec(settings=OWN, lr=0.01)
    *_, ended = places(
        spec, small_data(), num_classes=CLASSES, user_build=linear, seconds=3600.0
    )
    assert isinstance(ended, Ended) and ended.words == ""


def test_a_slow_network_is_measured_on_fewer_examples() -> None:
    """Of 256 examples, at a millisecond each, in 0.1 s: 64, and 8 however slow it is."""
    assert quick_probe._affordable(256, 0.1, 0.001) == 64
    assert quick_probe._affordable(256, 1.0, 0.001) == 256
    assert quick_probe._affordable(256, 0.1, 10.0) == 8
    data = small_data(train=640)
    spec = small_spec(settings=OWN, batch_size=16, budget="4ep", lr=0.01)
    hurried = [*places(spec, data, num_classes=CLASSES, user_build=linear, seconds=0.0)]
    assert isinstance(hurried[0], Place) and isinstance(hurried[-1], Ended)
    assert (hurried[0].noise_examples, hurried[0].sharpness_examples) == (16, 8)
    assert len(hurried[0].trace) == quick_probe.FEWEST_BLOCKS
    assert hurried[-1].reason == "time"


def sizes(*batch_sizes: int, **changes: Any) -> list[TrialSpec]:
    return [small_spec(batch_size=size, **changes) for size in batch_sizes]


def timed(specs: list[TrialSpec], seconds: float = 3600.0) -> list[Reading]:
    found = speeds(specs, small_data(), num_classes=CLASSES, user_build=None, seconds=seconds)
    return [*found]


def test_every_batch_size_is_timed_and_no_weight_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    prepare = quick_probe.prepare

    def kept(*args: Any, **options: Any) -> Any:
        made.append(prepare(*args, **options))
        return made[-1]

    monkeypatch.setattr(quick_probe, "prepare", kept)
    monkeypatch.setattr(quick_probe, "SECONDS_EACH", 0.01)
    found = timed(sizes(8, 16, 40))
    assert isinstance(found[0], Room) and found[0].of == "host"
    assert found[-1] == Ended(reason="all")
    rows = [r for r in found if isinstance(r, Speed)]
    assert [r.batch_size for r in rows] == [8, 16, 40]
    assert all(r.rate > 0 and math.isfinite(r.rate) and r.updates >= 10 for r in rows)
    for prepared in made:
        before = [p.detach().clone() for p in prepared.loop.parameters]
        prepared.model.initialise(SMALL.model.init, [0])
        pairs = zip(before, prepared.loop.parameters, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_what_would_take_too_long_or_too_much_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pretended(peak_of: dict[int, int], preparing: float, timing: float) -> Any:
        def speed(spec: TrialSpec, *_: object) -> tuple[Speed, float, float]:
            size = spec.batch_size
            found = Speed(batch_size=size, rate=1e9, updates=2, peak=peak_of[size])
            return found, preparing, timing * size / 8

        return speed

    peaks = {8: 1_000, 16: 2_000, 32: 4_000}
    monkeypatch.setattr(quick_probe, "_speed", pretended(peaks, 0.0, 0.0))
    roomy = Room(limit=4_400, of="host", device="")
    monkeypatch.setattr(quick_probe, "room", lambda _: roomy)
    assert timed(sizes(8, 16, 32))[-1] == Ended(reason="memory", batch_size=32)
    monkeypatch.setattr(quick_probe, "room", lambda _: dataclasses.replace(roomy, limit=4_500))
    assert timed(sizes(8, 16, 32))[-1] == Ended(reason="all")
    gpu = dataclasses.replace(roomy, of="GPU")  # which may be asked by trying
    monkeypatch.setattr(quick_probe, "room", lambda _: gpu)
    assert timed(sizes(8, 16, 32))[-1] == Ended(reason="all")
    assert timed(sizes(8, 16, 32), seconds=0.0)[-1] == Ended(reason="time", batch_size=16)
    # Preparing costs the same at every size, timings grow with it: 10 + 2 * 10 hours are
    # foreseen for 16 and 10 + 2 * 20 for 32, of 40.
    hour = 3600.0
    monkeypatch.setattr(quick_probe, "_speed", pretended(peaks, 10 * hour, 10 * hour))
    assert timed(sizes(8, 16, 32), 40 * hour)[-1] == Ended(reason="time", batch_size=32)
    monkeypatch.setattr(quick_probe, "_speed", pretended(peaks, 30 * hour, hour))
    assert timed(sizes(8, 16, 32), 40 * hour)[-1] == Ended(reason="all")


def test_the_pace_is_that_of_a_block_that_takes_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight examples take a GPU as long as hundreds: by them nothing would be affordable."""
    now = [0.0]

    class Block:
        def __init__(self, count: int) -> None:
            self.count = count

        def noise(self) -> torch.Tensor:
            now[0] += 0.02 + 1e-4 * self.count  # a fixed cost, and a true one
            return torch.zeros(2)

    monkeypatch.setattr(quick_probe, "examples_of_a_probe", lambda _: 256)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(
        quick_probe, "_blocks", lambda p, s, r, blocks, count: [Block(count)] * blocks
    )
    resident: Any = Resident.of(quadratic_data(), "cpu")
    spec: Any = None
    pace = quick_probe._pace(spec, spec, resident)
    assert pace == pytest.approx((0.02 + 1e-4 * 256) / 256)  # not 0.0014, as 16 examples say


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch._dynamo.config.patch(disable=True)  # as in a probe's process
def test_a_gpu_says_how_much_memory_it_has_and_what_a_batch_takes() -> None:
    resident = Resident.of(quadratic_data(), "cuda")
    batches = [dataclasses.replace(QUADRATIC_SPEC, batch_size=size) for size in (64, 2048)]
    options: dict[str, Any] = {"num_classes": 2, "user_build": network, "seconds": 60.0}
    first, small, large, ended = speeds(batches, resident, **options)
    assert isinstance(first, Room) and first.of == "GPU" and (first.limit or 0) > 1e9
    assert isinstance(small, Speed) and isinstance(large, Speed)
    assert (large.peak or 0) > (small.peak or 0) > 0 and ended == Ended(reason="all")
    start = next(places(QUADRATIC_SPEC, resident, **options))
    assert isinstance(start, Place)
    truth = sum(QUADRATIC.noise) / expected_square(0)
    assert noise_scale(start.trace, start.square).covers(truth)


def pretended_system(folder: Path, **cgroup: str) -> tuple[Path, Path]:
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (proc / "self" / "status").write_text("Name: x\nVmHWM:\t 300 kB\nVmRSS:\t 100 kB\n")
    for name, text in cgroup.items():
        (folder / f"memory.{name}").write_text(text)
    return proc, folder


@pytest.mark.parametrize(
    ("cgroup", "kilobytes"),
    [
        ({}, 5100),
        ({"max": "max\n", "current": "1024\n"}, 5100),
        ({"max": "2048000\n", "current": "1024000\n"}, 1100),
    ],
)
def test_the_host_has_what_is_available_within_its_container(
    tmp_path: Path, cgroup: dict[str, str], kilobytes: int
) -> None:
    assert host_room(*pretended_system(tmp_path, **cgroup)) == kilobytes * 1024


def test_a_system_that_does_not_say_has_no_limit(tmp_path: Path) -> None:
    assert host_room(tmp_path, tmp_path) is None
