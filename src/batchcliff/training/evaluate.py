"""Test accuracy with running batch-norm statistics, and with re-estimated ones.

Every test example counts exactly once. Batches hold 1,000 examples, as in the article: with
per-group statistics, the r-th R-th of a batch is normalised by the r-th core's statistics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from batchcliff.data.augment import gather
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.spec import Settings
from batchcliff.training.losses import example_losses_logits
from batchcliff.training.precision import precision

BATCH = 1000
TOGETHER = 5  # most batches that pass through a network of kernels at once
REESTIMATION_EXAMPLES = 10_000

# N examples, S stack, E evaluations


class Evaluation:
    """Counts right answers over a test set on the device; `run()` logs one evaluation.

    correct_ES: int64, loss_ES: float64 sums of cross entropy, a row an evaluation.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        images_NHWC: Tensor,
        labels_N: Tensor,
        *,
        stack: int,
        evaluations: int,
        scale: float,
    ) -> None:
        device, self.scale = images_NHWC.device, scale
        self.model, self.settings, self.device, self.stack = model, settings, device, stack
        self.images_NHWC, self.labels_N = images_NHWC, labels_N
        self.correct_ES = torch.zeros(evaluations, stack, dtype=torch.int64, device=device)
        self.loss_ES = torch.zeros(evaluations, stack, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        # Replaced by a compiled version where the device has one.
        self.logits_function: Callable[[Tensor], Tensor] = self.logits

    def logits(self, index_B: Tensor) -> Tensor:
        """Logits of test examples, [B, S, K]."""
        no_draws = torch.zeros(len(index_B), 0, device=self.device)
        images = gather("none", self.images_NHWC, index_B, no_draws, torch.float32, self.scale)
        images = images.repeat(1, self.stack, 1, 1)
        logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits

    def _batches(self, every_N: Tensor) -> list[Tensor]:
        """Indices of the examples that pass through the network at once.

        Where only kernels of ours run, which is a network that is known and on a GPU, some of
        the batches at once: fewer, larger launches. Each R-th of theirs holds that R-th of each
        of them, so every example is normalised as in its own batch.
        """
        batches = list(torch.split(every_N, BATCH))
        layers = [m for m in self.model.modules() if isinstance(m, GhostBatchNorm2d)]
        whole = len(every_N) // BATCH
        together = max((n for n in range(1, TOGETHER + 1) if whole % n == 0), default=1)
        kinds = {layer.shards for layer in layers if layer.convolves}
        if len(kinds) != 1 or not all(layer.convolves for layer in layers):
            return batches
        (shards,) = kinds
        if together == 1 or BATCH % shards:
            return batches
        first = every_N[: whole * BATCH].view(-1, together, shards, BATCH // shards)
        joined = first.transpose(1, 2).flatten(1)
        return [*joined.unbind(), *batches[whole:]]

    @torch.no_grad()
    def run(self) -> None:
        """Evaluate all networks on all examples; the model must be in evaluation mode."""
        correct_S = torch.zeros(self.stack, dtype=torch.int64, device=self.device)
        loss_S = torch.zeros(self.stack, dtype=torch.float64, device=self.device)
        every = torch.arange(len(self.labels_N), device=self.device)
        for index_B in self._batches(every):
            with precision(self.settings.precision, self.device):
                logits_BSK = self.logits_function(index_B).float()
            labels_BS = self.labels_N[index_B][:, None].expand(-1, self.stack)
            correct_S += (logits_BSK.argmax(-1) == labels_BS).sum(0)
            # Along contiguous memory: the same bits whatever is stacked beside.
            losses_BS = example_losses_logits(logits_BSK, labels_BS)
            loss_S += losses_BS.t().contiguous().double().sum(1)
        at = self.count.view(1)
        self.correct_ES.index_copy_(0, at, correct_S[None])
        self.loss_ES.index_copy_(0, at, loss_S[None])
        self.count += 1

    def tensors(self) -> list[Tensor]:
        """Everything that an evaluation changes."""
        return [self.correct_ES, self.loss_ES, self.count]


@contextlib.contextmanager
def reestimated(model: nn.Module, forwards: Iterable[Callable[[], object]]) -> Iterator[None]:
    """Within the block, batch norm uses statistics averaged over training batches.

    Each of `forwards` runs the model in training mode on one batch; the mean of the batches'
    statistics under the final weights replaces the running ones (as "precise batch norm",
    Wu and Johnson 2021, 2105.07576, section 3), and the running ones come back afterwards.
    """
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    layers = [m for m in model.modules() if isinstance(m, GhostBatchNorm2d)]
    foreign = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in layers], [m.momentum for m in foreign]
    was_training = model.training
    try:
        model.train()
        with torch.no_grad():
            for i, forward in enumerate(forwards):
                for layer in layers:
                    layer.momentum = i / (i + 1)
                for other in foreign:
                    other.momentum = 1 / (i + 1)
                forward()
            for layer in layers:
                layer.running_mean.copy_(layer.running_mean.mean(0, keepdim=True))
                layer.running_var.copy_(layer.running_var.mean(0, keepdim=True))
        model.eval()
        yield
    finally:
        for layer, momentum in zip(layers, momenta[0], strict=True):
            layer.momentum = momentum
        for other, kept in zip(foreign, momenta[1], strict=True):
            other.momentum = kept
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(saved[name])
        model.train(was_training)
