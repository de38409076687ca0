"""The device state of a stack of trials, and the update that advances it.

Every tensor that an update reads or writes has a fixed address: the data, the block of
example indices and augmentation draws of the current epoch, the table of learning rates,
the log of losses, and two counters. An update reads its row by counter and nothing comes
from or goes to the host, so it can be captured once as a graph and replayed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from batchcliff.data.augment import Extras, draw, gather, num_draws
from batchcliff.data.mixup import mixed, shares
from batchcliff.kernels.convolution import until_the_end
from batchcliff.optimizers import rule
from batchcliff.optimizers.stacks import norms
from batchcliff.spec import Settings
from batchcliff.training.accumulation import MicroBatches
from batchcliff.training.loss_scaling import LossScaled
from batchcliff.training.losses import mean_per_network, training_losses
from batchcliff.training.precision import precision
from batchcliff.training.ranks import RankBatches, Ranks

# U updates, B batch, M micro batch, S stack, k draws per example, C channel, H height, W width,
# K classes


class Loop:
    """`update()` applies one optimizer update to all networks of the stack.

    images_NHWC: uint8, on the device. labels_N: int64, on the device.
    rows: most updates that one block (an epoch) holds. updates: of the whole run.
    micro_batch: examples that pass through the network at once; divides the batch, and holds
    whole groups of batch norm, which are set for the batch. ranks: the team that shares every
    batch, of which this process is one; None: it trains alone.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        images_NHWC: Tensor,
        labels_N: Tensor,
        *,
        batch_size: int,
        stack: int,
        rows: int,
        updates: int,
        scale: float,
        micro_batch: int,
        ranks: Ranks | None = None,
    ) -> None:
        device, kind = images_NHWC.device, settings.augmentation
        self.model, self.settings, self.device = model, settings, device
        self.images_NHWC, self.labels_N = images_NHWC, labels_N
        # In a network of the user's own some may be frozen.
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.rule = rule(settings.optimizer, self.parameters, stack)
        self.scaling = LossScaled(self.rule) if settings.precision == "fp16" else None
        self.rule = self.scaling or self.rule
        self.extras, self.ranks = Extras.of(settings), ranks
        self.micro_batches = self._in_parts(batch_size, micro_batch)
        block, drawn = (
            (rows, batch_size, stack),
            torch.from_numpy(draw(kind, 0, 0, 1, (8, 8, 1), self.extras)),
        )
        self.index_UBS = torch.zeros(block, dtype=torch.int32, device=device)
        columns = num_draws(kind, self.extras)
        self.draws_UBSk = torch.zeros(*block, columns, dtype=drawn.dtype, device=device)
        self.scale = scale
        self.rates_US = torch.zeros(updates, stack, device=device)
        self.losses_US = torch.zeros(updates, stack, device=device)
        # Logs that few trials ask for, [U, S] too, by name.
        self.logs: dict[str, Tensor] = {}
        if settings.gradient_norms:
            self.logs["gradient_norm"] = torch.zeros_like(self.losses_US)
        if self.scaling is not None:
            self.logs["skipped"] = torch.zeros_like(self.losses_US)
        self.counters = torch.zeros(2, dtype=torch.int64, device=device)  # one launch for both
        self.row, self.count = self.counters.unbind()
        self.slopes_S = torch.ones(stack, device=device)  # the gradient is of the losses' sum
        # Replaced by compiled versions where the device has them (compiled.py).
        self.loss_function: Callable[[Tensor, Tensor], Tensor] = self.losses
        self.apply_function = self.rule.update

    def _in_parts(self, batch_size: int, micro_batch: int) -> MicroBatches:
        overlap = 1 if self.extras.mixup else 0  # the partner of a micro batch's last example
        if self.ranks is not None:
            return RankBatches(self.model, batch_size, micro_batch, overlap, self.ranks)
        return MicroBatches(self.model, batch_size, micro_batch, overlap)

    def resized(self, batch_size: int, rows: int, micro_batch: int) -> Loop:
        """This loop for batches of another size, `rows` of them in a block: the block is its
        own, and all else the same tensors, so that either may go on where the other ended.
        Batch norm's groups are set for that size."""
        other, stack = copy.copy(self), self.losses_US.shape[1]
        block = (rows, batch_size, stack)
        other.micro_batches = self._in_parts(batch_size, micro_batch)
        other.index_UBS = self.index_UBS.new_zeros(block)
        other.draws_UBSk = self.draws_UBSk.new_zeros(*block, self.draws_UBSk.shape[-1])
        other.loss_function, other.apply_function = other.losses, other.rule.update
        return other

    def losses(self, index_BS: Tensor, draws_BSk: Tensor) -> Tensor:
        """Mean training loss of each network on its own examples, float32 [S]: a batch, or a
        micro batch, with mixup and its last example's partner behind it."""
        stack = index_BS.shape[1]
        images = gather(
            self.settings.augmentation,
            self.images_NHWC,
            index_BS.flatten(),
            draws_BSk.flatten(0, 1),
            torch.float32,
            self.scale,
            self.extras,
        )  # [B*S, C, H, W]
        images = images.reshape(-1, stack * images.shape[1], *images.shape[2:])
        share_BS = None
        if self.extras.mixup:
            share_BS = shares(draws_BSk[..., -1])
            images = mixed(images, share_BS)
            if self.micro_batches.overlap:
                images, share_BS = images[:-1], share_BS[:-1]
        images = images.contiguous(memory_format=torch.channels_last)
        logits_BSK = self.model(images)
        labels_BS = self.labels_N[index_BS.long()]
        return mean_per_network(training_losses(logits_BSK, labels_BS, share_BS, self.settings))

    def update(self) -> None:
        """One update of all networks; host and device do not wait for each other."""
        index_BS = self.index_UBS.index_select(0, self.row.view(1))[0]
        draws_BSk = self.draws_UBSk.index_select(0, self.row.view(1))[0]
        at = self.count.view(1)
        losses_S, *gradients = self.micro_batches.sums(self._backward, index_BS, draws_BSk)
        if self.settings.gradient_norms:
            self._log_norms(gradients, at)
        self.apply_function(
            self.parameters,
            gradients,
            self.rule.state,
            self.rates_US.index_select(0, at)[0],
        )
        if self.scaling is not None:
            self.logs["skipped"].index_copy_(0, at, self.scaling.skipped.float().view(1, 1))
        self.losses_US.index_copy_(0, at, losses_S[None])
        self.counters += 1

    def look(self, index_BS: Tensor, draws_BSk: Tensor) -> None:
        """A pass without an update over a whole batch, for batch norm's running statistics."""
        self.micro_batches.sums(lambda *rows: [self.losses(*rows)], index_BS, draws_BSk)

    def first_pass(self) -> None:
        """A pass of the loop's first micro batch as it lies there, and nothing else."""
        with precision(self.settings.precision, self.device):
            self.micro_batches.first(self.losses, self.index_UBS[0], self.draws_UBSk[0])

    def _backward(self, index_MS: Tensor, draws_MSk: Tensor) -> list[Tensor]:
        """A micro batch's part of the batch's mean losses [S], and of their sum's gradient,
        scaled where losses are."""
        with precision(self.settings.precision, self.device):
            losses_S = self.loss_function(index_MS, draws_MSk)
        if self.micro_batches.count > 1:
            losses_S = losses_S / self.micro_batches.count
        slopes_S = self.slopes_S
        if self.scaling is not None:
            slopes_S = slopes_S * self.scaling.scale
        # A sum is a launch more on a GPU; where slopes are given, torch imports SymPy first,
        # half a second of every process on a CPU. The gradient has the same bits.
        whole = self.device.type == "cpu"
        outputs = (losses_S * slopes_S).sum() if whole else losses_S
        with until_the_end(self.device):
            gradients = torch.autograd.grad(
                outputs, self.parameters, None if whole else slopes_S
            )
        return [losses_S.detach(), *gradients]

    def _log_norms(self, gradients: Sequence[Tensor], at: Tensor) -> None:
        """Norms of the loss' gradient over all parameters, before clipping and decay."""
        norm_S = norms(gradients, self.losses_US.shape[1]).norm(dim=0)
        if self.scaling is not None:
            norm_S = norm_S / self.scaling.scale
        self.logs["gradient_norm"].index_copy_(0, at, norm_S[None])

    def load_block(self, index_UBS: Tensor, draws_UBSk: Tensor) -> None:
        """Put an epoch's indices int32 [U, B, S] and draws [U, B, S, k] in place; row 0 next.

        Pinned tensors are copied in stream order, so the host does not wait.
        """
        used = index_UBS.shape[0]
        self.index_UBS[:used].copy_(index_UBS, non_blocking=True)
        self.draws_UBSk[:used].copy_(draws_UBSk, non_blocking=True)
        self.row.zero_()

    def restart(self, rates_US: Tensor) -> None:
        """Forget a former run: optimizer, log and counters; parameters are the caller's."""
        self.rule.restart()
        self.rates_US.copy_(rates_US)
        for log_US in (self.losses_US, *self.logs.values()):
            log_US.zero_()
        self.row.zero_()
        self.count.zero_()

    def tensors(self) -> list[Tensor]:
        """Everything that an update changes."""
        state = [*self.parameters, *self.model.buffers(), *self.rule.tensors()]
        return [*state, self.losses_US, *self.logs.values(), self.row, self.count]
