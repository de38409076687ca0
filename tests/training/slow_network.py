"""The article's experiment in NumPy, float64, one definition after another. No torch.

Conv2D(3x3, same, with bias) -> BatchNormalization -> ReLU, average pooling between the
blocks, global average pooling, Dense, softmax; gradients written by hand; SGD. It is slow
and meant to be read beside SCIENCE's definitions, not beside the code under test.

Arrays are [B, C, H, W]. Every operation returns its result and a function that takes the
gradient of the result to that of the input, and adds the parameters' gradients on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Backward = Callable[[Array], Array]
CLIP = 1e-7


@dataclass
class SlowNetwork:
    """`parameters`: conv0, conv_bias0, gamma0, beta0, conv1, ..., head, head_bias.

    blocks: how many convolutions each block has. group: examples that share statistics.
    shards: 1 keeps one running mean and variance, fed by the mean over groups; more keep one
    per group. `running_mean` and `running_var`: [shards, C] per layer.
    """

    parameters: dict[str, Array]
    blocks: tuple[int, ...]
    group: int
    shards: int = 1
    eps: float = 1e-3
    momentum: float = 0.99
    running_mean: list[Array] = field(default_factory=list)
    running_var: list[Array] = field(default_factory=list)
    gradients: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in range(sum(self.blocks)):
            channels = len(self.parameters[f"gamma{layer}"])
            self.running_mean.append(np.zeros((self.shards, channels)))
            self.running_var.append(np.ones((self.shards, channels)))

    def forward(self, x: Array, *, training: bool) -> tuple[Array, list[Backward]]:
        """Logits [B, K], and what leads back from them."""
        back: list[Backward] = []
        layer = 0
        for number, layers in enumerate(self.blocks):
            for _ in range(layers):
                x, step = self.convolution(x, layer)
                back.append(step)
                if training:
                    x, step = self.batch_norm(x, layer)
                    back.append(step)
                else:
                    x = self.batch_norm_evaluated(x, layer)
                positive = x > 0
                x = np.where(positive, x, 0.0)
                back.append(lambda dy, positive=positive: dy * positive)
                layer += 1
            if number + 1 < len(self.blocks):
                x, step = pool(x)
                back.append(step)
        return self.dense(x.mean((2, 3)), x.shape, back)

    def convolution(self, x: Array, layer: int) -> tuple[Array, Backward]:
        """out[b, o, y, x] = bias[o] + sum over c, i, j of w[o, c, i, j] in[b, c, y+i-1, x+j-1],
        zero outside of the image."""
        w = self.parameters[f"conv{layer}"]
        height, width = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = {
            (i, j): padded[:, :, i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
        }
        y = sum(np.einsum("oc,bchw->bohw", w[:, :, i, j], v) for (i, j), v in windows.items())
        y = y + self.parameters[f"conv_bias{layer}"][:, None, None]

        def backward(dy: Array) -> Array:
            dw, dpadded = np.zeros_like(w), np.zeros_like(padded)
            for (i, j), window in windows.items():
                dw[:, :, i, j] = np.einsum("bohw,bchw->oc", dy, window)
                dpadded[:, :, i : i + height, j : j + width] += np.einsum(
                    "oc,bohw->bchw", w[:, :, i, j], dy
                )
            self.gradients[f"conv{layer}"] = dw
            self.gradients[f"conv_bias{layer}"] = dy.sum((0, 2, 3))
            return dpadded[:, :, 1:-1, 1:-1]

        return y, backward

    def batch_norm(self, x: Array, layer: int) -> tuple[Array, Backward]:
        """Each group by itself: (x - mean) / sqrt(biased variance + eps) * gamma + beta."""
        gamma, beta = self.parameters[f"gamma{layer}"], self.parameters[f"beta{layer}"]
        starts = range(0, len(x), self.group)
        normal, deviations, means, variances = np.zeros_like(x), [], [], []
        for start in starts:
            part = x[start : start + self.group]
            count = part.size // part.shape[1]
            mean = part.mean((0, 2, 3))
            variance = ((part - mean[:, None, None]) ** 2).mean((0, 2, 3))
            deviation = np.sqrt(variance + self.eps)
            normal[start : start + self.group] = (part - mean[:, None, None]) / deviation[
                :, None, None
            ]
            deviations.append(deviation)
            means.append(mean)
            variances.append(variance * count / (count - 1))  # Bessel: what is kept
        if self.shards == 1:
            means, variances = [sum(means) / len(means)], [sum(variances) / len(variances)]
        for r, (mean, variance) in enumerate(zip(means, variances, strict=True)):
            for running, new in (
                (self.running_mean[layer], mean),
                (self.running_var[layer], variance),
            ):
                running[r] = self.momentum * running[r] + (1 - self.momentum) * new

        def backward(dy: Array) -> Array:
            self.gradients[f"gamma{layer}"] = (dy * normal).sum((0, 2, 3))
            self.gradients[f"beta{layer}"] = dy.sum((0, 2, 3))
            dx = np.zeros_like(x)
            for start, deviation in zip(starts, deviations, strict=True):
                part = slice(start, start + self.group)
                dnormal = dy[part] * gamma[:, None, None]
                mean = dnormal.mean((0, 2, 3))[:, None, None]
                along = (dnormal * normal[part]).mean((0, 2, 3))[:, None, None]
                dx[part] = (dnormal - mean - normal[part] * along) / deviation[:, None, None]
            return dx

        return normal * gamma[:, None, None] + beta[:, None, None], backward

    def batch_norm_evaluated(self, x: Array, layer: int) -> Array:
        """Running statistics; the r-th of R equal parts of the batch has the r-th ones."""
        y = np.zeros_like(x)
        for b in range(len(x)):
            r = b * self.shards // len(x)
            mean, variance = self.running_mean[layer][r], self.running_var[layer][r]
            scale = self.parameters[f"gamma{layer}"] / np.sqrt(variance + self.eps)
            shift = self.parameters[f"beta{layer}"]
            y[b] = (x[b] - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]
        return y

    def dense(
        self, features: Array, shape: tuple[int, ...], back: list[Backward]
    ) -> tuple[Array, list[Backward]]:
        """features @ head.T + head_bias; its way back begins the way back of the whole."""
        head = self.parameters["head"]

        def backward(dlogits: Array) -> Array:
            self.gradients["head"] = dlogits.T @ features
            self.gradients["head_bias"] = dlogits.sum(0)
            dfeatures = dlogits @ head / (shape[2] * shape[3])
            return np.broadcast_to(dfeatures[:, :, None, None], shape)

        return features @ head.T + self.parameters["head_bias"], [*back, backward]

    def loss(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], kind: str, scale: float
    ) -> tuple[float, dict[str, Array]]:
        """Mean training loss of a batch [B, H, W, C], and the gradients."""
        logits, back = self.forward(pixels(images, scale), training=True)
        losses, gradient = example_losses(logits, labels, kind)
        gradient = gradient / len(labels)
        for step in reversed(back):
            gradient = step(gradient)
        return float(losses.mean()), self.gradients


def pixels(images: NDArray[np.uint8], scale: float) -> Array:
    """uint8 [B, H, W, C] as numbers [B, C, H, W]."""
    return images.astype(np.float64).transpose(0, 3, 1, 2) * scale


def pool(x: Array) -> tuple[Array, Backward]:
    """Average of each 2x2 window; an odd last row or column is left out."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    y = np.zeros((*x.shape[:2], height, width))
    for row in range(height):
        for column in range(width):
            window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            y[:, :, row, column] = window.mean((2, 3))

    def backward(dy: Array) -> Array:
        dx = np.zeros_like(x)
        dx[:, :, : 2 * height, : 2 * width] = dy.repeat(2, axis=2).repeat(2, axis=3) / 4
        return dx

    return y, backward


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def example_losses(logits: Array, labels: NDArray[np.int64], kind: str) -> tuple[Array, Array]:
    """Loss of each example [B] and its gradient with respect to the logits [B, K].

    "logits": -log softmax. "clipped-softmax": the probability of the true class is clipped
    to [1e-7, 1 - 1e-7] first; outside, the gradient is zero.
    """
    probabilities = softmax(logits)
    rows = np.arange(len(labels))
    gradient = probabilities.copy()
    gradient[rows, labels] -= 1
    if kind == "logits":
        top = logits.max(-1)
        spread = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        return spread - logits[rows, labels], gradient
    true = probabilities[rows, labels]
    inside = (true >= CLIP) & (true <= 1 - CLIP)
    return -np.log(np.clip(true, CLIP, 1 - CLIP)), gradient * inside[:, None]


