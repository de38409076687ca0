"""Whether a network of the user's own begins every trial afresh, and can be captured.

A worker builds a network once. Every trial after that begins by loading the parameters and
buffers that a build with its seed has (prepare.Prepared.restart), a checkpoint holds these and
the states of torch's generators, and a captured graph repeats what Python did when it was
captured. What a network keeps elsewhere, in plain attributes or other generators, would be
lost, stand still or reach the next trial, without a word; so it is looked for.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchcliff.errors import UsageError

OURS = frozenset(vars(nn.Module()))  # what a module has that is none of the user's attributes
CODE = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType,
)  # fmt: skip
SIMPLE = b"="  # first of the bytes of a number, a text or None
DEEPEST = 6  # attributes of attributes; what lies below is not looked at


def seed_generators(seed: int) -> None:
    """Seed what a network may draw its initial weights from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def check_afresh(
    make: Callable[[int], nn.Module], passes: Callable[[nn.Module], object]
) -> None:
    """UsageError with the name of what a network keeps where it must not.

    make: builds it with a seed. passes: one training pass. A cache that the first pass fills is
    allowed; objects that hide what they hold, such as closures, are not looked into.
    """
    network, again, other = make(0), make(0), make(1)
    for (name, one), (_, two) in zip(_tensors(network), _tensors(again), strict=True):
        if one.shape != two.shape or not torch.equal(one.nan_to_num(), two.nan_to_num()):
            raise UsageError(
                f"--workload: two builds with the same seed begin with different {name}. Draw "
                "initial weights from the generators of torch, random or numpy.random, which "
                "are seeded before every build, or seed your own generator in the function"
            )
    first, repeated = _fingerprints(network), _fingerprints(again)
    for name in _changed(repeated, _fingerprints(other)):
        if first.get(name) != repeated.get(name) and repeated.get(name, b"")[:1] == SIMPLE:
            continue  # what counts builds, such as the number that torch.compile gives
        raise UsageError(
            f"--workload: {name} is drawn when the network is built, and is neither a "
            "parameter nor a buffer: a worker's later trials would have that of the first. "
            "Write self.register_buffer(name, tensor), or nn.ModuleList for a list of layers"
        )
    names = [name for name, _ in _tensors(network)]
    _pass_alone(network, passes)
    if names != [name for name, _ in _tensors(network)]:
        raise UsageError(
            "--workload: the first pass adds parameters or buffers to the network. Add them "
            "when it is built"
        )
    first = _fingerprints(network)
    _pass_alone(network, passes)
    for name in _changed(first, _fingerprints(network)):
        raise UsageError(
            f"--workload: every training pass changes {name}, which is no buffer: a trial "
            "would begin with what the one before left, no checkpoint holds it, and a captured "
            "graph would not change it. Write self.register_buffer(name, tensor), and change "
            "that in place"
        )


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def _pass_alone(network: nn.Module, passes: Callable[[nn.Module], object]) -> None:
    """One pass with torch's generator at a fixed state. UsageError if it draws from another."""
    torch.manual_seed(0)
    before = random.getstate(), np.random.get_state(legacy=True)
    passes(network)
    kind = ""
    if random.getstate() != before[0]:
        kind = "Python's random"
    elif not _same_state(np.random.get_state(legacy=True), before[1]):
        kind = "numpy.random"
    if kind:
        raise UsageError(
            f"--workload: a training pass draws from {kind}: no checkpoint holds that "
            "generator, and a captured graph would repeat what was drawn once. Draw with torch"
        )


def _same_state(one: Any, other: Any) -> bool:
    """Of numpy's legacy generator: a name, its numbers, its place in them, and more."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Iterator[str]:
    """Names whose values are not the same, first come first."""
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield name


def _fingerprints(network: nn.Module) -> dict[str, bytes]:
    """Every value that the network's modules keep in attributes of their own, by name."""
    found: dict[str, bytes] = {}
    seen = {id(tensor) for _, tensor in _tensors(network)}  # an LSTM has a list of its own
    for place, module in network.named_modules():
        for name, value in vars(module).items():
            if name not in OURS:
                found |= _values(f"{place}.{name}".strip("."), value, seen, 0)
    return found


def _values(name: str, value: Any, seen: set[int], depth: int) -> dict[str, bytes]:
    """The value's parts that are compared, each with its name."""
    if depth > DEEPEST or id(value) in seen:
        return {}
    alone = _bytes_of(value)
    if alone is not None:
        return {name: alone}
    seen.add(id(value))
    found: dict[str, bytes] = {}
    for part, inner in _parts(name, value):
        found |= _values(part, inner, seen, depth + 1)
    return found


def _bytes_of(value: Any) -> bytes | None:
    """What the value is, where it is one; None for something with parts."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return SIMPLE + repr(value).encode()
    if isinstance(value, Tensor):
        if value.grad_fn is not None:  # a pass' own result, kept to be looked at
            return b""
        flat = value.detach().cpu().contiguous().reshape(-1)
        return str(value.shape).encode() + flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.shape).encode() + value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state).encode()
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False)).encode()
    if isinstance(value, random.Random):
        return repr(value.getstate()).encode()
    return None


def _parts(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """(name, part) of containers, of modules that are nobody's child, and of plain objects."""
    if isinstance(value, Mapping):
        return [(f"{name}[{key!r}]", inner) for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return [(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    if isinstance(value, nn.Module):
        return [(f"{name}.{inner}", tensor) for inner, tensor in _tensors(value)]
    if isinstance(value, set | frozenset):
        return [(name, sorted(map(repr, value)))]
    if isinstance(value, CODE) or not hasattr(value, "__dict__"):
        return []
    return [(f"{name}.{inner}", part) for inner, part in vars(value).items()]
