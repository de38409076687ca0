"""The arms of a study file: techniques, settings and rates, and that each changes something."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

from batchcliff.errors import NoEffect, UsageError
from batchcliff.schedules.duration import Duration
from batchcliff.spec import Arm, Options, Settings, StudySpec, TrialSpec
from batchcliff.study import grid
from batchcliff.studyfile.arm_keys import RATES, not_in_an_arm
from batchcliff.studyfile.decay import check_decay_and_warmup, decay_of
from batchcliff.studyfile.document import Document, Path_, unknown
from batchcliff.studyfile.reading import Problem, raise_all, read, read_option
from batchcliff.studyfile.schema import SettingsTable, StudyTable
from batchcliff.studyfile.settings import (
    check_settings,
    flat,
    frozen,
    merged,
)
from batchcliff.studyfile.tuning import lr_rule
from batchcliff.studyfile.values import length_of
from batchcliff.techniques import TECHNIQUES, technique, techniques
from batchcliff.techniques.examples import written
from batchcliff.techniques.update_rules import LAYERWISE, USES


def arms_of(document: Document, tables: dict[str, Any], study: StudySpec) -> tuple[Arm, ...]:
    problems: list[Problem] = []
    arms: list[Arm] = []
    for name, table in tables.items():
        arm, wrong = _arm(document, name, table, study)
        problems += wrong
        if wrong:
            continue
        settings = _overridden(document, arm, study.settings)
        check_settings(document, settings, ("arms", name))
        check_decay_and_warmup(document, study, arm)
        arms.append(arm)
    raise_all(problems, document)
    return tuple(arms)


def check_effects(document: Document, study: StudySpec) -> None:
    """Every technique changes the trials of its arm, and no two arms have the same ones.

    Raises NoEffect for a technique that changes nothing at any batch size.
    """
    seen: dict[tuple[str, ...], str] = {}
    for arm in study.arms:
        plain = [grid.plain_trial(study, arm, size) for size in study.batch_sizes]
        for name, options in arm.techniques:
            path = ("arms", arm.name, name)
            try:
                changed = any(technique(name, options).applied(t) != t for t in plain)
            except UsageError as error:
                key, reason = _blame(name, dict(options), str(error))
                at = path if key is None else (*path, key)
                raise type(error)(document.message(at, reason)) from error
            if not changed:
                text = "changes nothing: the trials are the same without it. Leave it out."
                raise NoEffect(document.message(path, text, value=dict(options)))
        try:
            whole = [grid.whole_trial(study, arm, size) for size in study.batch_sizes]
        except UsageError as error:
            raise type(error)(document.message(("arms", arm.name), str(error))) from error
        _check_idle(document, study, arm, whole)
        tried = grid.rule_of(study, arm)
        ids = (*(trial.trial_id for trial in whole), repr(tried.tune and tried))
        other = seen.setdefault(ids, arm.name)
        if other != arm.name:
            text = (
                f"the same trials as arm {other!r}: remove one of the two, or make them differ."
            )
            raise document.fail(("arms", arm.name), text)


def _check_idle(
    document: Document, study: StudySpec, arm: Arm, whole: Sequence[TrialSpec]
) -> None:
    """Every setting of an arm changes its trials, techniques included.

    whole: a trial of each batch size. A technique may fill the place of a setting: `radam`
    that of `optimizer.name`. Raises NoEffect.
    """
    for name, value in arm.settings if arm.techniques else ():
        others = tuple(pair for pair in arm.settings if pair[0] != name)
        without = dataclasses.replace(arm, settings=others)
        if _setting(study.settings, name) == value:
            continue  # said again because it must be: a rule of exclusion
        try:
            trials = [grid.whole_trial(study, without, size) for size in study.batch_sizes]
        except UsageError:
            continue
        if trials == list(whole):
            names = [technique for technique, _ in arm.techniques]
            if name.startswith("optimizer."):
                names = [n for n in names if n in USES] or names
            text = f"changes nothing beside {' and '.join(names)}. Leave one of the two out."
            path = ("arms", arm.name, *name.split("."))
            raise NoEffect(document.message(path, text, value=value))


def _setting(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _arm(
    document: Document, name: str, table: dict[str, Any], study: StudySpec
) -> tuple[Arm, list[Problem]]:
    problems: list[Problem] = []
    pairs: list[tuple[str, Options]] = []
    given: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    for key, value in table.items():
        path: Path_ = ("arms", name, key)
        # "mixup = 0.2" is the setting, "mixup = { alpha = 0.2 }" the technique of that name.
        is_setting = key in SettingsTable.model_fields
        if key in TECHNIQUES and (isinstance(value, dict) or not is_setting):
            try:
                pairs.append((key, _options(document, path, key, value)))
            except UsageError as error:
                problems.append((path, str(error)))
        elif is_setting:
            part, wrong = read(SettingsTable, {key: value}, document, ("arms", name))
            given |= part
            problems += wrong
        elif key in RATES:
            part, wrong = read(StudyTable, {key: value}, document, ("arms", name))
            rates |= part
            problems += wrong
        else:
            text = not_in_an_arm(key, value)
            problems.append((path, document.message(path, text, value=value)))
    if not problems:
        try:
            techniques(tuple(pairs))
        except UsageError as error:
            problems.append((("arms", name), document.message(("arms", name), str(error))))
    if problems:
        return Arm(name=name), problems
    lr = None
    if "lr" in rates:
        lr = lr_rule(document, rates["lr"], study.lr, ("arms", name, "lr"))
    decay = None
    if "decay" in rates:
        path = ("arms", name, "decay")
        decay = decay_of(document, rates["decay"], study.decay, study.budget, path)
    for key, own, whole in (("lr", lr, study.lr), ("decay", decay, study.decay)):
        if own == whole:
            raise NoEffect(
                document.message(
                    ("arms", name, key),
                    "changes nothing, the study's is the same. Leave it out.",
                )
            )
    return Arm(
        name=name,
        techniques=tuple(sorted(pairs)),
        settings=tuple(sorted(flat(given).items())),
        lr=lr,
        decay=decay,
    ), problems


def _overridden(document: Document, arm: Arm, base: Settings) -> Settings:
    """The arm's settings. NoEffect if it sets one to the value that it has anyway."""
    result = base
    layerwise = dict(arm.settings).get("optimizer.name") in LAYERWISE
    for name, value in arm.settings:
        parts = name.split(".")
        old = _setting(base, name)
        must_be_said = layerwise and name == "optimizer.exclude"
        if old == value and not must_be_said:
            path = ("arms", arm.name, *parts)
            raise NoEffect(
                document.message(
                    path,
                    "changes nothing, the study's setting is the same. Leave it out.",
                    value=value,
                )
            )
        nested: Any = value
        for part in reversed(parts):
            nested = {part: nested}
        result = merged(result, nested)
    return result


