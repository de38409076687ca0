"""The four passes of batch norm per group with ReLU and average pooling, in Triton.

    z = (x - mean) / sqrt(var + eps) * weight + bias,    y = pool(max(z, 0))

with the mean and the biased variance of each group of examples and channel (Ioffe and Szegedy
2015, 1502.03167, algorithm 1; gradients: its section 3). Activations are [G groups, R rows,
C channels], channels-last, R = examples x height x width of a group. Statistics and arithmetic
are float32 whatever the activations' type.

Forward: statistics (reads x), normalise (reads x, writes y). Backward: two sums (reads x and
dy), dx (reads x and dy, writes dx). z and its sign are computed again from x, so that x is all
that is kept for the backward. Pooling makes y and dy smaller and is free otherwise. Bytes for n
values of e bytes: 3 n e forward and 5 n e backward; 2.25 and 3.5 with 2x2 pooling, 2 and 3 with
the mean over the image. For the article's network at batch 1,024 in bf16 (n e = 134, 67 and
34 MB, three layers of each, the last of each pooled) that is 5.1 GB an update: 1.7 ms at the
3.0 TB/s that a copy reaches on an H100.

The variance is a sum of squares about a value of the same channel, merged over programs by the
rule of Chan, Golub and LeVeque (1979), so that a large mean costs no digits. Every sum is taken
in a fixed order: equal inputs give equal bits. NaN stays NaN.
"""

# Bodies in Triton's own language, which has no Python types, and which need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call"
# mypy: disable-error-code="untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

# Run-time numbers: another batch size needs no other machine code.
SIZES = ["rows", "places", "unit", "passes", "parts", "groups"]


@triton.jit
def _follow(BEHIND: tl.constexpr):
    """Wait for the kernel before, where this one starts while that one still runs."""
    if BEHIND:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _lead(AHEAD: tl.constexpr):
    """Let the kernel behind start as soon as all programs of this one run."""
    if AHEAD:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _offsets(row, cols, C: tl.constexpr):
    """Offsets of rows by channels; 64 bits, since an activation may pass 2^31 elements."""
    return row.to(tl.int64)[:, None] * C + cols[None, :]


