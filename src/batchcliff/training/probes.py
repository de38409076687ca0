"""Probes of a run, and what a trial's record keeps of them (`settings.probes`).

A probe measures the weights that an update begins with, between two updates of the captured
graph and outside of it, in float32, on examples that the run would see after its end. It moves
nothing: a trial ends on the same bits with probes and without. What is measured lies in the
loop's logs, so that a restart forgets it and a checkpoint keeps it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from batchcliff.models.network import Network
from batchcliff.randomness import derive, uniform
from batchcliff.record import Probes, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.training.accumulation import MicroBatches
from batchcliff.training.arithmetic import learning_rates
from batchcliff.training.capturable import uncapturable
from batchcliff.training.compiled import Recorder
from batchcliff.training.loop import Loop
from batchcliff.training.precision import precision
from batchcliff.training.probes_measure import (
    aside,
    gradient_noise,
    lanczos,
    parameter_groups,
    ritz,
    update_ratios,
)
from batchcliff.training.probes_plan import (
    LANCZOS,
    NOISE,
    RATIO,
    effort,
    examples_of_a_probe,
    points,
)
from batchcliff.training.second_derivatives import differentiated_twice

# P points, S stack, n examples of a probe, k draws per example

FIRST = 100  # updates whose losses are kept


class Probing:
    """Probes one run: `measure` applies an update, and looks before and after it.

    index_nS, draws_nSk: of at least `2 * examples_of_a_probe` examples. recorder: where the
    updates are captured, what replays the sharpness' iterations, whose thousands of short
    launches the host would need longer for than the device.
    """

    def __init__(
        self,
        loop: Loop,
        spec: TrialSpec,
        index_nS: Tensor,
        draws_nSk: Tensor,
        recorder: Recorder | None = None,
    ) -> None:
        num_train = len(loop.labels_N)
        where = points(spec, num_train)
        self.effort = effort(spec, num_train)
        self.loop, self.asked = loop, spec.settings.probes
        self.rows = {update: row for row, update in enumerate(where.every)}
        self.sharpness_at = frozenset(where.sharpness)
        self.groups = list(parameter_groups([p.shape for p in loop.parameters]).values())
        self.examples = examples_of_a_probe(num_train)
        self.index_nS, self.draws_nSk = index_nS, draws_nSk
        self.recorder = recorder
        weights = sum(p.numel() for p in loop.parameters)
        start = torch.from_numpy(uniform(derive("probe"), weights) - 0.5)
        self.start_W = start.to(loop.device, torch.float32)

    @contextlib.contextmanager
    def _looking(self, most: int) -> Iterator[None]:
        """Without a trace, in float32, multiplied in TF32 where a GPU can.

        cuDNN takes what its rules say: trying all of its algorithms for a few passes would cost
        more than they do.
        """
        cudnn = torch.backends.cudnn
        before, cudnn.benchmark = cudnn.benchmark, False
        try:
            with precision("tf32", self.loop.device), aside(self.loop.model, most):
                yield
        finally:
            cudnn.benchmark = before

    def measure(self, update: int, advance: Callable[[], None]) -> None:
        """`advance()`, which applies `update`, and the probes that are due with it."""
        row, logs = self.rows[update], self.loop.logs
        if "noise-scale" in self.asked:
            logs[NOISE][row, 0] = self.noise()
        if update in self.sharpness_at:
            logs[LANCZOS][row, 0] = self.curvature()
        if "update-ratio" not in self.asked:
            advance()
            return
        before = [p.detach().clone() for p in self.loop.parameters]
        advance()
        logs[RATIO][row, 0] = update_ratios(
            before, [p.detach() for p in self.loop.parameters], self.groups
        )

    def _loss(self, first: int, last: int) -> Tensor:
        """Mean training loss of the probe's examples first .. last - 1."""
        own = copy.copy(self.loop)
        own.micro_batches = MicroBatches(own.model, last - first, last - first)
        return own.losses(self.index_nS[first:last], self.draws_nSk[first:last]).sum()

    def noise(self) -> Tensor:
        """tr(Sigma) and |G|^2 of the examples, float64 [2]."""
        parts = self.effort.parts
        small = 2 * self.examples // parts
        losses = [
            functools.partial(self._loss, i * small, (i + 1) * small) for i in range(parts)
        ]
        with self._looking(small):
            return gradient_noise(losses, self.loop.parameters, small)

    def curvature(self) -> Tensor:
        """The Lanczos matrix of the first half of the examples, [2, k]."""
        loss = functools.partial(self._loss, 0, self.examples)
        model, parameters = self.loop.model, self.loop.parameters
        with contextlib.ExitStack() as around:
            around.enter_context(self._looking(self.examples))
            around.enter_context(differentiated_twice(model))
            if self.recorder is not None:
                around.enter_context(self.recorder.on_its_stream())
            return lanczos(loss, parameters, self.start_W, self.effort.iterations, self._record)

    def _record(self, product: Callable[[], None]) -> Callable[[], None]:
        """Replays of a product with the Hessian; itself where nothing is captured, or where
        second derivatives in a network of the user's own wait for the device."""
        own = not isinstance(self.loop.model, Network)
        if self.recorder is None or (own and uncapturable(product, [])):
            return product
        return self.recorder(product)


def read_probes(
    record: TrialRecord,
    num_train: int,
    losses_U: Tensor,
    logs: dict[str, Tensor],
    shapes: list[torch.Size],
) -> Probes:
    """What a trial's record keeps of its probes; nothing after the first bad update.

    losses_U: of the trial, [U]. logs: [P, ...] by name. shapes: of the parameters.
    """
    spec, bad = record.spec, record.first_bad_update
    where = points(spec, num_train)
    end = record.updates if bad is None else bad + 1
    rows = [row for row, update in enumerate(where.every) if update < end]
    updates = tuple(where.every[row] for row in rows)
    rates = learning_rates(spec, num_train)
    found: dict[str, tuple[float | None, ...]] = {}
    if NOISE in logs:
        pairs = [logs[NOISE][row].tolist() for row in rows]
        found["noise_trace"] = tuple(_short(trace) for trace, _ in pairs)
        found["gradient_square"] = tuple(_short(square) for _, square in pairs)
    if LANCZOS in logs:
        curves = [
            ritz(logs[LANCZOS][row].double().numpy()) if update in where.sharpness else None
            for row, update in zip(rows, updates, strict=True)
        ]
        found["sharpness"] = tuple(_short(c[0]) if c else None for c in curves)
        found["sharpness_error"] = tuple(_short(c[1]) if c else None for c in curves)
    groups: tuple[str, ...] = ()
    ratios: tuple[tuple[float | None, ...], ...] = ()
    if RATIO in logs:
        groups = tuple(parameter_groups(shapes))
        ratios = tuple(
            tuple(_short(float(logs[RATIO][row][g])) for row in rows)
            for g in range(len(groups))
        )
    first = (
        losses_U[: min(end, FIRST)].tolist() if "first-losses" in spec.settings.probes else []
    )
    return Probes(
        updates=updates,
        lr=tuple(rates[update] for update in updates),
        groups=groups,
        update_ratio=ratios,
        first_losses=tuple(float(f"{loss:.6g}") for loss in first),
        **found,
    )


def _short(value: float) -> float | None:
    """Six digits, which is more than an estimate has; None if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