@dataclass(frozen=True)
class Sgd:
    """keras: v = m v - lr g, w += v. torch: v = m v + g, w -= lr v."""

    form: str = "keras"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def step(self, w: Array, g: Array, v: Array, lr: float) -> tuple[Array, Array]:
        """The new weight and velocity."""
        m = self.momentum
        g = g + self.weight_decay * w
        if self.form == "keras":
            v = m * v - lr * g
            return (w + m * v - lr * g if self.nesterov else w + v), v
        v = m * v + g
        return w - lr * (g + m * v if self.nesterov else v), v


def train(
    network: SlowNetwork,
    batches: list[tuple[NDArray[np.uint8], NDArray[np.int64]]],
    rates: list[float],
    sgd: Sgd,
    *,
    loss: str,
    scale: float = 1 / 255,
    velocities: dict[str, Array] | None = None,
) -> list[float]:
    """One update a batch, in place; the loss of every update."""
    if velocities is None:
        velocities = {}
    losses = []
    for (images, labels), lr in zip(batches, rates, strict=True):
        value, gradients = network.loss(images, labels, loss, scale)
        losses.append(value)
        for name, g in gradients.items():
            w = network.parameters[name]
            v = velocities.get(name, np.zeros_like(w))
            network.parameters[name], velocities[name] = sgd.step(w, g, v, lr)
    return losses


def evaluate(
    network: SlowNetwork,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    scale: float = 1 / 255,
    batch: int = 1000,
) -> tuple[float, float]:
    """Accuracy and mean cross entropy; the last batch may be shorter."""
    right, total = 0, 0.0
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        logits, _ = network.forward(pixels(images[part], scale), training=False)
        losses, _ = example_losses(logits, labels[part], "logits")
        right += int((logits.argmax(-1) == labels[part]).sum())
        total += math.fsum(losses)
    return right / len(labels), total / len(labels)
