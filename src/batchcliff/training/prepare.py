"""Everything that trials of one shape share: network, device state, compiled updates.

Trials have the same shape when they differ only in seed, arm label, learning rates and
techniques of the rate: then the same compiled code serves them, one after the other, or on
a CPU side by side in one stacked network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.kernels import fused_batch_norm
from batchcliff.models import build
from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
from batchcliff.models.network import Network
from batchcliff.randomness import derive
from batchcliff.spec import TrialSpec
from batchcliff.trace import mark
from batchcliff.training.accumulation import MicroBatches, check_separable
from batchcliff.training.afresh import seed_generators
from batchcliff.training.arithmetic import batch_norm_group, shape_key, timeline_of
from batchcliff.training.capturable import uncapturable, uncompilable
from batchcliff.training.compiled import WARM_UPS, captured, compiles
from batchcliff.training.evaluate import Evaluation
from batchcliff.training.loop import Loop
from batchcliff.training.micro_batch import Inseparable, micro_batch
from batchcliff.training.own import Build, build_own, takes_channels_last
from batchcliff.training.probes_plan import probe_logs
from batchcliff.training.ranks import Ranks
from batchcliff.training.ranks_shares import Indivisible, check_ranks

SeededBuild = Callable[[int], nn.Module]


class Unstacked(nn.Module):
    """A user's network [B, C, H, W] -> [B, K], as a stack of one: [B, 1, K].

    channels_last: whether it takes images in that layout (own.takes_channels_last).
    """

    channels_last = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.network(x_BCHW if self.channels_last else x_BCHW.contiguous())
        return logits.unsqueeze(1)


class Step(NamedTuple):
    """What one batch size has of its own. group: examples that share batch-norm statistics,
    None where that is not ours to set."""

    loop: Loop
    advance: Callable[[], None]
    group: int | None


@dataclass(kw_only=True, slots=True)
class Prepared:
    """Compiled and captured; `advance` applies one update, `evaluate` one evaluation.

    Where the batch size changes during the run, `loop` and `advance` are those of the first
    size and `later` has those of the others. They share the network, the optimizer's state,
    data, rates and logs; each has its own compiled code, captured graph and activations, so
    memory and compile time are the sum over the sizes.
    """

    key: bytes
    model: nn.Module
    loop: Loop
    evaluation: Evaluation
    advance: Callable[[], None]
    evaluate: Callable[[], None]
    stack: int
    seconds: float  # spent in compiling, warming up and capturing
    user_build: SeededBuild | None
    compiled: bool
    captured: bool  # an update is one launch, so that the host can keep a GPU busy
    kernels: str  # which hand-written kernels run, or why none does
    most: int = 0  # examples that may pass through the network at once; 0: any batch
    later: dict[int, Step] = field(default_factory=dict)
    first_group: int | None = None

    def at(self, batch_size: int) -> Step:
        """The step of a batch size, batch norm's groups made for it."""
        step = self.later.get(batch_size) or Step(self.loop, self.advance, self.first_group)
        if self.later:
            set_groups(self.model, step.group)
        return step

    def _in_parts(self) -> list[MicroBatches]:
        loops = [self.loop, *(step.loop for step in self.later.values())]
        return [loop.micro_batches for loop in loops]

    @property
    def accumulation(self) -> int:
        """Micro batches of an update on one rank; the most, where the batch size changes."""
        return max(len(parts.own) for parts in self._in_parts())

    @property
    def micro_batch(self) -> int:
        """Most examples at once of the batches that are cut; 0 where none is."""
        return max((p.size for p in self._in_parts() if len(p.own) > 1), default=0)

    @property
    def team(self) -> str:
        """How many ranks share a batch, and over what they exchange; "" for one alone."""
        return "" if self.loop.ranks is None else str(self.loop.ranks)

    def restart(self, specs: list[TrialSpec], rates_US: Tensor) -> None:
        """Initial weights from each trial's seed, an empty log, and the rates [U, S]."""
        if isinstance(self.model, Network):
            self.model.initialise(specs[0].settings.model.init, [spec.seed for spec in specs])
        else:
            assert self.user_build is not None
            fresh = self.user_build(specs[0].seed)
            # In place: captured addresses stay valid.
            self.model.load_state_dict(fresh.state_dict())
            there = dict(self.model.named_buffers())
            for name, buffer in fresh.named_buffers():  # also those that no state_dict holds
                there[name].copy_(buffer)
        self.loop.restart(rates_US)
        self.evaluation.count.zero_()


