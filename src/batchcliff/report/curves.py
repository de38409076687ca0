"""Per-epoch curves of a study as figure values, thinned so that any study fits on a page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from batchcliff.record import Curves
from batchcliff.report.figures import Curve, CurvePanels, Panel, batch_title
from batchcliff.report.join import Joined, Trial
from batchcliff.report.text import clean, plural

MAX_EPOCH_POINTS = 120  # of one curve
MAX_POINTS = 8000  # of one figure
MAX_CURVES = 120  # of one figure, where each cell has one
MAX_SEEDS = 3  # of one cell

Values = Sequence[float | None]
Points = tuple[tuple[int, float], ...]


def training_curves(joined: Joined, slot_of: Mapping[str, int]) -> tuple[CurvePanels, ...]:
    """Test accuracy and training loss by epoch: a panel a batch size, few seeds a cell."""
    seeds = _seeds_shown(joined)
    note = _seed_note(joined, seeds)
    return (
        CurvePanels(
            title="Test accuracy by epoch",
            subtitle=f"running batch-norm statistics; {note}",
            quantity="test accuracy",
            panels=_by_batch(joined, slot_of, lambda c: c.test_accuracy, seeds),
        ),
        CurvePanels(
            title="Training loss by epoch",
            subtitle=f"mean over the epoch's updates, log axis; {note}",
            quantity="training loss",
            panels=_by_batch(joined, slot_of, lambda c: _positive(c.train_loss), seeds),
        ),
    )


def gradient_norm_curves(joined: Joined, slot_of: Mapping[str, int]) -> tuple[CurvePanels, ...]:
    """Gradient norms by update and by epoch, a panel a batch size; no panels without norms."""
    seeds = _seeds_shown(joined)
    note = f"log axis; {_seed_note(joined, seeds)}"
    return (
        CurvePanels(
            title="Gradient norm of the first updates",
            subtitle=f"over all parameters, the first 100 updates; {note}",
            quantity="gradient norm",
            panels=_by_batch(
                joined, slot_of, lambda c: _positive(c.first_gradient_norms), seeds, start=0
            ),
            place="update",
        ),
        CurvePanels(
            title="Gradient norm by epoch",
            subtitle=f"mean over the epoch's updates, {note}",
            quantity="gradient norm",
            panels=_by_batch(joined, slot_of, lambda c: _positive(c.gradient_norm), seeds),
        ),
    )


def learning_rate_curves(joined: Joined, slot_of: Mapping[str, int]) -> CurvePanels:
    """Learning rate by epoch, a panel an arm, a line a batch size (the first seed with one)."""
    panels, cells = [], joined.cells()
    for arm in joined.arms:
        curves: list[Curve] = []
        for size in joined.batch_sizes:
            trials = cells.get((arm, size), ())
            found = (_curve(t, slot_of, lambda c: _positive(c.lr)) for t in trials)
            curves += itertools.islice((c for c in found if c.points), 1)
        if curves:
            panels.append(Panel(title=clean(arm, 32), curves=tuple(curves), named=True))
    return CurvePanels(
        title="Learning rate by epoch",
        subtitle="at each epoch's last update, log axis; a line for each batch size",
        quantity="learning rate",
        panels=tuple(panels),
    )


def thin(values: Values, most: int = MAX_EPOCH_POINTS, start: int = 1) -> Points:
    """(epoch from `start`, value) of at most about `most`, the first and last among them.

    Epochs that were not measured, and values that are not finite, are left out.
    """
    numbered = enumerate(values, start)
    found = [(i, v) for i, v in numbered if v is not None and math.isfinite(v)]
    stride = max(1, math.ceil(len(found) / most))
    kept = found[::stride]
    if found and kept[-1] != found[-1]:
        kept.append(found[-1])
    return tuple((epoch, _short(value)) for epoch, value in kept)


def _short(value: float) -> float:
    return float(f"{value:.6g}")  # a third of the page's size for what no eye can see


def _positive(values: Values) -> Values:
    """What a log axis can show."""
    return [v if v is not None and v > 0 else None for v in values]


def _curve(
    trial: Trial,
    slot_of: Mapping[str, int],
    pick: Callable[[Curves], Values],
    most: int = MAX_EPOCH_POINTS,
    start: int = 1,
) -> Curve:
    values = pick(trial.record.curves) if trial.record else ()
    return Curve(
        arm=trial.arm,
        slot=slot_of[trial.arm],
        batch_size=trial.batch_size,
        seed=trial.seed,
        points=thin(values, most, start),
    )


def _by_batch(
    joined: Joined,
    slot_of: Mapping[str, int],
    pick: Callable[[Curves], Values],
    seeds: int,
    start: int = 1,
) -> tuple[Panel, ...]:
    cells = joined.cells()
    most = min(MAX_EPOCH_POINTS, max(MAX_POINTS // max(len(cells) * seeds, 1), 20))
    panels = []
    for size in joined.batch_sizes:
        curves: list[Curve] = []
        for arm in joined.arms:
            recorded = [t for t in cells.get((arm, size), ()) if t.record is not None]
            recorded.sort(key=lambda t: t.seed)
            curves += [_curve(t, slot_of, pick, most, start) for t in recorded[:seeds]]
        if any(c.points for c in curves):
            shown = tuple(c for c in curves if c.points)
            panels.append(Panel(title=batch_title(size), curves=shown))
    return tuple(panels)


def _seeds_shown(joined: Joined) -> int:
    """Seeds of a cell that are drawn: fewer when there are many cells, never none."""
    return max(1, min(MAX_SEEDS, MAX_CURVES // max(len(joined.cells()), 1)))


def _seed_note(joined: Joined, seeds: int) -> str:
    most = max((len(trials) for trials in joined.cells().values()), default=0)
    if most <= seeds:
        return "every seed a line"
    return f"the first {plural(seeds, 'seed')} of each cell"
