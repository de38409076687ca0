"""Operations that are differentiated twice, against PyTorch's own second derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.training import second_derivatives
from batchcliff.training.second_derivatives import KERNEL, batch_norm, differentiated_twice


def wide(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("function", "image", "kernel", "settings"),
    [
        (torch.conv1d, (2, 3, 7), (4, 3, 3), {"padding": 1}),
        (torch.conv2d, (2, 3, 5, 4), (4, 3, 3, 3), {"padding": (1, 0)}),
        (torch.conv2d, (2, 4, 6, 6), (6, 2, 3, 3), {"stride": 2, "groups": 2}),
        (torch.conv2d, (2, 2, 6, 6), (3, 2, 2, 2), {"dilation": 2, "padding": 2}),
        (torch.conv2d, (2, 3, 7, 7), (2, 3, 3, 3), {"stride": (2, 3)}),
        (torch.conv3d, (1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_twice(
    function: Any, image: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any],
    biased: bool,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    inputs = [wide(*image), wide(*kernel), *([wide(kernel[0])] if biased else [])]

    def ours(*tensors: Tensor) -> Tensor:
        with differentiated_twice(nn.Identity()):
            found: Tensor = function(*tensors, **settings)
        return found

    torch.testing.assert_close(ours(*inputs), function(*inputs, **settings))
    assert ours(*inputs).grad_fn.name() != function(*inputs, **settings).grad_fn.name()
    assert gradcheck(ours, inputs) and gradgradcheck(ours, inputs)


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 3), (6, 2, 2, 3), (4, 1, 2, 2, 2)])
@pytest.mark.parametrize("group", [2, 0])
def test_a_batch_norm_twice(shape: tuple[int, ...], group: int) -> None:
    """eps is as large as the variance, so that no term of it can be missing."""
    torch.manual_seed(1)
    inputs = [wide(*shape), wide(shape[1]), wide(shape[1])]
    group = group or shape[0]

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(x, weight, bias, group, 0.7)

    parts = [
        torch.nn.functional.batch_norm(part, None, None, *inputs[1:], training=True, eps=0.7)
        for part in inputs[0].split(group)
    ]
    torch.testing.assert_close(ours(*inputs), torch.cat(parts))
    assert gradcheck(ours, inputs) and gradgradcheck(ours, inputs)


def network(kind: str) -> nn.Module:
    torch.manual_seed(2)
    norm: Callable[[], nn.Module] = {
        "torch": lambda: nn.BatchNorm2d(4),
        "one group": lambda: GhostBatchNorm2d(4, 8),
        "groups": lambda: GhostBatchNorm2d(4, 4),
        "rest": lambda: GhostBatchNorm2d(4, 3),
    }[kind]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), norm(), nn.Tanh(), nn.Conv2d(4, 4, 3, padding="same"),
        norm(), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    ).double()  # fmt: skip


def second(model: nn.Module, x: Tensor, y: Tensor, context: Any) -> list[Tensor]:
    """The Hessian's product with a fixed vector."""
    parameters = list(model.parameters())
    with context:
        loss = nn.functional.cross_entropy(model(x), y)
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        draw = torch.Generator().manual_seed(3)
        along = [torch.randn(g.shape, generator=draw, dtype=g.dtype) for g in first]
        return list(torch.autograd.grad(first, parameters, along))


@pytest.mark.parametrize("kind", ["torch", "one group", "groups", "rest"])
def test_a_network_has_the_same_curvature_and_keeps_its_statistics(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(kind).train()
    x, y = torch.randn(8, 3, 4, 4).double(), torch.randint(5, (8,))
    used: list[str] = []
    for name in ("_BatchNormGradient", "_Partial"):
        one = getattr(second_derivatives, name)
        backward = one.backward

        def noted(ctx: Any, *along: Any, name: str = name, backward: Any = backward) -> Any:
            if getattr(ctx, "by", KERNEL) == KERNEL:  # of the gradient to the kernels
                used.append(name)
            return backward(ctx, *along)

        monkeypatch.setattr(one, "backward", staticmethod(noted))
    plain = second(model, x, y, contextlib.nullcontext())
    assert not used
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = second(model, x, y, differentiated_twice(model))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    # A last, smaller group stays PyTorch's, as does the convolution padded by name.
    assert used.count("_BatchNormGradient") == (0 if kind == "rest" else 2)
    assert used.count("_Partial") == 1
    if kind != "rest":
        after = model.state_dict()
        kept = [n for n in before if not n.endswith("num_batches_tracked")]
        assert all(torch.equal(before[name], after[name]) for name in kept)
    torch.testing.assert_close(second(model, x, y, contextlib.nullcontext()), plain)
    assert all(getattr(m, "normalise", None) is None for m in model.modules())


def test_what_is_not_trained_or_is_half_precision_stays_pytorchs() -> None:
    model = nn.BatchNorm1d(3).eval()
    x = torch.randn(4, 3)
    with differentiated_twice(model):
        assert torch.equal(model(x), (x / (1 + model.eps) ** 0.5))
    half = nn.BatchNorm1d(3).bfloat16()
    with differentiated_twice(half):
        name = half(x.bfloat16()).grad_fn.name()
    assert "_BatchNorm" not in name
