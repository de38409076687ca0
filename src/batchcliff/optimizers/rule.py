"""What the engine asks of a rule: state at fixed addresses, and one update in place."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from batchcliff.optimizers.clip import clipped
from batchcliff.spec import Optimizer


class Rule(ABC):
    """An optimizer's arithmetic. `state` is everything that it keeps between updates.

    `parameters` are updated in place; they, the gradients and each list of the state run in
    parallel, and every tensor's first dimension holds the `stack` networks in turn (state
    of another kind, such as a count, is a list of one tensor). `update` has static shapes, no
    branch on values and never waits for the device.
    """

    def __init__(self, options: Optimizer, parameters: list[Tensor], stack: int) -> None:
        self.options, self.parameters, self.stack = options, parameters, stack
        self.state: dict[str, list[Tensor]] = {}

    def tensors(self) -> list[Tensor]:
        """All of the state, in a fixed order."""
        return [tensor for name in sorted(self.state) for tensor in self.state[name]]

    @torch.no_grad()
    def restart(self) -> None:
        """The state before the first update, in place: zeros unless a rule says otherwise."""
        for tensor in self.tensors():
            tensor.zero_()

    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """One update of `parameters` and `state` in place, at a rate [S] per network.

        Gradients are clipped here, for every rule alike. The tensors are arguments, not
        attributes, so that compiled code takes them as inputs.
        """
        if self.options.clip_norm:
            gradients = clipped(gradients, self.options.clip_norm, lr_S.numel())
        self.apply(parameters, gradients, state, lr_S)

    @abstractmethod
    def apply(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        lr_S: Tensor,
    ) -> None:
        """The rule's own part of `update`."""
