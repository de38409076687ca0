"""As much of Gluon as `batchcliff.kernels.sweep_passes` asks for, in NumPy, to run it anywhere.

Copies and products happen as late as they may: a copy to shared memory when its barrier is
waited for, and until then there is NaN; a product, which reads shared memory, when no more
than so many may be outstanding; a copy from shared memory when stores are waited for. What is
read too early or overwritten too early is so in the result, and a wait that would never end
raises.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch

from batchcliff.kernels import sweep


def rounded(values: Any) -> Array:
    """To bfloat16, in float32."""
    wide = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return wide.bfloat16().float().numpy().view(Array)


class Array(np.ndarray):
    """A tensor in registers."""

    def to(self, kind: str) -> Array:
        return rounded(self) if kind == "bfloat16" else self.astype(np.float32)


class Number(int):
    """A scalar argument."""

    def __mul__(self, other: int) -> Number:
        return Number(int(self) * int(other))

    def to(self, _kind: str) -> float:
        return float(self)


class Pointer:
    def __init__(self, memory: Any, at: Any = 0) -> None:
        self.memory, self.at = memory, at

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.at + np.asarray(offset))


class Descriptor:
    """Of an array, and of the block that a copy moves."""

    dtype = "bfloat16"
    layout = None

    def __init__(self, array: Any, block: tuple[int, ...]) -> None:
        self.array, self.block = array, block

    def places(self, at: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the block lies in the array and in itself, without what is outside."""
        inside, own = [], []
        for start, size, whole in zip(at, self.block, self.array.shape, strict=True):
            first, last = max(start, 0), max(min(start + size, whole), 0)
            inside.append(slice(first, max(last, first)))
            own.append(slice(first - start, max(last, first) - start))
        return tuple(inside), tuple(own)


