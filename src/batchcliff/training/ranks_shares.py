"""Which trials can be trained by several ranks, and what each of them gets of a batch.

A batch of B examples lies over R ranks in shares of B / R examples, in the order of the batch:
rank r has examples r B / R up to (r + 1) B / R - 1, and a share holds whole groups of batch
norm. Then every example is normalised by the statistics that it has in the whole batch, and
what a trial computes depends on R by the order of sums alone. Stdlib only: a run refuses what
cannot be before torch is imported.
"""

from __future__ import annotations

from batchcliff.errors import UsageError
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import batch_norm_group, timeline_of


class Indivisible(UsageError):
    """A trial that several ranks cannot train with the result of one."""


def check_ranks(spec: TrialSpec, num_train: int, ranks: int) -> None:
    """Indivisible, with the arm and what to write, if `ranks` cannot share the trial.

    What layers a network of the user's own has is not known here (`prepare` looks at it).
    """
    said = f"--ranks {ranks}: arm {spec.arm!r}"
    if ranks > 1 and spec.settings.probes:
        raise Indivisible(
            f"{said}: settings.probes = {list(spec.settings.probes)} are measured on one "
            "device alone. Write --ranks 1, or leave the probes out."
        )
    for size in dict.fromkeys(s.batch_size for s in timeline_of(spec, num_train).stretches):
        share, rest = divmod(size, ranks)
        if rest:
            near = f"{share * ranks} or {(share + 1) * ranks}" if share else f"{ranks}"
            raise Indivisible(
                f"{said}: batch size {size} does not divide over {ranks} ranks. Write "
                f"batch_sizes that are multiples of {ranks}, such as {near}, or --ranks 1."
            )
        named = spec.settings.batch_norm.group
        if isinstance(named, str) and spec.settings.model.name == "own":
            continue
        group = batch_norm_group(spec, size)
        if share % group:
            of = "the whole batch" if group == size else f"groups of {group} examples"
            raise Indivisible(
                f"{said}: batch size {size} lies in shares of {share} examples, and batch "
                f"norm's statistics are of {of} (batch_norm.group = {named!r}), which a share "
                f"must hold whole. Write --ranks 1, or batch_norm.group = {share}: that is "
                "another trial, and said so."
            )
