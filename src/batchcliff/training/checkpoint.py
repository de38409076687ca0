"""A run that was killed goes on: its whole state as one file, and back.

A checkpoint holds what updates and evaluations change, and the states of torch's random
generators (a network of the user's own may draw from them); its header says whose it is.
Everything else of a run is derived anew from its specs: order, augmentation, learning rates.
Where the files lie is somebody else's matter (study/checkpoints.py). The format is
safetensors, which holds numbers only, so reading one runs nothing.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from batchcliff.spec import TrialSpec
from batchcliff.training import surroundings
from batchcliff.training.arithmetic import timeline_of
from batchcliff.training.epochs import Every, evaluated_epochs
from batchcliff.training.prepare import Prepared

FORMAT = "batchcliff checkpoint 1"
METADATA = "__metadata__"  # what safetensors calls it
MIXED = "mixed"  # in a header: of other numerics under which earlier updates ran
SAME = ("code", "numerics", "weights")  # else the run would not be the one that was begun
ENTRY_BYTES = 2_000  # most that a tensor, or a thing said, takes in a header
WHOLE = re.compile(r"[0-9]{1,18}")
NO_TENSORS = (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError)


class Unusable(ValueError):
    """No checkpoint of this run, or not as it was written; the message is the reason."""


class Elsewhere(ValueError):
    """A checkpoint of this run by other code or under other numerics; what is different."""


class Left(Exception):
    """A run that was asked to end has done so, and its state is saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """Where a run begins: with its first update, or with a checkpoint's next one.

    update: of those before it none is run again. seconds: that they took. mixed: what was
    different of the numerics under which they ran, (name, value) pairs, sorted.
    """

    update: int = 0
    seconds: float = 0.0
    mixed: surroundings.Pairs = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a checkpoint says; `tensors` has every name, shape and type that were asked for."""

    begun: Begun
    tensors: dict[str, Tensor]


class Place(Protocol):
    """Where the checkpoints of one run are kept."""

    def newest(self, read: Callable[[bytes], Saved], most_bytes: int) -> Saved | None:
        """What `read` makes of the newest file that it does not refuse; None without one."""

    def keep(self, update: int, data: bytes) -> None:
        """Make a checkpoint durable; only then let go of older ones."""


class Checkpoints:
    """The checkpoints of one run: `begin` before its first update, `offer` after each epoch,
    `between` before every update.

    every_seconds: the shortest time between two. tell: called with what people should know,
    and with the update that the run goes on from, 0 where it does not. expect: called with the
    most bytes that one will have, before the first update. mixing: whether to go on from one
    that was made under other numerics; the record then says so.
    """

    def __init__(
        self,
        place: Place,
        *,
        every_seconds: float,
        tell: Callable[[str, int], None],
        expect: Callable[[int], None] = lambda _: None,
        mixing: bool = False,
    ) -> None:
        self.place, self.tell, self.every_seconds = place, tell, every_seconds
        self.expect, self.mixing = expect, mixing
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._leaving = False
        self._host: dict[str, Tensor] = {}

    def begin(
        self,
        prepared: Prepared,
        specs: Sequence[TrialSpec],
        num_train: int,
        *,
        code: str,
        weights: str,
    ) -> Begun:
        """Put the newest checkpoint's state in place of the initial one, if there is one.

        prepared: restarted for `specs`. code, weights: names of the code that trains and of
        the pretrained weights.
        """
        self._state, self._device = named_state(prepared), prepared.loop.device
        self._about = about(prepared, specs, code=code, weights=weights)
        ends = _ends(specs[0], num_train)
        wanted = self._state | random_states(self._device)
        entries = len(wanted) + len(self._about) + len(Begun.__slots__)
        most = sum(t.nbytes for t in wanted.values()) + ENTRY_BYTES * entries
        self.expect(most)

        def read(data: bytes) -> Saved:
            return decode(data, wanted, self._about, ends, mixing=self.mixing)

        saved = self.place.newest(read, most)
        begun = Begun() if saved is None else saved.begun
        if saved is not None:
            self._restore(saved.tensors)
            updates = timeline_of(specs[0], num_train).updates
            told = f"goes on from update {begun.update} of {updates}"
            if begun.mixed:
                self._about |= {MIXED: surroundings.text_of(begun.mixed)}
                there = ", ".join(f"{name} {value}" for name, value in begun.mixed)
                told += f", reached under other numerics ({there}): the record says so"
            self.tell(told, begun.update)
        self._clock = Every(seconds=self.every_seconds)
        self._start = time.perf_counter() - begun.seconds
        return begun

    def waited(self, seconds: float) -> None:
        """Since `begin` nothing was done for so long: that is no part of what the run takes."""
        self._start += seconds

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._state.items():
            tensor.copy_(tensors[name])  # in place: captured addresses stay valid
        torch.set_rng_state(tensors["random.cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self._device)

    def offer(self, update: int) -> None:
        """All updates before `update` are queued: save the state after them, if it is time."""
        if self._clock.due():
            self.save(update)

    def leave(self) -> None:
        """Ask the run to end before its next update. A signal's handler may call this."""
        self._leaving = True

    def between(self, update: int) -> None:
        """All updates before `update` are queued: end the run, saved, if it was asked to.

        Raises Left.
        """
        if self._leaving:
            if update:
                self.save(update)
            raise Left

    @torch.no_grad()
    def save(self, update: int) -> None:
        """Save the state after all updates before `update`, which are queued.

        The host copies are taken in stream order; a thread writes them while the run goes on.
        """
        self._settle()
        cuda = self._device.type == "cuda"
        for name, tensor in self._state.items():
            if name not in self._host:
                self._host[name] = torch.empty_like(tensor, device="cpu", pin_memory=cuda)
            self._host[name].copy_(tensor, non_blocking=cuda)
        event = None
        if cuda:
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
        said = {"update": str(update), "seconds": repr(time.perf_counter() - self._start)}
        drawn = random_states(self._device)
        self._writing = self._pool.submit(self._write, update, said, drawn, event)

    def _write(
        self,
        update: int,
        said: dict[str, str],
        drawn: dict[str, Tensor],
        copied: torch.cuda.Event | None,
    ) -> None:
        if copied is not None:
            copied.synchronize()
        self.place.keep(update, encode(self._host | drawn, self._about | said))

    def _settle(self) -> None:
        """Wait for what is being written. A checkpoint that fails costs no trial anything."""
        if self._writing is not None:
            error, self._writing = self._writing.exception(), None
            if error is not None:
                self.tell(f"could not be saved: {error}", 0)

    def close(self) -> None:
        """Wait for the last checkpoint."""
        self._settle()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- what is in a checkpoint -------------------------------------------------------------


