"""One trial on several ranks: processes with a device each, that share every batch.

Every rank holds the whole network, all data and the whole trial: indices, augmentation,
rates, evaluations. It runs its share of a batch (ranks_shares.py) forward and backward, in
micro batches where it must, and then all ranks exchange, once an update,

    the losses, the gradients, and the means and variances of batch norm's groups

and add up what they got in the order of the ranks: (g0 + g1) + g2 and so on. So the sum is the
same on every rank, whatever the library's own order would have been, and the same in every
run with as many ranks. From there on (clipping, norms, loss scaling's decision to skip, the
optimizer, running statistics, the log of losses) each rank does the same with the same
numbers: one that is not finite anywhere is so everywhere, in the same update.

The exchange is an all-gather: over gloo between CPUs, over NCCL between GPUs, where it is a
part of the captured update. For a batch of B examples and P weights it moves (R - 1) P numbers
to each rank, where a ring all-reduce moves 2 P (R - 1) / R: the same for two ranks, twice as
much for four, for an order that is ours.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
import torch.distributed as dist
from torch import Tensor, nn

from batchcliff.training.accumulation import MicroBatches

# R ranks, P numbers of one rank

TOGETHER = {"cpu": 0.0, "cuda": 1e-3}
"""Most that weights may differ between ranks at the end, relative to the largest. On GPUs two
ranks may have tuned a reduction, such as the norms of LARS, in two ways."""


class Start(TypedDict):
    """Where a trial begins: fields of `checkpoint.Begun`."""

    update: int
    seconds: float


class RankLost(Exception):
    """Another rank did not answer: it died, hangs, or had an error of its own."""


class RanksApart(Exception):
    """Ranks that should hold the same weights do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process as rank `rank` of `count`. captures: an exchange can be part of a graph."""

    rank: int
    count: int
    device: torch.device
    captures: bool = False

    def __str__(self) -> str:
        if self.device.type == "cpu":
            return f"{self.count}, gloo"
        return f"{self.count}, nccl, {'' if self.captures else 'not '}captured"

    def gathered(self, own_P: Tensor) -> Tensor:
        """The numbers of all ranks in their order, [R, P]. Raises RankLost."""
        all_ = torch.empty(self.count * own_P.numel(), dtype=own_P.dtype, device=own_P.device)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with _answers():
            gather(all_, own_P)
        return all_.view(self.count, -1)

    def begin(self, update: int, seconds: float, state: Iterable[Tensor]) -> Start:
        """Rank 0's update and seconds to begin with, and its `state` in place of ours.

        So what one rank reads (a checkpoint, pretrained weights) is read once, and a disk that
        fails one of them cannot set them apart. Raises RankLost.
        """
        place = torch.tensor([update, seconds], dtype=torch.float64, device=self.device)
        self.share([place, *state])
        return {"update": int(place[0]), "seconds": float(place[1])}

    @torch.no_grad()
    def share(self, tensors: Sequence[Tensor]) -> None:
        """Rank 0's tensors in place of ours, in stream order. Raises RankLost."""
        parts = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
        whole = torch.cat(parts)
        with _answers():
            dist.broadcast(whole, src=0)
        pieces = torch.split(whole, [len(part) for part in parts])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.clone().view(tensor.dtype).view(tensor.shape))

    @torch.no_grad()
    def check_together(self, parameters: Sequence[Tensor]) -> None:
        """RanksApart unless every rank has the same weights, as far as its device can."""
        numbers_RP = self.gathered(torch.cat([p.detach().reshape(-1) for p in parameters]))
        first_P = numbers_RP[0]
        same_RP = (numbers_RP == first_P) | (numbers_RP.isnan() & first_P.isnan())
        apart = torch.where(same_RP, 0.0, (numbers_RP - first_P).abs()).nan_to_num(torch.inf)
        largest = first_P.nan_to_num(0, 0, 0).abs().max()
        far = float(apart.max() / largest.clamp(min=1e-30))
        if far > TOGETHER[self.device.type]:
            raise RanksApart(
                f"the weights of {self.count} ranks, which are to be the same, differ by "
                f"{far:g} of the largest weight"
            )


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """An error of an exchange as RankLost; running out of memory stays its cause."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLost(f"another rank did not answer: {str(error)[:300]}") from error


def join(rank: int, count: int, device: torch.device, meeting: str, *, seconds: float) -> Ranks:
    """Meet the other ranks of this trial's team; waits for all of them.

    meeting: an empty file, the same for all. seconds: longest wait for a rank, here and in
    every exchange that a graph does not hold. Raises RankLost.
    """
    cuda = device.type == "cuda"
    with _answers():
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.FileStore(meeting, count),  # type: ignore[attr-defined]
            rank=rank,
            world_size=count,
            timeout=datetime.timedelta(seconds=seconds),
            device_id=device if cuda else None,
        )
    ranks = Ranks(rank=rank, count=count, device=device)
    return replace(ranks, captures=_captures(ranks)) if cuda else ranks


def _captures(ranks: Ranks) -> bool:
    """Whether a graph with an exchange in it can be captured, on every rank, and is right."""
    own = torch.full((4,), ranks.rank + 1.0, device=ranks.device)
    ranks.gathered(own)  # connects
    torch.cuda.synchronize(ranks.device)
    graph, found, works = torch.cuda.CUDAGraph(), own, True
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = ranks.gathered(own * 2)
    except (RuntimeError, RankLost):
        works = False
    torch.cuda.synchronize(ranks.device)
    if not bool(ranks.gathered(torch.tensor([float(works)], device=ranks.device)).all()):
        return False
    graph.replay()
    wanted = [2.0 * (rank + 1) for rank in range(ranks.count)]
    right = found[:, 0].tolist() == wanted
    return bool(ranks.gathered(torch.tensor([float(right)], device=ranks.device)).all())


class RankBatches(MicroBatches):
    """A batch whose micro batches lie on several ranks, in the order of both.

    batch_size, size, overlap: as in MicroBatches; each rank has batch_size / (R size) passes.
    """

    def __init__(
        self, model: nn.Module, batch_size: int, size: int, overlap: int, ranks: Ranks
    ) -> None:
        super().__init__(model, batch_size, size, overlap)
        each, rest = divmod(self.count, ranks.count)
        assert rest == 0, f"{self.count} micro batches over {ranks.count} ranks"
        self.ranks = ranks
        self.own = range(ranks.rank * each, (ranks.rank + 1) * each)

    def joined(self, total: list[Tensor]) -> list[Tensor]:
        """The sums over all ranks of each tensor of `total`; the statistics of every group of
        the batch are in their places then."""
        own, wholes = list(total), []
        for one in self._statistics:
            rows = len(one.mean) // self.ranks.count
            mine = slice(self.ranks.rank * rows, (self.ranks.rank + 1) * rows)
            own += [one.mean[mine], one.var[mine]]
            wholes += [one.mean, one.var]
        everyones = exchanged(own, self.ranks.gathered)
        for whole, parts in zip(wholes, everyones[len(total) :], strict=True):
            whole.copy_(torch.cat(parts))
        return [in_order(parts) for parts in everyones[: len(total)]]


def in_order(parts: Sequence[Tensor]) -> Tensor:
    """((p0 + p1) + p2) + ..."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def exchanged(
    tensors: Sequence[Tensor], gathered: Callable[[Tensor], Tensor]
) -> list[list[Tensor]]:
    """Each tensor as all ranks have it, in the order of the ranks; one exchange for each of
    their number types."""
    found: list[list[Tensor]] = [[] for _ in tensors]
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        for one_P in gathered(flat):
            pieces = torch.split(one_P, [tensors[i].numel() for i in places])
            for i, piece in zip(places, pieces, strict=True):
                found[i].append(piece.view(tensors[i].shape))
    return found
