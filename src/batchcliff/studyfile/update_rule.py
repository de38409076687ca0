"""What a study file says of the update rule: exclusion in so many words, and `malladi`."""

from __future__ import annotations

from typing import Any

from batchcliff.spec import StudySpec
from batchcliff.study import grid
from batchcliff.studyfile.document import Document, Path_
from batchcliff.techniques.update_rules import ADAM, LAYERWISE, USES


def check_exclusion(document: Document, table: dict[str, Any]) -> None:
    """LARS, LARC and LAMB need a rule of exclusion in so many words: packages differ in it.

    table: the file's keys. Raises UsageError.
    """
    said = "exclude" in table.get("settings", {}).get("optimizer", {})
    places = [("settings",), *(("arms", name) for name in table["arms"])]
    for place in places:
        given = table.get("settings", {}) if len(place) == 1 else table["arms"][place[1]]
        optimizer = given.get("optimizer")
        if not isinstance(optimizer, dict) or optimizer.get("name") not in LAYERWISE:
            continue
        if not said and "exclude" not in optimizer:
            text = (
                "needs a rule of exclusion, which has no default: add "
                'exclude = "norms-and-biases", or "nothing".'
            )
            path: Path_ = (*place, "optimizer", "name")
            raise document.fail(path, text, value=optimizer["name"])


def check_malladi(document: Document, study: StudySpec) -> None:
    """`malladi` scales what only Adam and its variants have. Raises UsageError."""
    for arm in study.arms:
        own = grid.arm_settings(study.settings, arm).optimizer.name
        name = next((n for n, _ in arm.techniques if n in USES), own)
        if grid.rule_of(study, arm).scaling == "malladi" and name not in ADAM:
            path: Path_ = ("arms", arm.name, "lr") if arm.lr is not None else ("lr",)
            text = (
                f"is a rule for Adam, and arm {arm.name!r} trains with {name}. "
                'Write "sqrt", or give the arm an lr of its own.'
            )
            raise document.fail((*path, "scaling"), text, value="malladi")