def named_state(prepared: Prepared) -> dict[str, Tensor]:
    """Every tensor that an update or an evaluation changes, by name, as it lies there."""
    loop, evaluation = prepared.loop, prepared.evaluation
    named: dict[str, Tensor] = {
        **{f"model.{name}": p.detach() for name, p in prepared.model.named_parameters()},
        **{f"model.{name}": buffer for name, buffer in prepared.model.named_buffers()},
        **{
            f"optimizer.{name}.{i}": tensor
            for name, tensors in loop.rule.state.items()
            for i, tensor in enumerate(tensors)
        },
        **{f"log.{name}": log_US for name, log_US in loop.logs.items()},
        "losses": loop.losses_US,
        "row": loop.row,
        "count": loop.count,
        "evaluation.correct": evaluation.correct_ES,
        "evaluation.loss": evaluation.loss_ES,
        "evaluation.count": evaluation.count,
    }
    # By address: whatever else an update comes to change must be named here too.
    places = {t.data_ptr() for t in named.values() if t.numel()}
    changed = [*loop.tensors(), *evaluation.tensors()]
    assert all(t.data_ptr() in places for t in changed if t.numel()), "state without a name"
    return named


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's random generators that a network may draw from, on the host."""
    found = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["random.cuda"] = torch.cuda.get_rng_state(device)
    return found


def about(
    prepared: Prepared, specs: Sequence[TrialSpec], *, code: str, weights: str
) -> dict[str, str]:
    """Whose state it is, and everything else that its bits may depend on."""
    pairs = surroundings.of(prepared)
    if prepared.micro_batch:
        pairs = (*pairs, ("micro_batch", str(prepared.micro_batch)))
    return {
        "format": FORMAT,
        "trials": "+".join(spec.trial_id for spec in specs),
        "code": code,
        "numerics": surroundings.text_of(pairs),
        "weights": weights,
    }


