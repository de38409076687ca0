"""Update rules in NumPy, float64, one network and one tensor at a time, from the papers' lines.

Meant to be read beside the formulas in the docstrings of batchcliff.optimizers, not beside
the code under test. `t` counts from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batchcliff.spec import Optimizer

Array = NDArray[np.float64]


def norm(x: Array) -> float:
    return math.sqrt(float((x * x).sum()))


@dataclass
class Slow:
    """All parameters of one network; `step` applies one update to `weights`."""

    weights: list[Array]
    options: Optimizer
    t: int = 0
    last: float = 0.0
    memory: list[dict[str, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        zeros = ("v", "m", "s")
        self.memory = [{k: np.zeros_like(w) for k in zeros} for w in self.weights]

    def step(self, gradients: list[Array], lr: float) -> None:
        o = self.options
        self.t += 1
        if o.clip_norm:
            length = math.sqrt(sum(norm(g) ** 2 for g in gradients))
            gradients = [g * min(1.0, o.clip_norm / length) for g in gradients]
        move = {"sgd": self.sgd, "lars": self.lars, "larc": self.lars, "lamb": self.lamb}
        for i, g in enumerate(gradients):
            w = self.weights[i]
            out = o.exclude == "norms-and-biases" and w.ndim <= 1
            decay = 0.0 if out else o.weight_decay
            step = move.get(o.name, self.adam)
            self.weights[i] = step(w, g, lr, self.memory[i], decay, out)
        self.last = lr

    def sgd(
        self, w: Array, g: Array, lr: float, memory: dict[str, Array], decay: float, out: bool
    ) -> Array:
        o, m = self.options, self.options.momentum
        g = g + decay * w
        if o.form == "torch":
            memory["v"] = v = m * memory["v"] + g
            return w - lr * (g + m * v if o.nesterov else v)
        old = memory["v"]
        if o.momentum_correction and self.last:
            old = old * lr / self.last
        memory["v"] = v = m * old - lr * g
        return w + m * v - lr * g if o.nesterov else w + v

    def lars(
        self, w: Array, g: Array, lr: float, memory: dict[str, Array], decay: float, out: bool
    ) -> Array:
        o, whole = self.options, g + decay * w
        joint = o.denominator == "joint"
        below = norm(whole) if joint else norm(g) + decay * norm(w)
        ratio = 1.0
        if not out and norm(w) > 0 and norm(g) > 0:
            ratio = o.trust * norm(w) / (below + o.eps)
            if o.name == "larc":
                ratio = min(lr, ratio) / lr
        return self.sgd(w, ratio * whole, lr, memory, 0.0, out)

    def moments(self, g: Array, memory: dict[str, Array]) -> tuple[Array, Array]:
        b1, b2 = self.options.betas
        if self.options.name == "gi-adam" and self.t == 1:
            memory["s"] = g * g
        memory["m"] = b1 * memory["m"] + (1 - b1) * g
        memory["s"] = b2 * memory["s"] + (1 - b2) * g * g
        return memory["m"] / (1 - b1**self.t), memory["s"] / (1 - b2**self.t)

    def adam(
        self, w: Array, g: Array, lr: float, memory: dict[str, Array], decay: float, out: bool
    ) -> Array:
        o = self.options
        if o.name == "adamw":
            w = w - lr * decay * w
        else:
            g = g + decay * w
        mean, square = self.moments(g, memory)
        if o.name != "radam":
            return w - lr * mean / (np.sqrt(square) + o.eps)
        b2, t = o.betas[1], self.t
        most = 2 / (1 - b2) - 1
        rho = most - 2 * t * b2**t / (1 - b2**t)
        if rho <= 5:
            return w - lr * mean
        r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        return w - lr * mean * r * math.sqrt(1 - b2**t) / (np.sqrt(memory["s"]) + o.eps)

    def lamb(
        self, w: Array, g: Array, lr: float, memory: dict[str, Array], decay: float, out: bool
    ) -> Array:
        mean, square = self.moments(g, memory)
        r = mean / (np.sqrt(square) + self.options.eps) + decay * w
        ratio = 1.0
        if not out and norm(w) > 0 and norm(r) > 0:
            ratio = norm(w) / norm(r)
        return w - lr * ratio * r
