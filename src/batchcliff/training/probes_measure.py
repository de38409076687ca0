"""What a probe computes, on tensors: curvature, gradient noise, how far an update moves.

All of it stays on the device and nothing waits for it; the host reads the results after the
run (training/probes.py). Passes are in training mode, on examples of the probe's own, and leave
no trace in the network (`aside`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.training.compiled import rewound

# W weights of the network, k Lanczos iterations, G groups of parameters

LOST = 1e-5  # share of the largest number in T: a residual under it is rounding in float32


@contextlib.contextmanager
def aside(model: nn.Module, most: int) -> Iterator[None]:
    """Within the block a pass in training mode changes no running statistics, no buffer and no
    random generator; batch norm's groups hold at most `most` examples, and its layers run
    PyTorch's operations, which can be differentiated twice."""
    layers = [m for m in model.modules() if isinstance(m, GhostBatchNorm2d)]
    statistics = [(e.running_mean, e.running_var) for e in layers]
    settings = [(e.group, e.shards, e.fused, e.convolves) for e in layers]
    own = {id(t) for pair in statistics for t in pair}
    others = [buffer for buffer in model.buffers() if id(buffer) not in own]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([i for i in devices if i is not None]), rewound(others):
        try:
            for layer in layers:
                layer.running_mean = torch.zeros_like(layer.running_mean[:1])
                layer.running_var = torch.ones_like(layer.running_var[:1])
                layer.group, layer.shards = min(layer.group, most), 1
                layer.fused = layer.convolves = False
            yield
        finally:
            for layer, pair, kept in zip(layers, statistics, settings, strict=True):
                layer.running_mean, layer.running_var = pair
                layer.group, layer.shards, layer.fused, layer.convolves = kept


def pair_estimate(
    small_square: Tensor, big_square: Tensor, small: int, big: int
) -> tuple[Tensor, Tensor]:
    """Unbiased tr(Sigma) and |G|^2 from the squared norms of gradients at two batch sizes.

    A mean gradient over B examples has E |G_B|^2 = |G|^2 + tr(Sigma) / B, so that

        |G|^2     = (big |G_big|^2 - small |G_small|^2) / (big - small)
        tr(Sigma) = (|G_small|^2 - |G_big|^2) / (1 / small - 1 / big)

    (McCandlish et al. 2018, 1812.06162, appendix A.1). The quotient of the two is biased:
    average each first (stats/noise_scale.py).
    """
    square = (big * big_square - small * small_square) / (big - small)
    trace = (small_square - big_square) / (1 / small - 1 / big)
    return trace, square


def gradient_noise(
    losses: Sequence[Callable[[], Tensor]], parameters: list[Tensor], small: int
) -> Tensor:
    """tr(Sigma) and |G|^2, float64 [2], from the gradients of parts of `small` examples each.

    losses: the mean loss of each part, at least two. The large batch is all parts together.
    """
    total: list[Tensor] = []
    squares = []
    for loss in losses:
        found = list(torch.autograd.grad(loss(), parameters))
        squares.append(_square(found))
        total = list(torch._foreach_add(total, found)) if total else found
    parts = len(losses)
    small_square, big_square = torch.stack(squares).mean(), _square(total) / parts**2
    return torch.stack(pair_estimate(small_square, big_square, small, parts * small))


def _square(tensors: list[Tensor]) -> Tensor:
    """Squared Euclidean norm over all tensors, float64."""
    return torch.stack(torch._foreach_norm(tensors)).double().square().sum()


