"""The table `decay` of a study file or of an arm as a `Decay`, and whether it fits the run."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

from batchcliff.schedules.batch_size import share_of_run
from batchcliff.schedules.decays import DECAYS
from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import Arm, Decay, StudySpec
from batchcliff.studyfile.document import Document, Path_

_EXAMPLES = {"at": '["60%", "85%"]', "duration": '"20%"', "floor": "0.01"}


def decay_of(
    document: Document,
    given: dict[str, Any],
    base: Decay,
    budget: str | None,
    where: Path_ = ("decay",),
) -> Decay:
    """The decay of a table with the options `given`, each right by itself.

    base: what the options replace, if it is of the same kind. budget: the length of the run;
    None: not known. Raises UsageError for an option that the kind has not, one that is
    missing, or a length that does not fit the run.
    """
    kind = DECAYS[given.get("kind", base.kind)]
    for key in given:
        if key not in ("kind", *kind.options):
            fits = next(other.name for other in DECAYS.values() if key in other.options)
            text = f'a {kind.name} decay has none. Leave the key out, or write kind = "{fits}".'
            raise document.fail((*where, key), text, value=given[key])
    decay = dataclasses.replace(
        base if kind.name == base.kind else Decay(kind=kind.name), **given
    )
    for key in kind.required:
        if not getattr(decay, key):
            text = f"missing key. Write e.g. {key} = {_EXAMPLES[key]}."
            raise document.fail((*where, key), text, value=given.get(key, ...))
    if budget is not None:
        _check_lengths(document, decay, budget, where)
        _check_milestones(
            document, decay.at, budget, (*where, "at") if "at" in given else ("budget",)
        )
    return decay


def _check_lengths(document: Document, decay: Decay, budget: str, where: Path_) -> None:
    for key, example in (("timescale", "10%"), ("duration", "20%")):
        length = getattr(decay, key)
        share = share_of_run(length, budget) if length else None
        if length and not parse_duration(length).value:
            text = f'is no length. Write e.g. "{example}".'
        elif share is not None and (share > 1 or (share == 1 and key == "timescale")):
            text = f'does not end inside of the run of {budget}. Write e.g. "{example}".'
        else:
            continue
        raise document.fail((*where, key), text, value=length)


def _check_milestones(
    document: Document, at: tuple[str, ...], budget: str, path: Path_
) -> None:
    for point in at:
        share = share_of_run(point, budget)
        if share is not None and not 0 < share < 1:
            text = f'{point} is not inside of the run of {budget}. Write e.g. ["60%", "85%"].'
            raise document.fail(path, text, value=list(at))
    for first, second in pairwise(at):
        one, two = parse_duration(first), parse_duration(second)
        shares = (share_of_run(first, budget), share_of_run(second, budget))
        a, b = (one.value, two.value) if one.unit == two.unit else shares
        if a is not None and b is not None and a >= b:
            text = f"{second} does not come after {first}: write the points in ascending order."
            raise document.fail(path, text, value=list(at))


def check_decay_and_warmup(document: Document, study: StudySpec, arm: Arm) -> None:
    """A warmup fits the run; a decay that is made of one has one, and one that has its own has
    no other.

    Raises UsageError.
    """
    _check_warmup(document, study, arm)
    decay = arm.decay or study.decay
    path: Path_ = ("arms", arm.name, "decay") if arm.decay is not None else ("decay",)
    warm = any(name == "warmup" for name, _ in arm.techniques)
    if decay.kind == "one-cycle" and warm:
        text = (
            "a one-cycle decay has a warmup of its own, rise. Leave this one out, or give the "
            "arm a decay of its own."
        )
        raise document.fail(("arms", arm.name, "warmup"), text)
    if decay.kind == "inverse-sqrt" and not decay.timescale and not warm:
        text = (
            f"missing key: arm {arm.name!r} has no warmup whose length it could be. Write e.g. "
            'timescale = "10%".'
        )
        raise document.fail((*path, "timescale"), text)


def _check_warmup(document: Document, study: StudySpec, arm: Arm) -> None:
    """What is told here once would else make every trial of the arm infeasible."""
    if (arm.lr or study.lr).scaling == "legw":  # whose warmups depend on the batch size
        return
    for name, options in arm.techniques:
        length = dict(options)["duration"] if name in ("warmup", "batch-warmup") else "0%"
        share = share_of_run(length, study.budget)
        if share is not None and share > 1:
            text = (
                f"is longer than the run of {study.budget}. Write a share of the run, such as "
                '"5%", or a longer budget.'
            )
            raise document.fail(("arms", arm.name, name, "duration"), text, value=length)