def image_shape(resident: Resident) -> tuple[int, int, int]:
    """(H, W, C) of the images."""
    height, width, channels = resident.train_images.shape[1:]
    return height, width, channels


def _seeded(
    user_build: Build | None, shape: tuple[int, int, int], num_classes: int, group: str | int
) -> SeededBuild | None:
    if user_build is None:
        return None

    def make(seed: int) -> nn.Module:
        seed_generators(derive(seed, "init") % 2**63)
        return Unstacked(build_own(user_build, shape, num_classes, group))

    return make


def _layout(model: nn.Module, shape: tuple[int, int, int]) -> torch.memory_format:
    """Of weights and images: channels-last, which GPUs compute in, wherever that works."""
    if isinstance(model, Unstacked):
        model.channels_last = takes_channels_last(model.network, shape)
        if not model.channels_last:
            return torch.contiguous_format
    return torch.channels_last


def _network(
    spec: TrialSpec, shape: tuple[int, int, int], num_classes: int, stack: int
) -> nn.Module:
    return build(
        spec.settings.model,
        spec.settings.batch_norm,
        shape,
        num_classes,
        batch_norm_group=batch_norm_group(spec),
        stack=stack,
    )


def prepare(
    spec: TrialSpec,
    resident: Resident,
    *,
    num_classes: int,
    stack: int,
    user_build: Build | None = None,
    most: int = 0,
    ranks: Ranks | None = None,
) -> Prepared:
    """Build, compile, warm up and capture what trials of `spec`'s shape share.

    most: examples that may pass through the network at once; a larger batch is run in micro
    batches. 0: every batch whole. ranks: the team that shares every batch, of which this
    process is one. Raises torch.OutOfMemoryError where that does not fit, Inseparable where
    micro batches would not give the result of the whole batch, and Indivisible where ranks
    would not.
    """
    start, device = time.perf_counter(), resident.train_images.device
    num_train = len(resident.train_labels)
    shape, sizes = image_shape(resident), _Sizes(spec, num_train, most, ranks)
    if ranks is not None:  # an adaptive study knows its trials one by one
        check_ranks(spec, num_train, ranks.count)
    seeded = _seeded(user_build, shape, num_classes, spec.settings.batch_norm.group)
    model = seeded(spec.seed) if seeded else _network(spec, shape, num_classes, stack)
    layout = _layout(model, shape)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    kernels = sizes.kernels(model, device)
    mark("kernels are checked")
    first_group = sizes.set_group(model, sizes.first)
    loop = sizes.first_loop(model, resident, stack)
    loop.logs |= probe_logs(spec, num_train, loop)
    evaluation = _evaluation(model, spec, resident, stack, len(sizes.timeline.epochs()) + 1)
    model.train()
    _check_cut(loop)
    advance, evaluate, plainly = _compiled_and_captured(loop, evaluation)
    captured = compiles(device) and not plainly
    later = {size: sizes.later(loop, size, capture=not plainly) for size in sizes.others}
    if layout is torch.contiguous_format:
        plainly = "; ".join(filter(None, ["images not channels-last (it views them)", plainly]))
    return Prepared(
        key=shape_key(spec),
        model=model,
        loop=loop,
        evaluation=evaluation,
        advance=advance,
        evaluate=evaluate,
        stack=stack,
        seconds=time.perf_counter() - start,
        user_build=seeded,
        compiled=compiles(device),
        captured=captured,
        kernels="; ".join(filter(None, [kernels, plainly])),
        most=most,
        later=later,
        first_group=first_group,
    )


