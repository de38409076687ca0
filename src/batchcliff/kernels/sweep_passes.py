"""A 3x3 convolution of 64 channels that sweeps over images row by row, for Hopper, in Gluon.

A row of the input serves three rows of the output. So a program goes down the rows of 256 / W
images, keeps the sums of three rows of the output [64, 256 pixels] in registers, and adds to
each its part of the row at hand: the row's pixels, as they are and one column to either side,
[64, 256] three times, each multiplied with the weights of three taps. What a program has in
shared memory is read nine times from there; the cache of the GPU gives every pixel three times,
where a convolution that gathers each tap's pixels by itself asks it for nine. Weights are the
left factor, since a product with 64 columns would wait for shared memory: they stay there, 74
kB, in 227 kB that a multiprocessor has for one program.

    out[y] = sum over r, s of W[r, s] in[y + r - 1, shifted by s - 1]

The copy engine (TMA) brings the rows, with zeros outside of the images, into three slots, one
for each shift. A slot is filled anew as soon as its products are done, while the other two
multiply. Products are of bfloat16, summed as float32 in a fixed order.

With BACK it is the gradient with respect to the input: taps are taken from the other end, and
each one's weights transposed.
"""

# Bodies in Gluon, which has no Python types, and which need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call"
# mypy: disable-error-code="untyped-decorator, misc"

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor


def images_descriptor(x_BCHW: Tensor, images: int) -> TensorDescriptor:
    """Of a row of so many images, channels-last, for the copy engine."""
    _, channels, _, width = x_BCHW.shape
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    block = [images, 1, width, channels]
    return TensorDescriptor.from_tensor(x_BCHW.permute(0, 2, 3, 1), block, layout)


def taps_descriptor(half_OCHW: Tensor) -> TensorDescriptor:
    """Of one tap's weights, [O, 1, C] of [O, 9, C]."""
    outputs, channels, *_ = half_OCHW.shape
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3)
    taps = half_OCHW.permute(0, 2, 3, 1).reshape(outputs, 9, channels)
    return TensorDescriptor.from_tensor(taps, [outputs, 1, channels], layout)


@gluon.jit
def _load(x_desc, image, y, s: gl.constexpr, bars, x_smem, there, BYTES: gl.constexpr):
    """Row y of the images, shifted by s - 1 columns, is on its way to slot s."""
    mbarrier.expect(bars.index(s), BYTES, pred=there)
    tma.async_copy_global_to_shared(
        x_desc, [image, y, s - 1, 0], bars.index(s), x_smem.index(s), pred=there
    )


@gluon.jit
def _tap(w_smem, r: gl.constexpr, s: gl.constexpr, C: gl.constexpr, BACK: gl.constexpr):
    if BACK:
        return w_smem.index(8 - r * 3 - s).reshape((C, C)).permute((1, 0))
    else:
        return w_smem.index(r * 3 + s).reshape((C, C))