def _ends(spec: TrialSpec, num_train: int) -> dict[int, int]:
    """Updates after which a run may be saved, with how many evaluations it has had by then."""
    timeline = timeline_of(spec, num_train)
    epochs = timeline.epochs()
    evaluated = [epochs[epoch][1] for epoch in evaluated_epochs(spec, len(epochs))]
    return {end: bisect.bisect_right(evaluated, end) for end in range(1, timeline.updates)}


# --- as a file ---------------------------------------------------------------------------


def encode(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> bytes:
    """The file: host tensors by name, and what is said about them."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(whole, dict(said))


def decode(
    data: bytes,
    wanted: Mapping[str, Tensor],
    expected: Mapping[str, str],
    ends: Mapping[int, int],
    *,
    mixing: bool = False,
) -> Saved:
    """What `encode` wrote, if it is the state of this run at one of `ends`.

    Nothing is allocated before the header agrees with `wanted`, name by name. Raises
    Unusable, and Elsewhere where the run is this one and its surroundings are not; with
    `mixing`, other numerics on a device of the same kind are no such reason.
    """
    header = _header(data)
    said = header.pop(METADATA, None)
    begun = _check_said(said, expected, mixing=mixing)
    for name, tensor in wanted.items():
        entry = header.get(name)
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if shape != list(tensor.shape):
            raise Unusable(f"{name} is {_short(shape)}, not {list(tensor.shape)}")
    if unknown := sorted(header.keys() - wanted.keys()):
        raise Unusable(f"unknown tensor {_short(unknown[0])}")
    try:
        tensors = load(data)
    except NO_TENSORS as error:
        raise Unusable(f"no safetensors file: {_short(error)}") from error
    for name, tensor in wanted.items():
        if tensors[name].dtype != tensor.dtype:
            raise Unusable(f"{name} is of {tensors[name].dtype}, not of {tensor.dtype}")
    _check_counters(begun.update, tensors, ends)
    return Saved(begun=begun, tensors=tensors)


def _header(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        raise Unusable("no safetensors file: its header does not fit in it")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise Unusable(f"no safetensors file: {type(error).__name__} in its header") from error
    if not isinstance(header, dict):
        raise Unusable("no safetensors file: its header is no object")
    return header


def _check_said(said: Any, expected: Mapping[str, str], *, mixing: bool) -> Begun:
    """Where the run begins, if it is this one."""
    if not isinstance(said, dict) or said.get("format") != expected["format"]:
        raise Unusable("not a checkpoint of this version")
    if said.get("trials") != expected["trials"]:
        raise Unusable(f"holds trials {_short(said.get('trials'))}")
    there, before = said.get("numerics"), said.get(MIXED)
    mixed = surroundings.mixture(there, before, expected["numerics"]) if mixing else ()
    for key in SAME:
        if said.get(key) != expected[key] and not (key == "numerics" and mixed):
            raise Elsewhere(_difference(key, said.get(key), expected[key]))
    if before is not None and not mixing:
        raise Elsewhere("made in parts, under several numerics")
    update, seconds = str(said.get("update")), math.nan
    with contextlib.suppress(ValueError):
        seconds = float(str(said.get("seconds"))[:64])
    if not WHOLE.fullmatch(update) or not 0 <= seconds < math.inf:
        raise Unusable("does not say how far it is")
    return Begun(update=int(update), seconds=seconds, mixed=mixed)


def _difference(key: str, there: Any, here: str) -> str:
    """What is not the same, in words."""
    if key == "numerics":
        if not surroundings.pairs_of(there):
            return "made under numerics that are not said"
        return f"made under other numerics: {surroundings.difference(there, here)}"
    names = {"code": "by other code", "weights": "from other pretrained weights"}
    return f"made {names[key]}: {_short(there)}, now {here!r}"


def _check_counters(
    update: int, tensors: Mapping[str, Tensor], ends: Mapping[int, int]
) -> None:
    """Unusable unless the counters, which are indices into logs, are those of an update of the
    run, and the generators take the states."""
    if update not in ends:
        raise Unusable(f"update {update} is not inside of this run")
    counts = {"count": update, "evaluation.count": ends[update]}
    for name, count in counts.items():
        if int(tensors[name]) != count:
            raise Unusable(f"{name} is {int(tensors[name])}, not {count}")
    for name, state in tensors.items():
        if name.startswith("random."):
            try:
                torch.Generator(name.removeprefix("random.")).set_state(state)
            except RuntimeError as error:
                raise Unusable(f"{name}: {_short(error)}") from error


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
