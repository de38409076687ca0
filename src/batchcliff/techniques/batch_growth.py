"""Batch growth: the batch is multiplied where the learning rate would have been divided.

Source: Smith, Kindermans, Ying, Le 2017 (1711.00489), "Don't Decay the Learning Rate,
Increase the Batch Size". With SGD the noise scale is g ~ lr N / (B (1 - m)): what divides it
is the ratio lr/B, so a batch of `factor` times the size does what a rate of 1/factor does,
with `factor` times fewer updates for as many epochs. It holds while B is much smaller than N:
they grow up to about N/10 and decay the rate from there on.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.batch_size import (
    BatchSizes,
    grow_instead_of_decay,
    in_examples,
    share_of_run,
)
from batchcliff.schedules.curves import exact
from batchcliff.spec import Decay, TrialSpec
from batchcliff.techniques.seams import kept

NAME = "batch-growth"
SHARE = re.compile(r"N/([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchGrowth:
    """At each of `at`, lr/B is divided by `factor`: by a larger batch, or a smaller rate.

    The trial's `batch_size` is the first one. A multistep decay is replaced; a decay along a
    curve, or none, stays as it is and the batch grows beside it. The rate of an update is the
    one that the trial without growth has at the same example.

    Args:
        at: durations ("60%", "30ep", "64000ex"); left out: those of the multistep decay.
        factor: whole number of at least 2; left out: 1 / the decay's factor.
        most: the largest batch, as examples or as a share "N/10" of the training set; where
            a growth would pass it, the rate is divided instead, there and from there on.
    """

    at: tuple[str, ...] = ()
    factor: int | None = None
    most: str | int = "N/10"

    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = "batch size"

    def __post_init__(self) -> None:
        try:
            lengths = tuple(str(in_examples(duration)) for duration in self.at)
        except UsageError as error:
            raise UsageError(f"{NAME}.at: {error}") from error
        object.__setattr__(self, "at", lengths)  # one spelling of one length: one trial id
        if self.factor is not None and self.factor < 2:
            raise UsageError(
                f"{NAME}.factor: {self.factor} is not a whole number of at least 2. Write e.g. "
                "factor = 5."
            )
        if isinstance(self.most, str):
            understood = SHARE.fullmatch(self.most) is not None
        else:
            understood = self.most > 1
        if not understood:
            raise UsageError(
                f"{NAME}.most: {self.most!r} is no largest batch. Write examples, such as "
                '4096, or a share of the training set, such as "N/10".'
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this growth in the place of its multistep decay."""
        steps = spec.decay.kind == "multistep"
        if not self.at and not steps:
            raise UsageError(
                f"{NAME}.at: a {spec.decay.kind} decay has no milestones to grow at. Write "
                'e.g. at = ["60%", "85%"].'
            )
        grown = dataclasses.replace(
            self,
            at=self.at or spec.decay.at,
            factor=self.factor or _inverse(spec.decay if steps else None),
        )
        grown._check_order(spec.budget)
        decay = Decay(kind="constant") if steps else spec.decay
        return kept(dataclasses.replace(spec, decay=decay), NAME, grown)

    def _check_order(self, budget: str) -> None:
        """UsageError for milestones outside of the run, or not ascending, as far as lengths
        of different units can be compared before the data are known."""
        try:
            in_examples(budget)
        except UsageError as error:
            raise UsageError(f"{NAME}: the budget is {error}") from error
        shares = [share_of_run(duration, budget) for duration in self.at]
        for duration, share in zip(self.at, shares, strict=True):
            if share is not None and not 0 < share < 1:
                raise UsageError(
                    f"{NAME}.at: {duration} is not inside of the run of {budget}. Write e.g. "
                    '["60%", "85%"].'
                )
        known = [share for share in shares if share is not None]
        if any(a >= b for a, b in pairwise(known)):
            raise UsageError(
                f"{NAME}.at: {', '.join(self.at)} do not ascend: write the milestones in the "
                "order in which they come, each once."
            )

    def sizes(self, batch_size: int, num_examples: int, total: int) -> BatchSizes:
        """The batch sizes of a run of `total` examples that begins with `batch_size`.

        Raises:
            Infeasible: nothing would grow, since the first growth already passes `most`.
        """
        assert self.factor is not None, "resolved by `applied`"
        share = SHARE.fullmatch(str(self.most))
        most = num_examples // int(share[1]) if share else int(self.most)
        if batch_size * self.factor > most:
            raise Infeasible(
                f"{NAME}: {self.factor} x batch size {batch_size} = "
                f"{self.factor * batch_size} passes most = {self.most}"
                f"{f' = {most}' if share else ''}: nothing would grow. Write a larger most, or "
                "leave this batch size out."
            )
        return grow_instead_of_decay(
            batch_size, self.at, Fraction(1, self.factor), num_examples, most, total
        )


def _inverse(decay: Decay | None) -> int:
    """1 / the factor of a multistep decay. UsageError if it is no whole number >= 2."""
    if decay is None:
        raise UsageError(f"{NAME}.factor: is missing. Write e.g. factor = 5.")
    inverse = 1 / exact(decay.factor)
    if inverse.denominator != 1 or inverse < 2:
        raise UsageError(
            f"{NAME}.factor: the decay's factor {decay.factor:g} is not 1 over a whole number "
            "by which a batch could grow. Write e.g. factor = 5."
        )
    return int(inverse)
