"""A 3x3 convolution of few channels with batch norm per group and ReLU, in Triton.

    x = conv(images, W),    y = max((x - mean) / sqrt(var + eps) * weight + bias, 0)

A network's first convolution reads little (3 channels) and writes much (64). So x is never
stored: each pass computes it again from patches of the images, [rows, K], K = 9 channels and a
column of ones, at most 32. Bytes for n values y of e bytes: n e forward and n e backward, where
a convolution beside `batchcliff.kernels.passes` moves 4 n e and 6 n e. For the article's first
layer at batch 1,024 in bf16 (n e = 134 MB) that is 0.09 instead of 0.45 ms at 3.0 TB/s.

Backward, with the group's averages a of dz and s of dz (x - mean) / (var + eps), as in
`batchcliff.kernels.passes`, dx = scale (dz - a - (x - mean) s). The weights' gradient is linear
in dx, so that three sums over a group, which need no averages, give it afterwards:

    dW = sum of dx P = scale (sum of dz P - a sum of P - s sum of (x - mean) P)

and the sum of dz (x - mean) is the first of them times W, less the mean's part. There is no
gradient of the images. Images, W and dz are multiplied as FACTOR, bfloat16 (dz is dy where
z > 0, so it is exact), and so is x - mean in the last sum. All sums are float32, in a fixed
order.
"""

# Bodies in Triton's own language, which has no Python types, and which need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call"
# mypy: disable-error-code="untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from batchcliff.kernels.passes import _follow, _is_last, _lead, _merge_parts, _offsets

K = 32  # columns of a patch: 9 channels, the ones, and zeros
SIZES = ["rows", "passes", "parts", "groups"]
# Triton's interpreter, on a CPU, has no products of bfloat16.
FACTORS = {"cuda": tl.bfloat16, "cpu": tl.float32}


