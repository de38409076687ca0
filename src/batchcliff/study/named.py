"""Some trials of a study and no other, by their ids: what a scheduler of a cluster hands out.

Source: RELIABILITY.md 5.3. A scheduler delivers "run trial X" at least once; the store keeps
one record of it, however often and wherever it ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from batchcliff.errors import Incomplete, UsageError
from batchcliff.study.plan import TRIAL_ID, Planned
from batchcliff.study.printable import printable

if TYPE_CHECKING:
    from batchcliff.spec import TrialSpec
    from batchcliff.study.adaptive import AdaptiveStages
    from batchcliff.study.store import Store
    from batchcliff.study.tuning import Choices, Place, Stages

LISTED = "`batchcliff plan STUDY --ids` lists those that have no outcome"


def check_ids(ids: Sequence[str] | None) -> None:
    """UsageError if `ids` names nothing, or something that is no trial's id."""
    if ids is None:
        return
    if not ids:
        raise UsageError(
            f"--only names no trial; write ids, with commas between them: {LISTED}"
        )
    for one in ids:
        if not TRIAL_ID.fullmatch(one):
            raise UsageError(
                f"--only {printable(one, 60)!r}: a trial's id is 20 hex digits; {LISTED}"
            )


class NamedTrials:
    """The stages of a study (study/tuning.py, study/adaptive.py) with a few of their trials.

    The study's plan is made, and grows, as in any run; what is run is what is named. Raises
    UsageError if the study cannot have a trial of that name.
    """

    def __init__(self, stages: Stages | AdaptiveStages, ids: Iterable[str]) -> None:
        self._stages, self._ids = stages, frozenset(ids)
        known = {cell.trial_id for cell in (*stages.planned, *stages.possible)}
        if strange := sorted(self._ids - known):
            raise UsageError(
                f"--only {strange[0]}: the study has no such trial (a trial's id changes with "
                f"its data and with every setting); {LISTED}"
            )

    @property
    def planned(self) -> list[Planned]:
        """Of the whole study."""
        return self._stages.planned

    @property
    def possible(self) -> set[Planned]:
        """Of the whole study."""
        return self._stages.possible

    @property
    def first(self) -> list[TrialSpec]:
        """Those that choose a learning rate."""
        return self._named(self._stages.first)

    @property
    def plain(self) -> list[TrialSpec]:
        """Those that wait for nothing."""
        return self._named(self._stages.plain)

    @property
    def later(self) -> list[TrialSpec]:
        """Those that may follow from others, or stand-ins for them."""
        return self._named(self._stages.later)

    def decided(self, store: Store) -> dict[Place, float | None]:
        """What the whole study's records decide, which is added to its plan.

        Raises Incomplete if a trial is not planned yet: it follows from others' records.
        """
        chosen = self._stages.decided(store)
        if unplanned := self._ids - {cell.trial_id for cell in store.planned()}:
            raise Incomplete(
                f"trial {min(unplanned)} is not planned yet: whether the study needs it "
                "follows from trials that have no record yet. The same command goes on after "
                "them."
            )
        return chosen

    def reported(self, chosen: Choices) -> list[TrialSpec]:
        """Those that the choices lead to."""
        return self._named(self._stages.reported(chosen))

    def waiting(self, chosen: object) -> list[TrialSpec]:  # noqa: ARG002
        """None: what is named is planned."""
        return []

    def _named(self, specs: Iterable[TrialSpec]) -> list[TrialSpec]:
        return [spec for spec in specs if spec.trial_id in self._ids]
