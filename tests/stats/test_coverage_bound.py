"""Why intervals of a sharp collapse cover more than 95% (docs/statistics.md).

Sizes lie an octave apart, and the place of the collapse is uniform between two of them. Of a
collapse that is sharp all that is seen is between which two it lies, or a size with both kinds
of trials. An answer is an interval for each pattern of counts; which intervals cover a share
`least` at *every* width of the collapse, and are narrowest on average, is a linear program. It
knows the model, the plateau and the widths that there are, so that nothing can be narrower.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.special import expit
from scipy.stats import binom

SIZES = np.arange(-3, 5)  # log2, from where the collapse is, less a whole number
PLACES = (np.arange(8) + 0.5) / 8
ENDS = np.arange(-2.0, 3.01, 0.125)  # of intervals, octaves from the last size where all stand
RARE = 1e-5


def studies(seeds, width):
    """(what is seen, its probability, where the cliff is then) over places and counts.

    Seen are the counts from the last size on at which all stand, and whether a trial
    collapsed before it; the place is given from that size.
    """
    found = []
    for place in PLACES:
        share = expit((SIZES - place) / width)
        chances = binom.pmf(np.arange(seeds + 1), seeds, share[:, None])
        patterns = {(): 1 / len(PLACES)}
        for row in chances:
            patterns = {
                (*counts, f): p * chance
                for counts, p in patterns.items()
                for f, chance in enumerate(row)
                if p * chance > RARE
            }
        for counts, p in patterns.items():
            last = max((k for k, f in enumerate(counts) if f == 0), default=0)
            seen = (counts[last + 1 : last + 4], any(counts[:last]))
            found.append((seen, p, place - SIZES[last]))
    return found


def narrowest(seeds, widths, least):
    """Coverage at each width of the intervals that are narrowest on average over the widths
    and cover `least` at each, and that average, octaves."""
    worlds = [studies(seeds, width) for width in widths]
    patterns = {seen: i for i, seen in enumerate({s for world in worlds for s, _, _ in world})}
    intervals = np.array([(a, b) for a in ENDS for b in ENDS if a <= b])
    holds = np.zeros((len(widths), len(patterns), len(intervals)))
    mass: defaultdict[int, float] = defaultdict(float)
    for world, row in zip(worlds, holds, strict=True):
        for seen, p, truth in world:
            mass[patterns[seen]] += p / len(widths)
            row[patterns[seen]] += p * np.all((intervals - truth) * [-1, 1] >= 0, axis=1)
    lengths = np.diff(intervals)[:, 0]
    cells = len(patterns) * len(intervals)
    one_each = (
        np.ones(cells),
        (np.repeat(np.arange(len(patterns)), len(intervals)), range(cells)),
    )
    answer = linprog(
        np.outer([mass[i] for i in range(len(patterns))], lengths).ravel(),
        A_ub=-holds.reshape(len(widths), cells),
        b_ub=np.full(len(widths), -least),
        A_eq=csr_array(one_each),
        b_eq=np.ones(len(patterns)),
        bounds=(0, 1),
    )
    assert answer.status == 0
    return holds.reshape(len(widths), cells) @ answer.x, answer.fun


@pytest.mark.parametrize(("seeds", "covered"), [(3, 0.974), (5, 0.990), (10, 0.997)])
def test_what_holds_for_a_step_and_a_wide_collapse_covers_more_in_between(seeds, covered):
    coverage, _ = narrowest(seeds, (0.02, 0.08, 0.25), 0.95)
    assert coverage == pytest.approx([0.95, covered, 0.95], abs=0.002)


def test_with_three_seeds_so_it_is_between_a_middling_and_a_wide_one():
    coverage, _ = narrowest(3, (0.25, 0.5), 0.95)
    assert coverage == pytest.approx([0.987, 0.95], abs=0.002)


def test_told_the_width_nothing_forces_intervals_to_cover_more():
    """The control: it is not the grid alone, but that the width is unknown."""
    for width in (0.08, 0.25):
        assert narrowest(3, (width,), 0.95)[0] == pytest.approx([0.95], abs=0.002)


def test_twin_a_step_is_covered_by_as_much_of_its_bracket_as_is_asked():
    """All stand, then none: an interval from the first to the last of six places holds 6/8."""
    coverage, average = narrowest(3, (0.001,), 0.75)
    assert coverage == pytest.approx([0.75])
    assert average == pytest.approx(0.75)  # of ends that lie an eighth apart


def test_twin_studies_come_with_the_chances_of_the_binomial():
    for width in (0.02, 0.25):
        assert sum(p for _, p, _ in studies(3, width)) == pytest.approx(1.0, abs=1e-3)
    step = studies(2, 0.001)
    assert {seen for seen, _, _ in step} == {((2, 2, 2), False)}
    assert sorted(truth for _, _, truth in step) == pytest.approx(PLACES)
    mixed = sum(p for seen, p, _ in studies(2, 0.25) if seen[0][0] == 1)
    rng = np.random.default_rng(0)
    z = (SIZES - rng.random((20_000, 1))) / 0.25
    fails = rng.binomial(2, expit(z))
    first = fails.shape[1] - (fails[:, ::-1] == 0).argmax(axis=1)
    seen_mixed = fails[np.arange(len(fails)), np.minimum(first, fails.shape[1] - 1)] == 1
    assert mixed == pytest.approx(seen_mixed.mean(), abs=0.015)
