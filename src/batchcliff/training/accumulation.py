"""Gradient accumulation: a batch in several passes, with the result of one.

With B examples in k micro batches of M = B / k, the loss is the mean over the batch, so

    gradient = sum over micro batches of (M / B) * gradient of the micro batch's mean loss

(the weight is put on the loss, so that float16 sees the numbers that it sees in a whole
batch). What is not a sum over examples needs more: batch norm normalises by groups, which lie
within one micro batch each (training/micro_batch.py), and its running statistics follow all
groups of a batch at once, after its last micro batch; mixup mixes the last example of a micro
batch with the first of the next. Clipping, norms, loss scaling's decision to skip and the
optimizer come after the sum. All shapes are static and nothing waits for the device: one
captured graph holds an update with all of its passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.training.micro_batch import Inseparable

# B batch, M micro batch, G groups of a batch, g groups of a micro batch, C channel, S stack

Pass = Callable[[Tensor, Tensor], list[Tensor]]


class _Statistics(NamedTuple):
    """One layer's statistics: of each group of a micro batch [g, C], of the batch [G, C]."""

    layer: GhostBatchNorm2d
    micro_mean: Tensor
    micro_var: Tensor
    mean: Tensor
    var: Tensor


class MicroBatches:
    """A batch of `batch_size` examples as `count` micro batches of `size`.

    model: its groups of batch norm are set for `batch_size`, and are not larger than `size`.
    overlap: examples of the next micro batch (of the first, for the last) that a pass gets
    too, for mixup: 0 or 1.
    """

    def __init__(self, model: nn.Module, batch_size: int, size: int, overlap: int = 0) -> None:
        self.count, rest = divmod(batch_size, size)
        assert rest == 0, f"micro batches of {size} in a batch of {batch_size}"
        self.size, self.overlap = size, overlap if self.count > 1 else 0
        self.own = range(self.count)  # those that pass here; other ranks may have some
        self._statistics: list[_Statistics] = []
        for layer in model.modules() if self.count > 1 else ():
            if isinstance(layer, GhostBatchNorm2d):
                groups, rest = divmod(size, layer.group)
                assert rest == 0, f"groups of {layer.group} in micro batches of {size}"
                kept = layer.running_mean.detach()
                micro = [kept.new_zeros(groups, kept.shape[1]) for _ in range(2)]
                whole = [kept.new_zeros(groups * self.count, kept.shape[1]) for _ in range(2)]
                self._statistics.append(_Statistics(layer, *micro, *whole))

    def sums(self, forward: Pass, index_BS: Tensor, draws_BSk: Tensor) -> list[Tensor]:
        """The sum over micro batches of each tensor that `forward(index, draws)` returns for
        one. Running statistics follow the whole batch, once."""
        if self.count == 1:
            return forward(index_BS, draws_BSk)
        total: list[Tensor] = []
        with self._apart():
            parts = list(zip(self._cut(index_BS), self._cut(draws_BSk), strict=True))
            for number in self.own:
                for one in self._statistics:  # a NaN would outlive a momentum of 0
                    one.micro_mean.zero_()
                    one.micro_var.zero_()
                found = forward(*parts[number])
                for one in self._statistics:
                    rows = slice(
                        number * len(one.micro_mean), (number + 1) * len(one.micro_mean)
                    )
                    one.mean[rows].copy_(one.micro_mean)
                    one.var[rows].copy_(one.micro_var)
                # Not in place: autograd may hand out one tensor twice.
                total = list(torch._foreach_add(total, found)) if total else found
            total = self.joined(total)
        for one in self._statistics:
            one.layer.follow(one.mean, one.var)
        return total

    def joined(self, total: list[Tensor]) -> list[Tensor]:
        """The sums over all micro batches, of those over our own."""
        return total

    def first(
        self, forward: Callable[[Tensor, Tensor], object], index_BS: Tensor, draws_BSk: Tensor
    ) -> None:
        """`forward` of the first micro batch alone, which no running statistics follow."""
        with self._apart():
            forward(next(self._cut(index_BS)), next(self._cut(draws_BSk)))

    def _cut(self, rows_BS: Tensor) -> Iterator[Tensor]:
        if self.overlap:
            rows_BS = torch.cat([rows_BS, rows_BS[: self.overlap]])
        for begin in range(0, self.count * self.size, self.size):
            yield rows_BS[begin : begin + self.size + self.overlap]

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Within the block a layer's running statistics are those of the last micro batch, a
        row for each group, and not those that evaluation uses."""
        layers = [one.layer for one in self._statistics]
        before = [(e.running_mean, e.running_var, e.momentum, e.shards) for e in layers]
        try:
            for one in self._statistics:
                one.layer.running_mean, one.layer.running_var = one.micro_mean, one.micro_var
                # 0: a row for each group, also of one, whose operations then are the same.
                one.layer.momentum, one.layer.shards = 0.0, 0
            yield
        finally:
            for layer, (mean, var, momentum, shards) in zip(layers, before, strict=True):
                layer.running_mean, layer.running_var = mean, var
                layer.momentum, layer.shards = momentum, shards


@torch.no_grad()
def check_separable(network: nn.Module, forward: Callable[[], object]) -> None:
    """Inseparable if passes over micro batches are not one pass over the batch, for a network
    of the user's own.

    forward: one pass in training mode, without ghost batch norm's running statistics; what it
    changes is undone. A layer that mixes examples in yet another way, and leaves no trace in a
    buffer, is not found.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise Inseparable(
                f"micro batches would not give the result of the whole batch: {name} "
                f"({type(module).__name__}) normalises by all examples of a pass. Write a "
                "ghost size, such as batch_norm.group = 32: that is another trial, and said so."
            )
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    drawn = _random_states()
    forward()
    changed = []
    for name, buffer in network.named_buffers():
        if not torch.equal(buffer, before[name]):
            changed.append(name)
            buffer.copy_(before[name])
    if changed:
        raise Inseparable(
            f"micro batches would not give the result of the whole batch: a pass changes the "
            f"network's buffer {changed[0]}. Write a network without it, or a smaller batch."
        )
    if not all(map(torch.equal, drawn, _random_states())):
        raise Inseparable(
            "micro batches would not give the result of the whole batch: the network draws "
            "random numbers (dropout?), others in several passes than in one. Write a network "
            "without them, or a smaller batch."
        )


def _random_states() -> list[Tensor]:
    """The states of the generators that a network may draw from."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states
