"""LARS, LARC and LAMB as `torch.optim.Optimizer`s, for anybody's own training code.

They call the functions that the engine's rules call. PyTorch has none of the three, and the
packages that do differ in who is scaled; here that is said by the caller, by `exclude`, which
has no default. docs/optimizers.md maps these arguments to other packages'.
"""

from __future__ import annotations

import abc
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.optimizers.decay import EXCLUDE
from batchcliff.optimizers.lamb import lamb_update
from batchcliff.optimizers.lars import adapted
from batchcliff.optimizers.sgd import sgd_update
from batchcliff.spec import Optimizer

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_CHOICES = {
    "exclude": EXCLUDE,
    "denominator": ("joint", "separate"),
    "form": ("keras", "torch"),
}


class _Layerwise(torch.optim.Optimizer, abc.ABC):
    """What the three share: checks, `step`, and tensors of one kind taken together."""

    rule: ClassVar[str]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; UsageError for an option of the group that is out of range."""
        super().add_param_group(param_group)
        group, own = self.param_groups[-1], type(self).__name__
        for name, value in group.items():
            _check(own, name, value)
        if group.get("nesterov") and group["momentum"] == 0:
            raise UsageError(f"{own}: nesterov = True with momentum = 0. Write momentum = 0.9.")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; the gradients stay as they are.

        closure: computes the loss again and returns it, with gradients. UsageError for a
        sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in self._alike(group):
                first = parameters[0]
                kind = torch.promote_types(first.dtype, torch.float32)
                lr = group["lr"]
                if isinstance(lr, Tensor):
                    lr_S = lr.detach().to(first.device, kind).reshape(1)
                else:  # a fill and no copy, so that the device is not waited for
                    lr_S = torch.full((1,), lr, dtype=kind, device=first.device)
                self._update(parameters, lr_S, group)
        return loss

    def _alike(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """Parameters with a gradient, by device, number format and updates so far."""
        found: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse or p.is_complex():
                raise UsageError(
                    f"{type(self).__name__}: a sparse gradient or complex parameter of shape "
                    f"{tuple(p.shape)}. Give it to another optimizer, such as torch.optim.SGD."
                )
            state = self.state[p]
            if not state:
                self._start(p, state)
            # "step" lies on the CPU: reading it waits for nothing
            found[p.device, p.dtype, int(state.get("step", 0))].append(p)
        return list(found.values())

    @abc.abstractmethod
    def _start(self, p: Tensor, state: dict[str, Any]) -> None:
        """Fill the empty state of a parameter."""

    @abc.abstractmethod
    def _update(self, parameters: list[Tensor], lr_S: Tensor, group: dict[str, Any]) -> None:
        """One update of parameters that share device, number format and count."""

    def _options(self, group: dict[str, Any], *names: str) -> Optimizer:
        values = {name: group[name] for name in names}
        if "betas" in values:
            values["betas"] = tuple(values["betas"])
        return Optimizer(name=self.rule, **values)

    def _gathered(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        return [self.state[p][name] for p in parameters]


class Lars(_Layerwise):
    """SGD with momentum on layer-wise adapted gradients (You et al. 2017, 1708.03888).

    ratio = trust |w| / (|g| + weight_decay |w| + eps);  g' = ratio (g + weight_decay w);
    v = momentum v + g';  w = w - lr v. The ratio is 1 where |w| or |g| is 0.

    Args:
        params: parameters, or groups, which may have options of their own.
        lr: the rate; with trust = 0.001 typically 1 to 30. A tensor is allowed.
        exclude: which parameters have neither ratio nor decay: "norms-and-biases" (all of
            one dimension or none; the usual choice), "nothing", or "everything" (for a group).
        momentum, nesterov: as of torch.optim.SGD, without dampening.
        weight_decay: inside of the gradient.
        trust: the coefficient. eps: added to the denominator.
        denominator: "separate", as above (the paper's), or "joint", |g + weight_decay w| + eps.
        form: "torch", as above, or "keras", with the rate inside of the velocity as in the
            paper: v = momentum v + lr g'; w = w - v. They differ where the rate changes.

    State per parameter: "momentum_buffer". Raises UsageError (a ValueError) for an option out
    of range. Foreach kernels; nothing waits for the device.
    """

    rule = "lars"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        *,
        exclude: str,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
        denominator: str = "separate",
        form: str = "torch",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "exclude": exclude,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "trust": trust,
                "eps": eps,
                "denominator": denominator,
                "form": form,
            },
        )

    def _start(self, p: Tensor, state: dict[str, Any]) -> None:
        state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def _update(self, parameters: list[Tensor], lr_S: Tensor, group: dict[str, Any]) -> None:
        names = ("exclude", "momentum", "nesterov", "weight_decay", "trust", "eps")
        options = self._options(group, *names, "denominator", "form")
        plain = self._options(group, "momentum", "nesterov", "form")
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients = adapted(parameters, gradients, lr_S, options)
        velocities = self._gathered(parameters, "momentum_buffer")
        sgd_update(parameters, gradients, velocities, lr_S, plain)


class Larc(Lars):
    """`Lars` that only ever lowers the rate: a layer moves at min(lr, ratio).

    The variant of NVIDIA's apex (apex.parallel.LARC, clip=True), with its default coefficient.
    `lr` is of SGD's size; the other arguments, the state and the errors are those of `Lars`.
    """

    rule = "larc"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        *,
        exclude: str,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        trust: float = 0.02,
        eps: float = 1e-8,
        denominator: str = "separate",
        form: str = "torch",
    ) -> None:
        super().__init__(
            params,
            lr,
            exclude=exclude,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            trust=trust,
            eps=eps,
            denominator=denominator,
            form=form,
        )


class Lamb(_Layerwise):
    """Adam with layer-wise adapted steps (You et al. 2020, 1904.00962, algorithm 2).

    r = m' / (sqrt(v') + eps) + weight_decay w;  w = w - lr (|w| / |r|) r, with Adam's moments
    and bias correction. The ratio |w| / |r| is 1 where either is 0.

    Args:
        params: parameters, or groups, which may have options of their own.
        lr: the rate: how far a layer moves, as a share of its norm. A tensor is allowed.
        exclude: as of `Lars`; what is excluded takes a step of Adam.
        betas: decay of the means of the gradient and of its square. eps: in the denominator.
        weight_decay: added to Adam's direction, before the ratio.

    State per parameter: "exp_avg", "exp_avg_sq", "step". Raises UsageError (a ValueError) for
    an option out of range. Gradients are not clipped (apex and timm clip them to norm 1).
    """

    rule = "lamb"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        *,
        exclude: str,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "exclude": exclude,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
            },
        )

    def _start(self, p: Tensor, state: dict[str, Any]) -> None:
        # torch's name, which `load_state_dict` neither moves nor casts to the format of p
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def _update(self, parameters: list[Tensor], lr_S: Tensor, group: dict[str, Any]) -> None:
        options = self._options(group, "exclude", "betas", "eps", "weight_decay")
        for p in parameters:
            self.state[p]["step"] += 1
        updates = int(self.state[parameters[0]]["step"])
        lamb_update(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            self._gathered(parameters, "exp_avg"),
            self._gathered(parameters, "exp_avg_sq"),
            torch.full((), updates, dtype=torch.float64, device=parameters[0].device),
            lr_S,
            options,
        )


def _check(optimizer: str, name: str, value: Any) -> None:
    """UsageError that names the option, what came, and what to write instead."""
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            hint = did_you_mean(str(value), _CHOICES[name])
            raise UsageError(f"{optimizer}: {name} = {value!r}.{hint}")
    elif name in ("lr", "weight_decay", "trust", "eps"):
        least = "above 0" if name == "trust" else ">= 0"
        fine = isinstance(value, Tensor) or (
            math.isfinite(value) and (value > 0 or (value == 0 and name != "trust"))
        )
        if not fine:
            raise UsageError(f"{optimizer}: {name} = {value!r} is not a finite number {least}.")
    elif name in ("momentum", "betas"):
        shares = (value,) if name == "momentum" else tuple(value)
        if len(shares) != (1 if name == "momentum" else 2) or not all(
            0 <= share < 1 for share in shares
        ):
            kind = "a number" if name == "momentum" else "a pair of numbers"
            raise UsageError(
                f"{optimizer}: {name} = {value!r} is not {kind} from 0 to below 1."
            )