@gluon.jit
def _store(y_desc, image, y, values, y_smem, N: gl.constexpr, C: gl.constexpr):
    tma.store_wait(0)  # the last row has left the buffer
    y_smem.reshape((N, C)).permute((1, 0)).store(values.to(y_desc.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(y_desc, [image, y, 0, 0], y_smem)


@gluon.jit
def _add(above, about, total, square, is_first, N: gl.constexpr):
    """The sums [C] of a row's values, as they are stored, and of their squares, about the mean
    of the first row."""
    values = above.to(gl.bfloat16).to(gl.float32)
    if is_first:
        about = gl.sum(values, 1) / N
    off = values - about[:, None]
    return about, total + gl.sum(off, 1), square + gl.sum(off * off, 1)


@gluon.jit
def _merge(
    part_ptr, mean_ptr, var_ptr, arrived_ptr, about, total, square, count, each,
    C: gl.constexpr, MERGED: gl.constexpr, layout: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """A program's mean and sum of squares about it; the last one of a group, `each` of the
    grid's first axis, merges them all, which are of `count` values each (passes._is_last)."""
    channel = gl.arange(0, C, layout=gl.SliceLayout(1, layout))
    group = gl.program_id(0) // each
    parts = each * gl.num_programs(1)
    number = gl.program_id(0) * gl.num_programs(1) + gl.program_id(1)
    gl.store(part_ptr + number * 2 * C + channel, about + total / count)
    gl.store(part_ptr + (number * 2 + 1) * C + channel, square - total * total / count)
    gl.thread_barrier()  # all threads' stores come before the one that counts
    counter = arrived_ptr + group
    if gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == parts - 1:
        gl.store(counter, 0)
        rows: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [num_warps, 1], [1, 0])
        few = gl.arange(0, MERGED, layout=gl.SliceLayout(1, rows))
        cols = gl.arange(0, C, layout=gl.SliceLayout(0, rows))
        start = part_ptr + group * parts * 2 * C
        added = gl.zeros((C,), gl.float32, gl.SliceLayout(0, rows))
        for i in range(0, parts, MERGED):
            at = start + (i + few)[:, None] * 2 * C + cols[None, :]
            there = (i + few < parts)[:, None]
            added += gl.sum(gl.load(at, mask=there, other=0.0, cache_modifier=".cg"), 0)
        mean = added / parts
        spread = gl.zeros((C,), gl.float32, gl.SliceLayout(0, rows))
        for i in range(0, parts, MERGED):
            at = start + (i + few)[:, None] * 2 * C + cols[None, :]
            there = (i + few < parts)[:, None]
            apart = gl.load(at, mask=there, other=0.0, cache_modifier=".cg") - mean[None, :]
            within = gl.load(at + C, mask=there, other=0.0, cache_modifier=".cg")
            spread += gl.sum(within + gl.where(there, apart * apart * count, 0.0), 0)
        var = spread / (parts * count)
        gl.store(mean_ptr + group * C + cols, mean)
        # Rounding alone can make it negative; NaN stays NaN.
        gl.store(var_ptr + group * C + cols, gl.where(var < 0, 0.0, var))


@gluon.jit(do_not_specialize=["height", "rows", "each"])
def sweep_kernel(
    x_desc, w_desc, y_desc, part_ptr, mean_ptr, var_ptr, arrived_ptr, height, rows, each,
    C: gl.constexpr, W: gl.constexpr, IMAGES: gl.constexpr, BACK: gl.constexpr,
    STATISTICS: gl.constexpr, MERGED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Images [B, height, W, C] by weights [C, 9, C]. Grid: B / IMAGES by height / rows.

    STATISTICS: and mean and biased variance [G, C] of the result; `each` programs of the first
    axis make a group.
    """
    N: gl.constexpr = IMAGES * W
    BYTES: gl.constexpr = N * C * 2
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0],
        warps_per_cta=[4, num_warps // 4],
        instr_shape=[16, N // (num_warps // 4), 16],
    )
    w_smem = gl.allocate_shared_memory(w_desc.dtype, [9, C, 1, C], w_desc.layout)
    x_smem = gl.allocate_shared_memory(x_desc.dtype, [3, IMAGES, 1, W, C], x_desc.layout)
    y_smem = gl.allocate_shared_memory(y_desc.dtype, [IMAGES, 1, W, C], y_desc.layout)
    bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(4):
        mbarrier.init(bars.index(i), count=1)
    image = gl.program_id(0) * IMAGES
    first = gl.program_id(1) * rows
    low = gl.maximum(first - 1, 0)
    high = gl.minimum(first + rows, height - 1)
    mbarrier.expect(bars.index(3), 9 * C * C * 2)
    for i in gl.static_range(9):
        tma.async_copy_global_to_shared(w_desc, [0, i, 0], bars.index(3), w_smem.index(i))
    for s in gl.static_range(3):
        _load(x_desc, image, low, s, bars, x_smem, True, BYTES)
    above = gl.zeros((C, N), gl.float32, layout)  # sums of rows y - 1, y, y + 1 of the output
    here = gl.zeros((C, N), gl.float32, layout)
    below = gl.zeros((C, N), gl.float32, layout)
    about = gl.zeros((C,), gl.float32, gl.SliceLayout(1, layout))
    total = gl.zeros((C,), gl.float32, gl.SliceLayout(1, layout))
    square = gl.zeros((C,), gl.float32, gl.SliceLayout(1, layout))
    mbarrier.wait(bars.index(3), 0)
    for y in range(low, high + 1):
        for s in gl.static_range(3):
            mbarrier.wait(bars.index(s), (y - low) & 1)
            x = x_smem.index(s).reshape((N, C)).permute((1, 0))
            above = warpgroup_mma(_tap(w_smem, 2, s, C, BACK), x, above, is_async=True)
            here = warpgroup_mma(_tap(w_smem, 1, s, C, BACK), x, here, is_async=True)
            below = warpgroup_mma(
                _tap(w_smem, 0, s, C, BACK), x, below, use_acc=s > 0, is_async=True
            )
            if s > 0:  # the slot before is read out once no more than these three are left
                above, here, below = warpgroup_mma_wait(3, deps=(above, here, below))
                _load(x_desc, image, y + 1, s - 1, bars, x_smem, y < high, BYTES)
        # The first of the three is complete, and stored while the last two still multiply.
        above, here, below = warpgroup_mma_wait(2, deps=(above, here, below))
        if y > first:
            _store(y_desc, image, y - 1, above, y_smem, N, C)
            if STATISTICS:
                about, total, square = _add(above, about, total, square, y == first + 1, N)
        here, below = warpgroup_mma_wait(0, deps=(here, below))
        _load(x_desc, image, y + 1, 2, bars, x_smem, y < high, BYTES)
        above = here
        here = below
    if first + rows == height:
        _store(y_desc, image, height - 1, above, y_smem, N, C)
        if STATISTICS:
            about, total, square = _add(above, about, total, square, rows == 1, N)
    if STATISTICS:
        _merge(
            part_ptr, mean_ptr, var_ptr, arrived_ptr, about, total, square,
            (rows * N).to(gl.float32), each, C, MERGED, layout, num_warps,
        )  # fmt: skip
    tma.store_wait(0)
    for i in gl.static_range(4):
        mbarrier.invalidate(bars.index(i))