def _options(document: Document, path: Path_, name: str, table: Any) -> Options:
    """A technique's options: checked, typed, and without those that equal the default.

    Leaving defaults out lets two spellings of one trial have one id.
    """
    if not isinstance(table, dict):
        text = f"a table of options is needed, e.g. {written(name)}."
        raise document.fail(path, text, value=table)
    cls = TECHNIQUES[name]
    hints, fields = typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    options: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            text = unknown(f"option of {name}", key, fields)
            raise document.fail((*path, key), text, value=value)
        try:
            length = Duration in typing.get_args(hints[key])  # in a file always with its unit
            given = frozen(value) if typing.get_origin(hints[key]) is tuple else value
            options[key] = frozen(read_option(str if length else hints[key], given))
            if length:
                options[key] = str(length_of(options[key]))
        except UsageError as error:
            example = ' Write e.g. "5ep".' if length and "Write" not in str(error) else ""
            raise document.fail((*path, key), f"{error}{example}", value=value) from error
    try:
        technique(name, options)
    except UsageError as error:
        key, reason = _blame(name, options, str(error))
        if key is None:
            raise document.fail(path, reason, value=table) from error
        raise document.fail((*path, key), reason, value=options.get(key)) from error
    return tuple(sorted((k, v) for k, v in options.items() if v != fields[k].default))


def _blame(name: str, options: dict[str, Any], text: str) -> tuple[str | None, str]:
    """The option that a technique's message is about, and the message without its name."""
    match = re.match(rf"{re.escape(name)}(?:\.(\w+))?: (.*)", text, re.DOTALL)
    if match:
        return (match[1] if match[1] in options else None), match[2]
    named = [key for key, value in options.items() if repr(value) in text]
    return (named[0] if named else None), text
