"""Into which micro batches a batch may be cut so that the result is that of the whole batch.

A micro batch is what the device holds at once. All of one batch are of equal size, and each
holds whole groups of batch norm: then every example is normalised by the statistics that it
has in the whole batch (training/accumulation.py does the rest). Stdlib only: a run refuses
what cannot be before torch is imported.
"""

from __future__ import annotations

from batchcliff.errors import UsageError
from batchcliff.schedules.batch_size import split
from batchcliff.spec import TrialSpec
from batchcliff.training.arithmetic import batch_norm_group, timeline_of


class Inseparable(UsageError):
    """A batch that has no micro batches of the size asked for with the same result."""


def micro_batch(spec: TrialSpec, batch_size: int, most: int, ranks: int = 1) -> int:
    """The largest micro batch of at most `most` examples of a batch; 0: the whole batch, or
    the share of one of several `ranks`, which divides it (ranks_shares.py).

    What batch norm a network of the user's own has is not known here, unless the trial says
    its group (see `accumulation.check_separable`).

    Raises:
        Inseparable: batch norm's groups are larger than `most`.
        UsageError: `most` is negative.
    """
    share = batch_size // ranks
    if most == 0 or share <= most:
        return share
    group = _group(spec, batch_size)
    if group > most >= 1:
        given = spec.settings.batch_norm.group
        of = "the whole batch" if group == batch_size else f"groups of {group} examples"
        larger = f"a micro batch of at least {group}, or " if group < batch_size else ""
        raise Inseparable(
            f"batch size {batch_size} cannot be run in micro batches of {most} with the same "
            f"result: batch norm's statistics are of {of} (batch_norm.group = {given!r}). "
            f"Write {larger}a ghost size, such as batch_norm.group = "
            f"{split(batch_size, most)[0]}: that is another trial, and said so."
        )
    return group * split(share // group, most // group)[0]


def _group(spec: TrialSpec, batch_size: int) -> int:
    """Examples that a micro batch must hold a multiple of."""
    named = isinstance(spec.settings.batch_norm.group, str)
    if named and spec.settings.model.name == "own":
        return 1
    return batch_norm_group(spec, batch_size)


def halved(spec: TrialSpec, num_train: int, most: int, ranks: int = 1) -> int:
    """The next smaller `most` after `most` (0: whole batches) for all batch sizes of a trial:
    about half of the largest micro batch that it gives. Inseparable if there is none."""
    sizes = {stretch.batch_size for stretch in timeline_of(spec, num_train).stretches}
    now = max(micro_batch(spec, size, most, ranks) for size in sizes)
    if now == 1:
        raise Inseparable("there is no micro batch smaller than one example")
    return max(micro_batch(spec, size, now // 2, ranks) for size in sizes)


def check_micro_batches(spec: TrialSpec, num_train: int, most: int) -> None:
    """Inseparable, with the trial's arm, if one of its batches has no micro batches."""
    for stretch in timeline_of(spec, num_train).stretches:
        try:
            micro_batch(spec, stretch.batch_size, most)
        except Inseparable as error:
            raise Inseparable(f"--micro-batch {most}: arm {spec.arm!r}: {error}") from None