@triton.jit
def _place(row, unit, POOL: tl.constexpr):
    """The row of y that row `row` of x goes to. `unit`: with "2x2", half of the images'
    width; with "all", the rows of an image."""
    if POOL == "2x2":
        line = row // (2 * unit)
        place = (line // 2) * unit + (row - line * 2 * unit) // 2
    elif POOL == "all":
        place = row // unit
    else:
        place = row
    return place


@triton.jit
def _load(pointers, inside, EVEN: tl.constexpr):
    """As float32; 0 outside."""
    found = tl.load(pointers) if EVEN else tl.load(pointers, mask=inside[:, None], other=0.0)
    return found.to(tl.float32)


@triton.jit
def _store(pointers, values, inside, EVEN: tl.constexpr):
    if EVEN:
        tl.store(pointers, values.to(pointers.dtype.element_ty))
    else:
        tl.store(pointers, values.to(pointers.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _fold(values, LOADS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """[LOADS * BLOCK_R, BLOCK_C] summed to [BLOCK_R, BLOCK_C]: each thread adds its own."""
    return tl.sum(tl.reshape(values, (LOADS, BLOCK_R, BLOCK_C)), 0)


@triton.jit
def _is_last(arrived_ptr, group, parts):
    """Whether this program is the last of its group's to come here. The counter is left 0."""
    counter = arrived_ptr + group * tl.num_programs(1) + tl.program_id(1)
    tl.debug_barrier()  # all threads' stores come before the one that counts
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == parts - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def _merge_parts(
    part_ptr, mean_ptr, var_ptr, group, cols, rows, span, parts,
    C: tl.constexpr, BLOCK_C: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Mean and variance of a group from its parts' means and sums of squares about them."""
    start = part_ptr + group * parts * 2 * C
    few = tl.arange(0, MERGED)
    seen = tl.zeros((BLOCK_C,), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    spread = tl.zeros((BLOCK_C,), tl.float32)  # sum of squares about the mean
    for i in range(0, parts, MERGED):
        at = start + (i + few)[:, None] * 2 * C + cols[None, :]
        there = (i + few < parts)[:, None]
        means = tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
        within = tl.load(at + C, mask=there, other=0.0, cache_modifier=".cg")
        counts = tl.minimum(rows - (i + few) * span, span).to(tl.float32)
        counts = tl.where(i + few < parts, counts, 0.0)
        added = tl.sum(counts)
        average = tl.sum(means * counts[:, None], 0) / added
        about_it = means - average[None, :]
        apart = average - mean
        spread += tl.sum(within + about_it * about_it * counts[:, None], 0)
        spread += apart * apart * (seen * added / (seen + added))
        mean += apart * (added / (seen + added))
        seen += added
    tl.store(mean_ptr + group * C + cols, mean)
    # Rounding alone can make it negative; NaN stays NaN.
    tl.store(var_ptr + group * C + cols, tl.where(spread < 0, 0.0, spread / seen))


@triton.jit(do_not_specialize=SIZES)
def statistics_kernel(
    x_ptr, part_ptr, mean_ptr, var_ptr, arrived_ptr, rows, passes, parts,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, LOADS: tl.constexpr,
    EVEN: tl.constexpr, MERGED: tl.constexpr, REVERSE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance [G, C]. Grid: G * parts programs by blocks of channels."""
    _lead(AHEAD)
    pid = tl.program_id(0)
    if REVERSE:
        pid = tl.num_programs(0) - 1 - pid
    group = pid // parts
    part = pid % parts
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, LOADS * BLOCK_R)
    base = x_ptr + group.to(tl.int64) * rows * C
    span = passes * LOADS * BLOCK_R  # rows of a program
    first = part * span
    about = tl.load(base + first.to(tl.int64) * C + cols).to(tl.float32)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    square = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for i in range(passes):
        row = first + i * LOADS * BLOCK_R + lane
        inside = row < rows
        off = _load(base + _offsets(row, cols, C), inside, EVEN) - about[None, :]
        if not EVEN:
            off = tl.where(inside[:, None], off, 0.0)
        total += _fold(off, LOADS, BLOCK_R, BLOCK_C)
        square += _fold(off * off, LOADS, BLOCK_R, BLOCK_C)
    count = tl.minimum(rows - first, span).to(tl.float32)
    sums = tl.sum(total, 0)
    out = part_ptr + (group * parts + part) * 2 * C + cols
    tl.store(out, about + sums / count)
    tl.store(out + C, tl.sum(square, 0) - sums * sums / count)
    if _is_last(arrived_ptr, group, parts):
        _merge_parts(
            part_ptr, mean_ptr, var_ptr, group, cols, rows, span, parts, C, BLOCK_C, MERGED
        )


@triton.jit
def _rectified(x, mean, scale, bias):
    z = (x - mean[None, :]) * scale[None, :] + bias[None, :]
    return tl.where(z <= 0, 0.0, z)  # NaN stays NaN


@triton.jit(do_not_specialize=SIZES)
def normalise_kernel(
    x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, y_ptr, rows, places, unit, parts,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, LOADS: tl.constexpr,
    EVEN: tl.constexpr, EPS: tl.constexpr, POOL: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """y from x and statistics [G, C]; POOL is "none" or "2x2".

    Grid: G * parts programs by blocks of channels.
    """
    # Four rows of x for one of y with pooling, so as many loads are under way either way.
    TAKEN: tl.constexpr = BLOCK_R * (LOADS // 4 if POOL == "2x2" else LOADS)
    group = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place = part * TAKEN + tl.arange(0, TAKEN)
    inside = place < places
    x_base = x_ptr + group.to(tl.int64) * rows * C
    y_base = y_ptr + group.to(tl.int64) * places * C
    if POOL == "2x2":
        row = (place // unit) * 4 * unit + (place % unit) * 2
        x = _load(x_base + _offsets(row, cols, C), inside, EVEN)
        right = _load(x_base + _offsets(row + 1, cols, C), inside, EVEN)
        down = _load(x_base + _offsets(row + 2 * unit, cols, C), inside, EVEN)
        across = _load(x_base + _offsets(row + 2 * unit + 1, cols, C), inside, EVEN)
    else:
        x = _load(x_base + _offsets(place, cols, C), inside, EVEN)
    _follow(BEHIND)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    bias = tl.load(bias_ptr + cols)
    y = _rectified(x, mean, scale, bias)
    if POOL == "2x2":
        y = y * 0.25 + _rectified(right, mean, scale, bias) * 0.25
        y += _rectified(down, mean, scale, bias) * 0.25
        y += _rectified(across, mean, scale, bias) * 0.25
    _store(y_base + _offsets(place, cols, C), y, inside, EVEN)


@triton.jit(do_not_specialize=SIZES)
def image_means_kernel(
    x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, y_ptr, rows, unit,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, LOADS: tl.constexpr,
    EVEN: tl.constexpr, EPS: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """y [B, C], the mean over each image (POOL "all"). Grid: B by blocks of channels."""
    _follow(BEHIND)
    example = tl.program_id(0)
    group = example // (rows // unit)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, LOADS * BLOCK_R)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    bias = tl.load(bias_ptr + cols)
    x_base = x_ptr + example.to(tl.int64) * unit * C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(0, unit, LOADS * BLOCK_R):
        row = first + lane
        inside = row < unit
        z = _rectified(_load(x_base + _offsets(row, cols, C), inside, EVEN), mean, scale, bias)
        if not EVEN:
            z = tl.where(inside[:, None], z, 0.0)
        total += _fold(z, LOADS, BLOCK_R, BLOCK_C)
    y = tl.sum(total, 0) / unit.to(tl.float32)
    tl.store(y_ptr + example.to(tl.int64) * C + cols, y.to(y_ptr.dtype.element_ty))


@triton.jit
def _gradient_of_z(dy, off, scale, bias, unit, POOL: tl.constexpr):
    """dz = dy where z > 0, with `off` = x - mean; a pooled dy is shared by its rows of x."""
    if POOL == "2x2":
        dy = dy * 0.25
    elif POOL == "all":
        dy = dy / unit.to(tl.float32)
    return tl.where(off * scale[None, :] + bias[None, :] <= 0, 0.0, dy)


@triton.jit(do_not_specialize=SIZES)
def gradient_sums_kernel(
    x_ptr, dy_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, part_ptr, sums_ptr, arrived_ptr,
    rows, places, unit, passes, parts,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, LOADS: tl.constexpr,
    EVEN: tl.constexpr, EPS: tl.constexpr, POOL: tl.constexpr, MERGED: tl.constexpr,
    REVERSE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Sums [G, 2, C] over a group of dz and of dz * (x - mean). Grid: as the statistics'."""
    _lead(AHEAD)
    pid = tl.program_id(0)
    if REVERSE:
        pid = tl.num_programs(0) - 1 - pid
    group = pid // parts
    part = pid % parts
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, LOADS * BLOCK_R)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    bias = tl.load(bias_ptr + cols)
    x_base = x_ptr + group.to(tl.int64) * rows * C
    dy_base = dy_ptr + group.to(tl.int64) * places * C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    product = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for i in range(passes):
        row = (part * passes + i) * LOADS * BLOCK_R + lane
        inside = row < rows
        x = _load(x_base + _offsets(row, cols, C), inside, EVEN)
        place = _place(row, unit, POOL)
        dy = _load(dy_base + _offsets(place, cols, C), inside, EVEN)
        off = x - mean[None, :]
        dz = _gradient_of_z(dy, off, scale, bias, unit, POOL)
        total += _fold(dz, LOADS, BLOCK_R, BLOCK_C)
        product += _fold(dz * off, LOADS, BLOCK_R, BLOCK_C)
    out = part_ptr + (group * parts + part) * 2 * C + cols
    tl.store(out, tl.sum(total, 0))
    tl.store(out + C, tl.sum(product, 0))
    if _is_last(arrived_ptr, group, parts):
        start = part_ptr + group * parts * 2 * C
        few = tl.arange(0, MERGED)
        sums = tl.zeros((BLOCK_C,), tl.float32)
        products = tl.zeros((BLOCK_C,), tl.float32)
        for i in range(0, parts, MERGED):
            at = start + (i + few)[:, None] * 2 * C + cols[None, :]
            there = (i + few < parts)[:, None]
            some = tl.load(at, mask=there, other=0.0, cache_modifier=".cg")
            more = tl.load(at + C, mask=there, other=0.0, cache_modifier=".cg")
            sums += tl.sum(some, 0)
            products += tl.sum(more, 0)
        tl.store(sums_ptr + group * 2 * C + cols, sums)
        tl.store(sums_ptr + group * 2 * C + C + cols, products)


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    x_ptr, dy_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, sums_ptr, dx_ptr, dweight_ptr,
    dbias_ptr, rows, places, unit, parts, groups,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, LOADS: tl.constexpr,
    EVEN: tl.constexpr, EPS: tl.constexpr, POOL: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """dx from the sums; the first program adds them over groups to dweight and dbias [C].

    Grid: as the normalisation's without pooling.
    """
    group = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = part * LOADS * BLOCK_R + tl.arange(0, LOADS * BLOCK_R)
    inside = row < rows
    at = _offsets(row, cols, C)
    x = _load(x_ptr + group.to(tl.int64) * rows * C + at, inside, EVEN)
    from_y = _offsets(_place(row, unit, POOL), cols, C)
    dy = _load(dy_ptr + group.to(tl.int64) * places * C + from_y, inside, EVEN)
    mean = tl.load(mean_ptr + group * C + cols)
    root = tl.rsqrt(tl.load(var_ptr + group * C + cols) + EPS)
    scale = root * tl.load(weight_ptr + cols)
    bias = tl.load(bias_ptr + cols)
    _follow(BEHIND)
    count = rows.to(tl.float32)
    average = tl.load(sums_ptr + group * 2 * C + cols) / count
    slope = tl.load(sums_ptr + group * 2 * C + C + cols) * root * root / count
    off = x - mean[None, :]
    dz = _gradient_of_z(dy, off, scale, bias, unit, POOL)
    dx = scale[None, :] * (dz - average[None, :] - off * slope[None, :])
    _store(dx_ptr + group.to(tl.int64) * rows * C + at, dx, inside, EVEN)
    if tl.program_id(0) == 0:
        dweight = tl.zeros((BLOCK_C,), tl.float32)
        dbias = tl.zeros((BLOCK_C,), tl.float32)
        for g in range(groups):
            sums = sums_ptr + g * 2 * C + cols
            dbias += tl.load(sums)
            dweight += tl.load(sums + C) * tl.rsqrt(tl.load(var_ptr + g * C + cols) + EPS)
        tl.store(dweight_ptr + cols, dweight)
        tl.store(dbias_ptr + cols, dbias)
