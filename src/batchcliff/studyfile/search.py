"""What a study file says of searching its cliffs and of ending trials early: `search`,
`settings.stop`, and a `budget` that is a target accuracy."""

from __future__ import annotations

import dataclasses
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.spec import Search, Settings, StudySpec
from batchcliff.study import grid
from batchcliff.studyfile.document import Document
from batchcliff.studyfile.reading import read
from batchcliff.studyfile.schema import BudgetTable


def short_forms(document: Document) -> tuple[dict[str, Any], float]:
    """The document's tables with short forms written out, and the accuracy of its budget.

    `search = "adaptive"` is `search = { kind = "adaptive" }`; of `budget = { accuracy = 0.9,
    at_most = "30ep" }` the budget is "30ep"; 0: it names no accuracy. Raises UsageError.
    """
    data, accuracy = dict(document.data), 0.0
    if isinstance(data.get("search"), str):
        data["search"] = {"kind": data["search"]}
    if isinstance(data.get("budget"), dict):
        given, problems = read(BudgetTable, data["budget"], document, ("budget",))
        if problems:
            raise UsageError("\n".join(message for _, message in problems))
        for key, example in (("accuracy", "0.9"), ("at_most", '"30ep"')):
            if key not in given:
                text = f"missing key. Write e.g. {key} = {example}."
                raise document.fail(("budget", key), text)
        data["budget"], accuracy = given["at_most"], given["accuracy"]
    return data, accuracy


def with_target(document: Document, settings: Settings, accuracy: float) -> Settings:
    """`settings` whose trials end at the budget's accuracy. Raises UsageError."""
    if accuracy and settings.stop.accuracy:
        text = "the budget names an accuracy too. Leave one of them out."
        path = ("settings", "stop", "accuracy")
        raise document.fail(path, text, value=settings.stop.accuracy)
    if not accuracy:
        return settings
    stop = dataclasses.replace(settings.stop, accuracy=accuracy)
    return dataclasses.replace(settings, stop=stop)


def search_of(given: dict[str, Any] | None) -> Search | None:
    """The search of a study file's table; None without one."""
    if given is None:
        return None
    return Search(**{key: value for key, value in given.items() if key != "kind"})


def check_search(document: Document, study: StudySpec) -> None:
    """What cannot be searched, and what arms must not have of their own. Raises UsageError."""
    for arm in study.arms:
        if any(name.startswith("stop.") for name, _ in arm.settings):
            text = "all trials end by one rule. Write it as settings.stop."
            raise document.fail(("arms", arm.name, "stop"), text)
    if study.search is None:
        return
    if len(study.batch_sizes) < 2:
        text = "a search needs a smallest and a largest batch size to look between."
        raise document.fail(("batch_sizes",), text, value=list(study.batch_sizes))
    for arm in study.arms:
        if grid.rule_of(study, arm).tune:
            text = (
                f"arm {arm.name!r} chooses its learning rates at batch sizes that are known "
                "in advance. Leave search or lr.tune out."
            )
            raise document.fail(("search",), text)
    if study.settings.stop.accuracy:
        text = (
            "trials that end at a target accuracy all end with it: no cliff can be found. "
            "Leave search out."
        )
        raise document.fail(("search",), text)