def lanczos(
    loss: Callable[[], Tensor],
    parameters: list[Tensor],
    start_W: Tensor,
    iterations: int,
    record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
) -> Tensor:
    """Diagonal and off-diagonal of the Lanczos matrix T of the loss' Hessian, [2, k].

    Hessian-vector products are exact (Pearlmutter 1994); the vectors are made orthogonal to all
    former ones, twice. It begins with the gradient, most of which lies in the eigenvectors of
    the largest eigenvalues (Gur-Ari et al. 2018, 1812.04754), plus `start_W`, a random vector,
    which misses none. `ritz` reads T.

    record: makes of the product of Hessian and vector, once it has run, what the other
    iterations run in its place (`compiled.Recorder`). It reads and writes the same tensors
    every time.
    """
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    curved = [g for g in gradients if g.requires_grad]

    first_W = _flat([g.detach() for g in gradients])
    vector_W = _unit(_unit(first_W) + _unit(start_W))
    image_W = torch.zeros_like(vector_W)  # as it stays of a loss that is linear in its weights

    def product() -> None:
        parts = torch.split(vector_W, [p.numel() for p in parameters])
        pairs = zip(gradients, parts, strict=True)
        along = [v.view_as(g) for g, v in pairs if g.requires_grad]
        rows = torch.autograd.grad(
            curved, parameters, along, retain_graph=True, materialize_grads=True
        )
        image_W.copy_(_flat(rows))

    iterations = min(iterations, len(vector_W))
    basis_kW = vector_W.new_zeros(iterations, len(vector_W))
    matrix_2k = vector_W.new_zeros(2, iterations)
    again = product
    for i in range(iterations):
        basis_kW[i] = vector_W
        if curved:
            again()
        if curved and record is not None and i == 0 and iterations > 2:
            again = record(product)
        matrix_2k[0, i] = image_W @ vector_W
        rest_W = image_W
        for _ in range(2):
            rest_W = rest_W - (basis_kW[: i + 1] @ rest_W) @ basis_kW[: i + 1]
        matrix_2k[1, i] = rest_W.norm()
        vector_W.copy_(_unit(rest_W))
    return matrix_2k


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _unit(vector_W: Tensor) -> Tensor:
    """Of length 1, or 0 as it is; NaN stays NaN."""
    unit: Tensor = vector_W / vector_W.norm().clamp_min(torch.finfo(vector_W.dtype).tiny)
    return unit


def ritz(matrix_2k: NDArray[np.float64]) -> tuple[float, float] | None:
    """The largest eigenvalue of T, and how far from it the nearest one of the Hessian may lie.

    It is a lower bound of the Hessian's largest eigenvalue. T ends where the residual is
    nothing but rounding: then the space is exhausted. None if T is not finite.
    """
    if not np.isfinite(matrix_2k).all():
        return None
    diagonal, off = matrix_2k
    lost = np.flatnonzero(off <= LOST * np.abs(matrix_2k).max())
    size = int(lost[0]) + 1 if len(lost) else len(diagonal)
    matrix = np.diag(diagonal[:size])
    matrix += np.diag(off[: size - 1], 1) + np.diag(off[: size - 1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return float(values[-1]), float(abs(off[size - 1] * vectors[-1, -1]))


def parameter_groups(shapes: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Parameters by what they do, in their order: the first and the last matrix or kernel,
    those between them, and all of one dimension (scales, shifts and biases)."""
    wide = [i for i, shape in enumerate(shapes) if len(shape) > 1]
    flat = [i for i, shape in enumerate(shapes) if len(shape) <= 1]
    found = {
        "first": wide[:1] if len(wide) > 1 else [],
        "hidden": wide[1:-1],
        "last": wide[-1:],
        "norms-and-biases": flat,
    }
    return {name: members for name, members in found.items() if members}


@torch.no_grad()
def update_ratios(
    before: list[Tensor], after: list[Tensor], groups: Sequence[Sequence[int]]
) -> Tensor:
    """|after - before| / |before| over the parameters of each group, float32 [G]."""
    moved = torch.stack(torch._foreach_norm(torch._foreach_sub(after, before)))
    length = torch.stack(torch._foreach_norm(before))
    return torch.stack([moved[i].norm() / length[i].norm() for i in map(list, groups)])