class _Sizes:
    """The batch sizes of a run, `first` and `others`, and what each of them has of its own."""

    def __init__(self, spec: TrialSpec, num_train: int, most: int, ranks: Ranks | None) -> None:
        self.spec, self.timeline = spec, timeline_of(spec, num_train)
        self.most, self.ranks = most, ranks
        found = dict.fromkeys(stretch.batch_size for stretch in self.timeline.stretches)
        self.first, *self.others = found

    def at_once(self, size: int) -> int:
        """Examples of a batch that pass through the network at once."""
        count = 1 if self.ranks is None else self.ranks.count
        return micro_batch(self.spec, size, self.most, count)

    def rows(self, size: int) -> int:
        """Updates of an epoch, no fewer than warming up takes: each one reads its own row."""
        return max(math.ceil(self.timeline.updates_per_epoch(size)), WARM_UPS)

    def set_group(self, model: nn.Module, size: int) -> int | None:
        """Make batch norm's groups for the size: the examples that share statistics, None in a
        network of the user's own."""
        group = batch_norm_group(self.spec, size) if isinstance(model, Network) else None
        set_groups(model, group)
        return group

    def kernels(self, model: nn.Module, device: torch.device) -> str:
        """Let the model run kernels where they serve every batch size; said in words."""
        reason = ""
        for size in (self.first, *self.others):
            self.set_group(model, size)
            precision = self.spec.settings.precision
            applied, reason = fused_batch_norm(model, device, precision, self.at_once(size))
            if not applied:
                break
        return reason

    def first_loop(self, model: nn.Module, resident: Resident, stack: int) -> Loop:
        """The loop of the first batch size, with the whole run's state."""
        return Loop(
            model,
            self.spec.settings,
            resident.train_images,
            resident.train_labels,
            batch_size=self.first,
            stack=stack,
            rows=self.rows(self.first),
            updates=self.timeline.updates,
            scale=resident.scale,
            micro_batch=self.at_once(self.first),
            ranks=self.ranks,
        )

    def later(self, loop: Loop, size: int, *, capture: bool) -> Step:
        """The step of a batch size that comes later in the run; compiled and captured, unless
        the network takes neither."""
        group = self.set_group(loop.model, size)
        own = loop.resized(size, self.rows(size), self.at_once(size))
        _check_cut(own)
        if not capture:
            return Step(own, own.update, group)
        if compiles(loop.device):
            _compile(own)
        return Step(own, _captured_update(own), group)


def _evaluation(
    model: nn.Module, spec: TrialSpec, resident: Resident, stack: int, evaluations: int
) -> Evaluation:
    return Evaluation(
        model,
        spec.settings,
        resident.test_images,
        resident.test_labels,
        stack=stack,
        evaluations=evaluations,
        scale=resident.scale,
    )


def _compiled_and_captured(
    loop: Loop, evaluation: Evaluation
) -> tuple[Callable[[], None], Callable[[], None], str]:
    """An update and an evaluation, compiled and captured; or as they are, and why."""
    if compiles(loop.device):
        _compile(loop, evaluation)
    plainly = _plainly(loop, evaluation)
    advance = loop.update if plainly else _captured_update(loop)
    loop.model.eval()
    evaluate = evaluation.run
    if not plainly:
        evaluate = captured(evaluation.run, evaluation.tensors(), loop.device)
    loop.model.train()
    return advance, evaluate, plainly


def _plainly(loop: Loop, evaluation: Evaluation) -> str:
    """Why nothing is captured for a network of the user's own, which may do what no graph can
    hold or no compiler takes; "" if all is as usual."""
    own = isinstance(loop.model, Unstacked) and loop.ranks is None
    if not own or not compiles(loop.device):
        return ""
    said = ""
    for function, changes in (
        (loop.update, loop.tensors()), (evaluation.run, evaluation.tensors())
    ):  # fmt: skip
        loop.model.train(function == loop.update)
        said = uncompilable(function, changes)
        if said:
            loop.loss_function, evaluation.logits_function = loop.losses, evaluation.logits
        said = said or uncapturable(function, changes)
        if said:
            break
    loop.model.train()
    return said


def _captured_update(loop: Loop) -> Callable[[], None]:
    """The update as a graph where the device has them; as it is, where graphs cannot hold the
    ranks' exchange, which the record then says (`Ranks.captures`)."""
    if loop.ranks is not None and not loop.ranks.captures:
        return loop.update
    return captured(loop.update, loop.tensors(), loop.device)


def _check_cut(loop: Loop) -> None:
    """Inseparable where a network of the user's own must not get its batch in parts,
    Indivisible where these are the shares of ranks."""
    if not isinstance(loop.model, Unstacked) or loop.micro_batches.count == 1:
        return
    try:
        check_separable(loop.model.network, loop.first_pass)
    except Inseparable as error:
        if loop.ranks is None:
            raise
        raise Indivisible(
            f"--ranks {loop.ranks.count}: {str(error).replace('micro batches', 'shares')} "
            "Or write --ranks 1."
        ) from error


def set_groups(model: nn.Module, group: int | None) -> None:
    """Make `group` examples share statistics in every batch norm; None: leave them."""
    for module in model.modules():
        if group is not None and isinstance(module, GhostBatchNorm2d):
            module.group = group


def _compile(loop: Loop, evaluation: Evaluation | None = None) -> None:
    torch._dynamo.reset()  # one shape at a time: the former shape's code is not needed again
    compile_: Any = torch.compile
    loop.loss_function = compile_(loop.losses, dynamic=False)
    loop.apply_function = compile_(loop.apply_function, dynamic=False)
    if evaluation is not None:
        evaluation.logits_function = compile_(evaluation.logits, dynamic=False)
