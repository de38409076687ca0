"""What a study file says of choosing learning rates: `lr.tune` and the keys beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from batchcliff.spec import LrRule, StudySpec
from batchcliff.study import grid
from batchcliff.studyfile.document import Document, Path_, show

_BESIDE = ("trials", "tuning_seeds", "validation")  # keys that say nothing without `tune`


def tried(rates: Sequence[float], count: int) -> tuple[float, ...]:
    """The first `count` of `rates` in the order in which they are tried.

    The middle one first, then always the one whose logarithm is farthest from all before, of
    equal ones the smallest. So few trials span the grid, and more of them keep the former.
    """
    left = sorted(rates)
    found = [left.pop((len(left) - 1) // 2)]
    while len(found) < count:
        gaps = [min(abs(math.log(rate / one)) for one in found) for rate in left]
        most = max(gaps)
        nearest = next(i for i, gap in enumerate(gaps) if math.isclose(gap, most))
        found.append(left.pop(nearest))
    return tuple(found)


def lr_rule(document: Document, given: dict[str, Any], before: LrRule, path: Path_) -> LrRule:
    """`before` with the keys of the table at `path`. Raises UsageError."""
    if "tune" not in given:
        for key in _BESIDE:
            if key in given:
                text = "says how lr.tune is searched. Write e.g. tune = [0.05, 0.1, 0.2] too."
                raise document.fail((*path, key), text, value=given[key])
        if before.tune and "base" in given:
            text = "the study's lr.tune stands in its place. Write tune = [...] here."
            raise document.fail((*path, "base"), text, value=given["base"])
        return dataclasses.replace(before, **given)
    if "base" in given:
        text = "lr.tune lists the rates that are tried in its place. Leave one of them out."
        raise document.fail((*path, "base"), text, value=given["base"])
    rates = given["tune"]
    trials = given.get("trials", len(rates))
    if trials > len(rates):
        text = (
            f"is more than the {len(rates)} rates of lr.tune. Write at most {len(rates)}, more "
            "rates, or tuning_seeds = 2 to try each of them twice."
        )
        raise document.fail((*path, "trials"), text, value=trials)
    chosen = tried(rates, trials)
    rest = {key: value for key, value in given.items() if key not in ("tune", "trials")}
    return dataclasses.replace(before, base=chosen[0], tune=tuple(sorted(chosen)), **rest)


def check_equal_tuning(document: Document, study: StudySpec) -> None:
    """Every tuned arm has the same search: as many rates and seeds, the same examples.

    Raises UsageError that names the arm.
    """
    first: tuple[str, LrRule] | None = None
    for arm in study.arms:
        rule = grid.rule_of(study, arm)
        if not rule.tune:
            continue
        name, other = first = first or (arm.name, rule)
        mine = (len(rule.tune), rule.tuning_seeds, rule.validation)
        theirs = (len(other.tune), other.tuning_seeds, other.validation)
        for key, one, two in zip(("tune", *_BESIDE[1:]), mine, theirs, strict=True):
            if one != two:
                what = f"{one} rates" if key == "tune" else f"{key} = {show(one)}"
                than = f"{two} rates" if key == "tune" else f"{key} = {show(two)}"
                text = (
                    f"{what} here and {than} in arm {name!r}: arms are compared fairly only "
                    "with one budget. Write the same in both."
                )
                place: Path_ = ("arms", arm.name, "lr") if arm.lr is not None else ("lr",)
                raise document.fail((*place, key), text)
