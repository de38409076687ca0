"""The budget that a figure's trials had, in words: a fixed budget tells part of the story."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from batchcliff.report.figures import CurvePanels, Differences
from batchcliff.report.text import clean, listed
from batchcliff.report.transfer import TransferByBatch
from batchcliff.spec import StudySpec, TrialSpec

UNITS = {"ep": "epoch", "up": "update", "ex": "example"}
MAX_TOLD = 3  # budgets of one study; the records have them all

Figure = TypeVar("Figure", CurvePanels, Differences, TransferByBatch)


def length_text(budget: str) -> str:
    """ "100ep" as "100 epochs"; a text of another form as it is."""
    match = re.fullmatch(r"([\d./]+)(ep|up|ex)", budget)
    if match is None:
        return clean(budget, 20)
    count, unit = match[1], UNITS[match[2]]
    shown = f"{int(count):,}" if count.isdecimal() else count
    return f"{shown} {unit}" if count == "1" else f"{shown} {unit}s"


def budget_text(study: StudySpec, specs: Sequence[TrialSpec] = ()) -> str:
    """ "budget: 100 epochs", or of a target "budget: until 90% accuracy, at most 30 epochs".

    specs: the planned trials: an arm may train longer than the study says.
    """
    budgets = dict.fromkeys([spec.budget for spec in specs] or [study.budget])
    told = [length_text(budget) for budget in list(budgets)[:MAX_TOLD]]
    more = [f"{len(budgets) - MAX_TOLD} more"] * (len(budgets) > MAX_TOLD)
    lengths = listed([*told, *more])
    if accuracy := study.settings.stop.accuracy:
        return f"budget: until {100 * accuracy:g}% accuracy, at most {lengths}"
    return f"budget: {lengths}"


def with_budget(figure: Figure, budget: str) -> Figure:
    """The figure with its trials' budget in the subtitle."""
    return dataclasses.replace(figure, subtitle=f"{figure.subtitle}; {budget}")