class Shared:
    """A view of shared memory."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def index(self, i: int) -> Shared:
        return Shared(self.array[i])

    def reshape(self, shape: tuple[int, ...]) -> Shared:
        view = self.array.reshape(shape)
        assert view.base is not None
        return Shared(view)

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.array.transpose(order))

    def store(self, values: Any) -> None:
        self.array[...] = values


class Barrier:
    """Phases end when the bytes that are expected have arrived."""

    def __init__(self) -> None:
        self.expected, self.ended = 0, 0
        self.copies: list[tuple[Any, Any]] = []

    def arrive(self) -> None:
        assert self.expected == sum(target.size * 2 for target, _ in self.copies)
        for target, values in self.copies:
            target[...] = values
        self.ended, self.expected, self.copies = self.ended + 1, 0, []


class Sums:
    """An accumulator, once its products are made."""

    def __init__(self, before: Any, factors: tuple[Any, Any], added: bool) -> None:
        self.before, self.factors, self.added = before, factors, added
        self.value: Any = None

    def make(self) -> None:
        before = self.before.value if isinstance(self.before, Sums) else self.before
        left, right = (shared.array for shared in self.factors)
        made = (left.astype(np.float32) @ right.astype(np.float32)).view(Array)
        self.value = made + before if self.added else made


class Gluon:
    """Stands for gl, mbarrier, tma and the functions of products, of one program at a time."""

    float32, bfloat16, int64 = "float32", "bfloat16", "int64"
    static_range = range
    maximum, minimum, where = max, min, staticmethod(np.where)

    def __init__(self) -> None:
        self.program, self.programs = (0, 0), (1, 1)
        self.outstanding: deque[Sums] = deque()
        self.stores: list[tuple[Descriptor, list[int], Shared]] = []

    # gl

    def program_id(self, axis: int) -> int:
        return self.program[axis]

    def num_programs(self, axis: int) -> int:
        return self.programs[axis]

    def zeros(self, shape: tuple[int, ...], *_: Any) -> Array:
        return np.zeros(shape, np.float32).view(Array)

    def arange(self, first: int, last: int, layout: Any = None) -> Any:
        return np.arange(first, last)

    def sum(self, values: Any, axis: int) -> Any:
        return values.sum(axis)

    def NVMMADistributedLayout(self, **_: Any) -> None: ...  # noqa: N802 as Gluon calls it
    def BlockedLayout(self, *_: Any) -> None: ...  # noqa: N802
    def SliceLayout(self, *_: Any) -> None: ...  # noqa: N802
    def MBarrierLayout(self) -> None: ...  # noqa: N802
    def thread_barrier(self) -> None: ...
    def fence_async_shared(self) -> None: ...
    def invalidate(self, _: Any) -> None: ...

    def allocate_shared_memory(self, kind: str, shape: list[int], _: Any) -> Any:
        if kind == "int64":
            return Bars([Barrier() for _ in range(shape[0])])
        return Shared(np.full(shape, np.nan, np.float32))

    def load(self, at: Pointer, mask: Any, other: float, **_: Any) -> Array:
        inside = np.broadcast_to(mask, np.shape(at.at))
        found = at.memory[np.where(inside, at.at, 0)]
        return np.where(inside, found, other).astype(np.float32).view(Array)

    def store(self, at: Pointer, values: Any) -> None:
        at.memory[at.at] = values

    def atomic_add(self, at: Pointer, value: int, **_: Any) -> int:
        before = int(at.memory[at.at])
        at.memory[at.at] += value
        return before

    # mbarrier

    def init(self, bar: Barrier, count: int) -> None:
        assert count == 1
        assert not bar.ended

    def expect(self, bar: Barrier, count: int, pred: bool = True) -> None:
        bar.expected += count if pred else 0

    def wait(self, bar: Barrier, phase: int) -> None:
        if bar.ended % 2 == phase:
            assert bar.copies, "waits for what nobody copies"
            bar.arrive()
        assert bar.ended % 2 != phase

    # tma

    def async_copy_global_to_shared(
        self, of: Descriptor, at: list[int], bar: Barrier, to: Shared, pred: bool = True
    ) -> None:
        if pred:
            inside, own = of.places(at)
            values = np.zeros(of.block, np.float32)
            values[own] = of.array[inside]
            to.array[...] = np.nan
            bar.copies.append((to.array, values))

    def async_copy_shared_to_global(
        self, of: Descriptor, at: list[int], source: Shared
    ) -> None:
        self.stores.append((of, at, source))

    def store_wait(self, pendings: int) -> None:
        assert pendings == 0
        for of, at, source in self.stores:
            inside, own = of.places(at)
            of.array[inside] = source.array[own]
        self.stores = []

    # products

    def warpgroup_mma(
        self, a: Shared, b: Shared, acc: Any, use_acc: bool = True, is_async: bool = False
    ) -> Sums:
        assert is_async
        self.outstanding.append(Sums(acc, (a, b), use_acc))
        return self.outstanding[-1]

    def warpgroup_mma_wait(self, num_outstanding: int, deps: tuple[Any, ...]) -> Any:
        while len(self.outstanding) > num_outstanding:
            self.outstanding.popleft().make()
        # What is not made yet stays what only another product may take.
        return tuple(
            d.value if isinstance(d, Sums) and d.value is not None else d for d in deps
        )


class Bars:
    def __init__(self, bars: list[Barrier]) -> None:
        self.bars = bars

    def index(self, i: int) -> Barrier:
        return self.bars[i]


def passes(gluon: Gluon) -> Any:
    """`batchcliff.kernels.sweep_passes`, a copy of its own, in plain Python."""
    hopper: Any = ModuleType("triton.experimental.gluon.language.nvidia.hopper")
    language: Any = gluon
    for part in ("mbarrier", "tma"):
        setattr(hopper, part, gluon)
    for name in ("fence_async_shared", "warpgroup_mma", "warpgroup_mma_wait"):
        setattr(hopper, name, getattr(gluon, name))
    root: Any = ModuleType("triton.experimental.gluon")
    root.language, root.jit = language, lambda f=None, **_: f or (lambda made: made)
    descriptors: Any = ModuleType("triton.experimental.gluon.nvidia.hopper")
    descriptors.TensorDescriptor = Descriptor
    modules = {
        "triton": ModuleType("triton"),
        "triton.experimental": ModuleType("triton.experimental"),
        root.__name__: root,
        f"{root.__name__}.language": language,
        f"{root.__name__}.language.nvidia": ModuleType("nvidia"),
        hopper.__name__: hopper,
        f"{root.__name__}.nvidia": ModuleType("nvidia"),
        descriptors.__name__: descriptors,
    }
    modules["triton.experimental"].gluon = root  # type: ignore[attr-defined]
    path = Path(sweep.__file__).with_name("sweep_passes.py")
    spec = importlib.util.spec_from_file_location("pretended_sweep_passes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, modules):
        spec.loader.exec_module(module)
    return module


def swept(
    x: Any, w: Any, *, images: int, rows: int, back: bool, groups: int = 0,
    gluon: Gluon | None = None,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """What the kernel makes of x [B, C, H, W] and w [C, C, 3, 3], and its statistics [G, C]."""
    gluon = gluon or Gluon()
    kernel = passes(gluon).sweep_kernel
    batch, channels, height, width = x.shape
    x_BHWC = np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float32)
    taps = np.ascontiguousarray(w.transpose(0, 2, 3, 1), np.float32).reshape(channels, 9, -1)
    y_BHWC = np.full_like(x_BHWC, np.nan)
    block = (images, 1, width, channels)
    gluon.programs = -(-batch // images), height // rows
    part = np.full(gluon.programs[0] * gluon.programs[1] * 2 * channels, np.nan, np.float32)
    mean, var = (np.full(max(groups, 1) * channels, np.nan, np.float32) for _ in range(2))
    arrived = np.zeros(max(groups, 1), np.int64)
    for program in np.ndindex(gluon.programs):
        gluon.program = program
        kernel(
            Descriptor(x_BHWC, block), Descriptor(taps, (channels, 1, channels)),
            Descriptor(y_BHWC, block), Pointer(part), Pointer(mean), Pointer(var),
            Pointer(arrived), height, Number(rows), gluon.programs[0] // max(groups, 1),
            C=channels, W=width, IMAGES=images, BACK=back, STATISTICS=groups > 0, MERGED=2,
            num_warps=4,
        )  # fmt: skip
        assert not gluon.outstanding
        assert not gluon.stores
    assert not arrived.any()
    return y_BHWC.transpose(0, 3, 1, 2), mean.reshape(-1, channels), var.reshape(-1, channels)
