"""Networks of a user's own whose passes no graph can hold: they run as they are, and say so."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from test_afresh import CLASSES, Frozen, Plain, Viewed, by_hand, data, losses, spec_of
from test_compiled import on_gpu
from torch import Tensor, nn

from batchcliff.training.capturable import uncapturable, uncompilable
from batchcliff.training.prepare import prepare

prepare_module: Any = sys.modules[prepare.__module__]


class Branches(Plain):
    """What it computes depends on a value that only the device knows."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 2 if out.mean() > 0 else out


class FakeModes:
    """torch.cuda's debug mode on a machine without a GPU."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.mode = 0
        patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        patch.setattr(torch.cuda, "set_sync_debug_mode", self.set)

    def set(self, mode: int | str) -> None:
        self.mode = {"error": 2}.get(mode, mode)  # type: ignore[arg-type, assignment, call-overload]


def test_a_pass_that_waits_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    modes, weight = FakeModes(monkeypatch), torch.ones(2)

    def update(words: str = "") -> None:
        weight.zero_()
        assert modes.mode == 2
        if words:
            raise RuntimeError(words)

    said = uncapturable(lambda: update("called a synchronizing CUDA operation"), [weight])
    assert said.startswith("not captured (a pass waits for the device")
    assert uncapturable(update, [weight]) == ""
    with pytest.raises(RuntimeError, match="another"):
        uncapturable(lambda: update("another"), [weight])
    assert (modes.mode, weight.tolist()) == (0, [1, 1])


def test_what_the_compiler_does_not_take() -> None:
    weight = torch.ones(2)

    def update(error: Exception) -> None:
        weight.zero_()
        raise error

    unsupported = torch._dynamo.exc.Unsupported("no such thing\nand more")
    said = uncompilable(lambda: update(unsupported), [weight])
    assert said == "not compiled (Unsupported: no such thing)"
    with pytest.raises(torch.OutOfMemoryError):
        uncompilable(lambda: update(torch.OutOfMemoryError("none left")), [weight])
    assert uncompilable(lambda: None, [weight]) == ""
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("obstacle", ["", "not captured (why)"])
def test_it_runs_as_it_is_and_the_record_says_so(
    obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a GPU, its compiler and its graphs left out."""
    graphs: list[Any] = []

    def captured(function: Any, *_: object) -> Any:
        graphs.append(function)
        return function

    monkeypatch.setattr(prepare_module, "compiles", lambda _: True)
    monkeypatch.setattr(prepare_module, "captured", captured)
    monkeypatch.setattr(prepare_module, "_compile", lambda *_: None)
    monkeypatch.setattr(prepare_module, "uncompilable", lambda *_: "")
    monkeypatch.setattr(prepare_module, "uncapturable", lambda *_: obstacle)
    prepared = prepare(
        spec_of(0), data(), num_classes=CLASSES, stack=1, user_build=lambda *_: Branches()
    )
    assert len(graphs) == (0 if obstacle else 2)
    own = "plain: no kernels for cpu"
    assert prepared.kernels == "; ".join(filter(None, [own, obstacle]))
    assert losses(prepared, 0) == pytest.approx(by_hand(Branches, 0), rel=2e-6)


def test_the_record_says_which_layout_the_images_have() -> None:
    prepared = prepare(
        spec_of(0), data(), num_classes=CLASSES, stack=1, user_build=lambda *_: Viewed()
    )
    assert prepared.kernels.endswith("; images not channels-last (it views them)")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [Branches, Viewed, Frozen, Plain], ids=lambda k: k.__name__)
def test_on_a_gpu_they_train_as_on_a_cpu(kind: type[nn.Module]) -> None:
    prepared = prepare(
        spec_of(0), on_gpu(data()), num_classes=CLASSES, stack=1, user_build=lambda *_: kind()
    )
    assert ("not captured" in prepared.kernels) == (kind is Branches)
    for seed in (0, 1):
        assert losses(prepared, seed) == pytest.approx(by_hand(kind, seed), rel=1e-3)
