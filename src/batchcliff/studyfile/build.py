"""From the keys of a study file to a `StudySpec`: defaults from the workload, arms resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from batchcliff.errors import did_you_mean
from batchcliff.spec import StudySpec
from batchcliff.study import grid
from batchcliff.studyfile.arms import arms_of, check_effects
from batchcliff.studyfile.decay import decay_of
from batchcliff.studyfile.document import Document, show, unknown
from batchcliff.studyfile.reading import Problem, raise_all, read
from batchcliff.studyfile.schema import REQUIRED, StudyTable
from batchcliff.studyfile.search import check_search, search_of, short_forms, with_target
from batchcliff.studyfile.settings import (
    check_own_network,
    check_settings,
    pretrained,
)
from batchcliff.studyfile.tuning import check_equal_tuning, lr_rule
from batchcliff.studyfile.update_rule import check_exclusion, check_malladi
from batchcliff.workloads import WORKLOADS, Workload


def build(document: Document, own: Workload | None, data_names: Collection[str]) -> StudySpec:
    """The study that a document describes, with everything that it leaves out filled in.

    own: a workload of the user's own (`--workload module:function`), which replaces the one
    that the document names. data_names: the data sets that exist.
    Raises UsageError with one line for each thing that is wrong (at most 10), sorted by line;
    NoEffect for an arm that overrides a setting with the value it has anyway.
    """
    data, target = short_forms(document)
    table, problems = read(StudyTable, data, document)
    raise_all(problems, document)
    raise_all(_missing(document, table, own), document)
    base = own or _workload(document, table["workload"])
    check_own_network(document, table, base)
    settings = pretrained(document, table, base.settings, own, data_names)
    settings = with_target(document, settings, target)
    check_settings(document, settings, ("settings",))
    check_exclusion(document, table)
    budget = table.get("budget", base.budget)
    study = StudySpec(
        name=table["name"],
        workload=base.name,
        batch_sizes=table["batch_sizes"],
        seeds=table["seeds"],
        budget=budget,
        lr=lr_rule(document, table.get("lr", {}), base.lr, ("lr",)),
        decay=decay_of(document, table.get("decay", {}), base.decay, budget),
        arms=(),
        settings=settings,
        data=_data(document, table.get("data"), base, data_names),
        reference_arm=_reference(document, table),
        tolerance=table.get("tolerance", 0.02),
        description=table.get("description", "").strip(),
        published=_published(document, table.get("published", base.published)),
        search=search_of(table.get("search")),
    )
    study = dataclasses.replace(study, arms=arms_of(document, table["arms"], study))
    _check_rule(document, study)
    check_malladi(document, study)
    check_equal_tuning(document, study)
    check_search(document, study)
    check_effects(document, study)
    return study


def _missing(document: Document, table: dict[str, Any], own: Workload | None) -> list[Problem]:
    needed = REQUIRED if own else (*REQUIRED, "workload")
    problems: list[Problem] = []
    for name in needed:
        if name not in table:
            example = StudyTable.model_fields[name].examples
            text = f"missing key. Write e.g. {name} = {(example or [''])[0]}."
            problems.append(((name,), document.message((name,), text)))
        elif name == "arms" and not table["arms"]:
            text = "no arm. Write at least one, e.g. [arms.none]"
            problems.append((("arms",), document.message(("arms",), text)))
    return problems


def _workload(document: Document, name: str) -> Workload:
    if name in WORKLOADS:
        return WORKLOADS[name]
    text = f"{unknown('workload', name, WORKLOADS)} Your own: --workload module:function."
    if ":" in name:
        text = (
            "a study file never imports code. Leave the key out and give your own workload on "
            f"the command line: --workload {name}"
        )
    raise document.fail(("workload",), text, value=name)


def _data(document: Document, name: str | None, base: Workload, known: Collection[str]) -> str:
    if name is None or name == base.data_name:
        return base.data_name
    if name not in known:
        raise document.fail(("data",), unknown("data set", name, known), value=name)
    if callable(base.data):
        text = f"the workload {base.name!r} brings its own data. Leave this key out."
        raise document.fail(("data",), text, value=name)
    return name


def _published(document: Document, name: str) -> str:
    from batchcliff import published

    if name and name not in published.names():
        text = unknown("published curve", name, published.names())
        raise document.fail(("published",), text, value=name)
    return name


def _reference(document: Document, table: dict[str, Any]) -> str:
    arms = list(table["arms"])
    name = table.get("reference_arm")
    if name is None:
        if len(arms) == 1:
            return str(arms[0])
        if "none" in arms:
            return "none"
        text = (
            "missing key, and no arm is called 'none'. Write the arm that the others are "
            f"compared with: reference_arm = {show(arms[0])}."
        )
        raise document.fail(("reference_arm",), text)
    if name not in arms:
        text = f"no arm has this name.{did_you_mean(name, arms)}"
        raise document.fail(("reference_arm",), text, value=name)
    return str(name)


def _check_rule(document: Document, study: StudySpec) -> None:
    """`legw` stretches warmups, which a warmup in percent of the run cannot follow."""
    for arm in study.arms:
        if grid.rule_of(study, arm).scaling != "legw":
            continue
        for name, options in arm.techniques:
            duration = dict(options).get("duration", "")
            if name == "warmup" and duration.endswith("%"):
                raise document.fail(
                    ("arms", arm.name, name, "duration"),
                    'scaling = "legw" multiplies it with the batch size. Write e.g. "1ep".',
                    value=duration,
                )