@triton.jit
def _patches(
    images_ptr, row, rows, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
    FACTOR: tl.constexpr,
):  # fmt: skip
    """[rows, K] around pixels `row` of images [rows, D channels]; column 9 D is 1."""
    k = tl.arange(0, K)
    tap = k // D
    down = tap // 3 - 1
    right = tap % 3 - 1
    inside = row < rows
    y = (row // W) % H
    x = row % W
    line = y[:, None] + down[None, :]
    column = x[:, None] + right[None, :]
    there = (line >= 0) & (line < H) & (column >= 0) & (column < W)
    there = there & inside[:, None] & (k < 9 * D)[None, :]
    shift = (down * W + right) * D + k % D
    at = row.to(tl.int64)[:, None] * D + shift[None, :]
    found = tl.load(images_ptr + at, mask=there, other=0.0).to(tl.float32)
    ones = inside[:, None] & (k == 9 * D)[None, :]
    return tl.where(ones, 1.0, found).to(FACTOR)


@triton.jit
def _weights(w_ptr, cols, D: tl.constexpr, K: tl.constexpr, FACTOR: tl.constexpr):
    """W [K, C] from [C, 9 D]; zero where patches have ones or nothing."""
    k = tl.arange(0, K)
    at = w_ptr + cols[None, :] * (9 * D) + k[:, None]
    return tl.load(at, mask=(k < 9 * D)[:, None], other=0.0).to(FACTOR)


@triton.jit(do_not_specialize=SIZES)
def thin_statistics_kernel(
    images_ptr, w_ptr, part_ptr, mean_ptr, var_ptr, arrived_ptr, rows, passes, parts,
    C: tl.constexpr, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
    FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, MERGED: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance [G, C] of the convolution. Grid: G * parts."""
    _lead(AHEAD)
    group = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    cols = tl.arange(0, C)
    base = images_ptr + group.to(tl.int64) * rows * D
    w = _weights(w_ptr, cols, D, K, FACTOR)
    span = passes * BLOCK_R  # rows of a program
    first = part * span
    row = first + tl.arange(0, BLOCK_R)
    x = tl.dot(_patches(base, row, rows, D, H, W, K, FACTOR), w)  # 0 outside
    about = tl.sum(x, 0) / tl.minimum(rows - first, BLOCK_R).to(tl.float32)
    total = tl.zeros((BLOCK_R, C), tl.float32)
    square = tl.zeros((BLOCK_R, C), tl.float32)
    for i in range(passes):
        row = first + i * BLOCK_R + tl.arange(0, BLOCK_R)
        x = tl.dot(_patches(base, row, rows, D, H, W, K, FACTOR), w)
        off = tl.where((row < rows)[:, None], x - about[None, :], 0.0)
        total += off
        square += off * off
    count = tl.minimum(rows - first, span).to(tl.float32)
    sums = tl.sum(total, 0)
    out = part_ptr + (group * parts + part) * 2 * C + cols
    tl.store(out, about + sums / count)
    tl.store(out + C, tl.sum(square, 0) - sums * sums / count)
    if _is_last(arrived_ptr, group, parts):
        _merge_parts(part_ptr, mean_ptr, var_ptr, group, cols, rows, span, parts, C, C, MERGED)


@triton.jit(do_not_specialize=SIZES)
def thin_normalise_kernel(
    images_ptr, w_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, y_ptr, rows, parts,
    C: tl.constexpr, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
    FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, EPS: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """y from images and statistics [G, C]. Grid: G * parts, a block of rows each."""
    group = tl.program_id(0) // parts
    row = tl.program_id(0) % parts * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = tl.arange(0, C)
    base = images_ptr + group.to(tl.int64) * rows * D
    x = tl.dot(
        _patches(base, row, rows, D, H, W, K, FACTOR), _weights(w_ptr, cols, D, K, FACTOR)
    )
    _follow(BEHIND)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    z = (x - mean[None, :]) * scale[None, :] + tl.load(bias_ptr + cols)[None, :]
    y = tl.where(z <= 0, 0.0, z)  # NaN stays NaN
    out = y_ptr + group.to(tl.int64) * rows * C + _offsets(row, cols, C)
    tl.store(out, y.to(y_ptr.dtype.element_ty), mask=(row < rows)[:, None])


@triton.jit(do_not_specialize=SIZES)
def thin_gradient_sums_kernel(
    images_ptr, w_ptr, dy_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, part_ptr,
    rows, passes, parts,
    C: tl.constexpr, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr,
    FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, EPS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Sums of a program's rows, [G * parts, 2 C + 1, K]: dz P, (x - mean) P, and P.

    Grid: G * parts.
    """
    _lead(AHEAD)
    group = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    cols = tl.arange(0, C)
    k = tl.arange(0, K)
    base = images_ptr + group.to(tl.int64) * rows * D
    dy_base = dy_ptr + group.to(tl.int64) * rows * C
    w = _weights(w_ptr, cols, D, K, FACTOR)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    bias = tl.load(bias_ptr + cols)
    of_dz = tl.zeros((C, K), tl.float32)
    of_off = tl.zeros((C, K), tl.float32)
    of_ones = tl.zeros((C, K), tl.float32)
    ones = tl.full((C, BLOCK_R), 1.0, tl.float32).to(FACTOR)
    for i in range(passes):
        row = (part * passes + i) * BLOCK_R + tl.arange(0, BLOCK_R)
        inside = (row < rows)[:, None]
        dy = tl.load(dy_base + _offsets(row, cols, C), mask=inside, other=0.0)
        dy = dy.to(tl.float32)
        patches = _patches(base, row, rows, D, H, W, K, FACTOR)
        off = tl.dot(patches, w) - mean[None, :]
        dz = tl.where(off * scale[None, :] + bias[None, :] <= 0, 0.0, dy).to(FACTOR)
        of_dz = tl.dot(tl.trans(dz), patches, of_dz)
        # Rows outside have patches of zeros, so that their x - mean counts for nothing.
        of_off = tl.dot(tl.trans(off.to(FACTOR)), patches, of_off)
        of_ones = tl.dot(ones, patches, of_ones)  # a product is cheaper than a sum of rows
    out = part_ptr + tl.program_id(0).to(tl.int64) * (2 * C + 1) * K
    at = cols[:, None] * K + k[None, :]
    tl.store(out + at, of_dz)
    tl.store(out + C * K + at, of_off)
    tl.store(out + 2 * C * K + k, tl.max(of_ones, 0))  # all rows are equal


@triton.jit(do_not_specialize=SIZES)
def thin_gradient_kernel(
    part_ptr, w_ptr, mean_ptr, var_ptr, weight_ptr, group_ptr, dw_ptr, dweight_ptr, dbias_ptr,
    arrived_ptr, rows, parts, groups,
    C: tl.constexpr, D: tl.constexpr, K: tl.constexpr, FACTOR: tl.constexpr,
    MERGED: tl.constexpr, EPS: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """dW [C, 9 D], dweight and dbias [C] from the sums. Grid: G by C, a channel each.

    A program leaves its group's share in [G, C, K], with dweight and dbias behind dW; the last
    one of a channel adds them up.
    """
    group = tl.program_id(0)
    c = tl.program_id(1)
    k = tl.arange(0, K)
    few = tl.arange(0, MERGED)
    w = tl.load(w_ptr + c * (9 * D) + k, mask=k < 9 * D, other=0.0)
    w = w.to(FACTOR).to(tl.float32)
    _follow(BEHIND)
    of_dz = tl.zeros((K,), tl.float32)
    of_off = tl.zeros((K,), tl.float32)
    of_ones = tl.zeros((K,), tl.float32)
    for i in range(0, parts, MERGED):
        number = group * parts + i + few
        at = part_ptr + number.to(tl.int64)[:, None] * (2 * C + 1) * K + k[None, :]
        there = (i + few < parts)[:, None]
        of_dz += tl.sum(tl.load(at + c * K, mask=there, other=0.0), 0)
        of_off += tl.sum(tl.load(at + (C + c) * K, mask=there, other=0.0), 0)
        of_ones += tl.sum(tl.load(at + 2 * C * K, mask=there, other=0.0), 0)
    root = tl.rsqrt(tl.load(var_ptr + group * C + c) + EPS)
    count = rows.to(tl.float32)
    total = tl.sum(tl.where(k == 9 * D, of_dz, 0.0), 0)
    product = tl.sum(of_dz * w, 0) - tl.load(mean_ptr + group * C + c) * total
    slope = product * root * root / count
    scale = root * tl.load(weight_ptr + c)
    share = scale * (of_dz - total / count * of_ones - slope * of_off)
    share = tl.where(k == 9 * D, product * root, share)
    share = tl.where(k == 9 * D + 1, total, share)
    tl.store(group_ptr + (group * C + c) * K + k, share)
    if _is_last(arrived_ptr, 0, groups):
        found = tl.zeros((K,), tl.float32)
        for i in range(0, groups, MERGED):
            at = group_ptr + ((i + few)[:, None] * C + c) * K + k[None, :]
            there = (i + few < groups)[:, None]
            shares = tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
            found += tl.sum(shares, 0)
        tl.store(dw_ptr + c * (9 * D) + k, found, mask=k < 9 * D)
        tl.store(dweight_ptr + c + k * 0, found, mask=k == 9 * D)
        tl.store(dbias_ptr + c + k * 0, found, mask=k == 9 * D + 1)
