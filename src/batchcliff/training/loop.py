"""The device state of a stack of trials, and the update that advances it.

Every tensor that an update reads or writes has a fixed address: the data, the block of
example indices and augmentation draws of the current epoch, the table of learning rates,
the log of losses, and two counters. An update reads its row by counter and nothing comes
from or goes to the host, so it can be captured once as a graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchcliff.data.augment import draw, gather, num_draws
from batchcliff.optimizers import rule
from batchcliff.spec import Settings
from batchcliff.training.losses import LOSSES, mean_per_network
from batchcliff.training.precision import precision

# U updates, B batch, S stack, k draws per example, C channel, H height, W width, K classes


class Loop:
    """`update()` applies one optimizer update to all networks of the stack.

    images_NHWC: uint8, on the device. labels_N: int64, on the device.
    rows: most updates that one block (an epoch) holds. updates: of the whole run.
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
    ) -> None:
        device, kind = images_NHWC.device, settings.augmentation
        self.model, self.settings, self.device = model, settings, device
        self.images_NHWC, self.labels_N = images_NHWC, labels_N
        self.parameters: list[Tensor] = list(model.parameters())
        self.rule = rule(settings.optimizer, self.parameters, stack)
        block, drawn = (
            (rows, batch_size, stack),
            torch.from_numpy(draw(kind, 0, 0, 1, (8, 8, 1))),
        )
        self.index_UBS = torch.zeros(block, dtype=torch.int32, device=device)
        self.draws_UBSk = torch.zeros(*block, num_draws(kind), dtype=drawn.dtype, device=device)
        self.scale = scale
        self.rates_US = torch.zeros(updates, stack, device=device)
        self.losses_US = torch.zeros(updates, stack, device=device)
        self.row = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        # Replaced by compiled versions where the device has them (compiled.py).
        self.loss_function: Callable[[Tensor, Tensor], Tensor] = self.losses
        self.apply_function = self.rule.update

    def losses(self, index_BS: Tensor, draws_BSk: Tensor) -> Tensor:
        """Mean training loss of each network on its own batch, float32 [S]."""
        stack = index_BS.shape[1]
        images = gather(
            self.settings.augmentation,
            self.images_NHWC,
            index_BS.flatten(),
            draws_BSk.flatten(0, 1),
            torch.float32,
            self.scale,
        )  # [B*S, C, H, W]
        images = images.reshape(-1, stack * images.shape[1], *images.shape[2:])
        images = images.contiguous(memory_format=torch.channels_last)
        logits_BSK = self.model(images)
        return mean_per_network(
            LOSSES[self.settings.loss](logits_BSK, self.labels_N[index_BS.long()])
        )

    def update(self) -> None:
        """One update of all networks; host and device do not wait for each other."""
        index_BS = self.index_UBS.index_select(0, self.row.view(1))[0]
        draws_BSk = self.draws_UBSk.index_select(0, self.row.view(1))[0]
        at = self.count.view(1)
        with precision(self.settings.precision, self.device):
            losses_S = self.loss_function(index_BS, draws_BSk)
        gradients = torch.autograd.grad(losses_S.sum(), self.parameters)
        self.apply_function(
            self.parameters,
            list(gradients),
            self.rule.state,
            self.rates_US.index_select(0, at)[0],
        )
        self.losses_US.index_copy_(0, at, losses_S.detach()[None])
        self.row += 1
        self.count += 1

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
        self.losses_US.zero_()
        self.row.zero_()
        self.count.zero_()

    def tensors(self) -> list[Tensor]:
        """Everything that an update changes."""
        state = [*self.parameters, *self.model.buffers(), *self.rule.tensors()]
        return [*state, self.losses_US, self.row, self.count]
