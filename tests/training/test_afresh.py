"""Networks of a user's own that would be trained as something else without a word: each is
refused with the name of what is wrong, or trained as plain PyTorch trains it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from small_trials import SMALL, small_data, small_spec, with_settings
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.errors import UsageError
from batchcliff.randomness import derive
from batchcliff.spec import TrialSpec
from batchcliff.training.afresh import seed_generators
from batchcliff.training.epochs import epoch_tensors, train
from batchcliff.training.own import check_own
from batchcliff.training.prepare import Prepared, prepare
from batchcliff.training.trial import rates
from batchcliff.workloads import OWN_MODEL

SHAPE, CLASSES, LR, MOMENTUM = (8, 8, 3), 4, 0.05, 0.9
FLAT = 8 * 8 * 3


class Plain(nn.Module):
    """Two layers, which those below change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FLAT, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x.flatten(1)).relu())
        return out


# --- refused, by name ------------------------------------------------------------------------


class Counts(Plain):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x) * (1 + 0.01 * self.passes)


class Mask(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.rand(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.mask


class Listed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(CLASSES, CLASSES)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers[0](super().forward(x))
        return out


class Unseeded(Plain):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            drawn = np.random.default_rng().normal(size=(CLASSES, 6))
            self.b.weight.copy_(torch.tensor(drawn))


class OwnGenerator(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.draw = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.rand(1, generator=self.draw)


class PythonsRandom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.random()


class NumpysRandom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(np.random.rand())


class Later(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(1))
        return super().forward(x) * self.scale


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(3, 3)


class Blind(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Complex(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(CLASSES, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) * self.turn).abs()


class Hooked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.b.bias.register_post_accumulate_grad_hook(lambda p: None)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :CLASSES]


class TwoInEval(Plain):
    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return out if self.training else (out, out)


REFUSED: dict[type[nn.Module], str] = {
    Counts: "every training pass changes passes, which is no buffer",
    Mask: "mask is drawn when the network is built, and is neither",
    Listed: r"layers\[0\].weight is drawn when the network is built, .* nn.ModuleList",
    Unseeded: "two builds with the same seed begin with different b.weight",
    OwnGenerator: "every training pass changes draw, which is no buffer",
    PythonsRandom: "a training pass draws from Python's random",
    NumpysRandom: "a training pass draws from numpy.random",
    Later: "the first pass adds parameters or buffers",
    Unused: "no gradient reaches extra.weight, extra.bias: the forward pass does not use it",
    Blind: "no gradient can come from the network's logits",
    Complex: "the parameter turn is complex",
    Hooked: "the parameter b.bias has a hook for after .grad is accumulated",
    Nothing: "has no parameter that requires a gradient",
    TwoInEval: r"maps images \[4, 3, 8, 8\] in eval\(\) to tuple",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_would_not_be_trained_as_it_stands(kind: type[nn.Module]) -> None:
    with pytest.raises(UsageError, match=f"^--workload: .*{REFUSED[kind]}"):
        check_own(lambda *_: kind(), SHAPE, CLASSES, ["global"])


# --- trained, as by a plain loop --------------------------------------------------------------


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.a.weight.requires_grad_(False)


class Hidden(Plain):
    """A running mean that no state_dict holds."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x.flatten(1))
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
        out: Tensor = self.b((hidden - self.mean).relu())
        return out


class Viewed(nn.Module):
    """As every tutorial has it; of channels-last images `view` is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.first(x).relu().view(-1, 256))
        return out


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class NumpyWeights(Plain):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.b.weight.copy_(torch.tensor(np.random.randn(CLASSES, 6)))
            self.b.bias.fill_(random.random())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FLAT, FLAT), nn.Linear(FLAT, FLAT)
        self.b.weight, self.head = self.a.weight, nn.Linear(FLAT, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.a(x.flatten(1)).relu()).relu())
        return out


class Recurrent(nn.Module):
    """Its weights are in a list of its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(24, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x.transpose(1, 2).flatten(2))[0][:, -1])
        return out


class Observed(Plain):
    """Keeps what it computed to be looked at, and a cache that the first pass fills."""

    cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.a(x.flatten(1)).relu()
        self.cache = torch.linspace(0.5, 1, 6) if self.cache is None else self.cache
        out: Tensor = self.b(self.seen * self.cache)
        return out


class Dropped(Plain):
    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.a(x.flatten(1)).relu(), 0.3, self.training)
        out: Tensor = self.b(hidden)
        return out


class GradientHook(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight.register_hook(lambda gradient: gradient * 0.5)


TRAINED = (
    Frozen, Hidden, Viewed, Lazy, NumpyWeights, Tied, Recurrent, Observed, Dropped,
    GradientHook,
)  # fmt: skip


def spec_of(seed: int) -> TrialSpec:
    settings = with_settings(
        SMALL, model=OWN_MODEL, optimizer__form="torch", optimizer__momentum=MOMENTUM
    )
    return small_spec(settings=settings, batch_size=20, budget="9up", seed=seed, lr=LR)


def data() -> Resident:
    return small_data(train=60, shape=SHAPE)


def losses(prepared: Prepared, seed: int) -> list[float]:
    spec = spec_of(seed)
    prepared.restart([spec], rates([spec], data()))
    found: list[float] = train(prepared, [spec], data(), None)[:, 0].tolist()
    return found


def by_hand(kind: type[nn.Module], seed: int) -> list[float]:
    """The plain loop, on batches that are drawn as the engine draws them."""
    seed_generators(derive(seed, "init") % 2**63)
    network, resident, found = kind(), data(), []
    with torch.no_grad():
        for parameter in network.parameters():
            if torch.nn.parameter.is_lazy(parameter):
                network(torch.zeros(1, 3, 8, 8))
                break
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=MOMENTUM)
    blocks = [epoch_tensors([spec_of(seed)], resident, u, u + 3)[0] for u in (0, 3, 6)]
    for index_B in torch.cat(blocks)[..., 0].long():
        images = resident.train_images[index_B].permute(0, 3, 1, 2).float() * resident.scale
        logits = network(images.contiguous())
        loss = nn.functional.cross_entropy(logits, resident.train_labels[index_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", TRAINED, ids=lambda kind: kind.__name__)
def test_every_trial_is_that_of_a_plain_loop(kind: type[nn.Module]) -> None:
    """Also the second one of a worker, which has built its network for the first."""
    check_own(lambda *_: kind(), SHAPE, CLASSES, ["global"])
    prepared = prepare(
        spec_of(0), data(), num_classes=CLASSES, stack=1, user_build=lambda *_: kind()
    )
    for seed in (0, 1):
        expected = by_hand(kind, seed)
        assert len(expected) == 9 and expected[0] != expected[-1]
        assert losses(prepared, seed) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("kind", [Counts, Mask, Listed])
def test_control_unchecked_the_second_trial_is_another_one(kind: type[nn.Module]) -> None:
    """What the check refuses does differ, so that the comparison above can fail."""
    prepared = prepare(
        spec_of(0), data(), num_classes=CLASSES, stack=1, user_build=lambda *_: kind()
    )
    losses(prepared, 0)
    second = losses(prepared, 1)
    assert second != pytest.approx(by_hand(kind, 1), rel=1e-4)
