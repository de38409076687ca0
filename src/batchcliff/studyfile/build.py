"""From the keys of a study file to a `StudySpec`: defaults from the workload, arms resolved."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection
from typing import Any

from batchcliff.errors import NoEffect, UsageError, did_you_mean
from batchcliff.schedules.duration import Duration
from batchcliff.spec import Arm, Options, Pretraining, Settings, StudySpec
from batchcliff.study import grid
from batchcliff.studyfile.arm_keys import RATES, not_in_an_arm
from batchcliff.studyfile.decay import check_decay_and_warmup, decay_of
from batchcliff.studyfile.document import Document, Path_, show, unknown
from batchcliff.studyfile.schema import (
    REQUIRED,
    Problem,
    SettingsTable,
    StudyTable,
    length_of,
    read,
    read_option,
)
from batchcliff.studyfile.search import check_search, search_of, short_forms, with_target
from batchcliff.studyfile.tuning import check_equal_tuning, lr_rule
from batchcliff.studyfile.update_rule import check_exclusion, check_malladi
from batchcliff.techniques import TECHNIQUES, technique, techniques
from batchcliff.techniques.examples import written
from batchcliff.techniques.update_rules import LAYERWISE, without_use
from batchcliff.workloads import WORKLOADS, Workload

MAX_MESSAGES = 10


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
    _check_own_network(document, table, base)
    settings = _pretrained(document, table, base.settings, own, data_names)
    settings = with_target(document, settings, target)
    _check_settings(document, settings, ("settings",))
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
    study = dataclasses.replace(study, arms=_arms(document, table["arms"], study))
    _check_rule(document, study)
    check_malladi(document, study)
    check_equal_tuning(document, study)
    check_search(document, study)
    _check_effects(document, study)
    return study


def raise_all(problems: list[Problem], document: Document) -> None:
    """One UsageError for all problems, in the order of the file."""
    if not problems:
        return
    lines = [text for _, text in sorted(problems, key=lambda p: document.line(p[0]))]
    more = len(lines) - MAX_MESSAGES
    tail = [f"... and {more} more"] if more > 0 else []
    raise UsageError("\n".join(lines[:MAX_MESSAGES] + tail))


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


def _check_own_network(document: Document, table: dict[str, Any], base: Workload) -> None:
    """Settings that cannot reach a network of the workload's own are refused, not ignored."""
    if base.build is None:
        return
    places = [("settings",), *(("arms", name) for name in table["arms"])]
    for place in places:
        given = table.get("settings", {}) if len(place) == 1 else table["arms"][place[1]]
        for name in ("model", "batch_norm"):
            if name in given:
                text = (
                    f"the network is the workload's own: {name} does not reach it. Leave it "
                    "out, or make two workloads."
                )
                raise document.fail((*place, name), text)


def _pretrained(
    document: Document,
    table: dict[str, Any],
    base: Settings,
    own: Workload | None,
    known: Collection[str],
) -> Settings:
    """The study's settings. Pretraining is the study's: all arms begin with its weights."""
    for name, arm in table["arms"].items():
        if "pretraining" in arm:
            text = "all arms begin with the same weights. Write it as settings.pretraining."
            raise document.fail(("arms", name, "pretraining"), text)
    given = dict(table.get("settings", {}))
    pretraining = given.pop("pretraining", None)
    settings: Settings = merged(base, given)
    if pretraining is None:
        return settings
    path = ("settings", "pretraining")
    if own is not None and own.build is not None:
        text = (
            "a network of the workload's own begins with the weights that its function gives "
            "it. Load them there, and leave this out."
        )
        raise document.fail(path, text)
    if "data" not in pretraining:
        raise document.fail(
            (*path, "data"), 'missing key. Write e.g. data = "cifar10-first-half".'
        )
    if pretraining["data"] not in known:
        text = unknown("data set", pretraining["data"], known)
        raise document.fail((*path, "data"), text, value=pretraining["data"])
    return dataclasses.replace(settings, pretraining=Pretraining(**pretraining))


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


def frozen(value: Any) -> Any:
    """Lists as tuples, so that specs can be hashed and compared."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def merged(base: Any, given: dict[str, Any]) -> Any:
    """A (nested) settings dataclass with the fields of `given` replaced."""
    changes = {
        name: merged(getattr(base, name), value) if isinstance(value, dict) else frozen(value)
        for name, value in given.items()
    }
    return dataclasses.replace(base, **changes)


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """Nested tables as dotted names: {"optimizer": {"form": ..}} -> {"optimizer.form": ..}."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": item for inner, item in flat(value).items()}
        else:
            found[name] = frozen(value)
    return found


def _nearest(document: Document, table: Path_, *keys: str) -> Path_:
    """The first of `keys` that the document has in `table`, or the table itself."""
    known = (document.lines, document.options)
    return next(
        ((*table, key) for key in keys if any((*table, key) in k for k in known)), table
    )


def _check_settings(document: Document, settings: Settings, path: Path_) -> None:
    norm = settings.batch_norm
    if settings.probe_at and not settings.probes:
        text = 'says where to probe, and there are no probes. Write probes = ["sharpness"] too.'
        raise document.fail(_nearest(document, path, "probe_at"), text)
    if norm.running == "per-group" and not str(norm.group).startswith("B/"):
        raise document.fail(
            _nearest(document, (*path, "batch_norm"), "group", "running"),
            f'running = "per-group" needs a fixed number of groups, such as group = "B/8", and '
            f'the group is {show(norm.group)}. Write running = "mean" too.',
        )
    if found := without_use(settings.optimizer):
        field, text = found
        near = _nearest(document, (*path, "optimizer"), field, "name", "momentum", "form")
        value = getattr(settings.optimizer, field)
        raise document.fail(near, f"{field} = {show(value)} {text}")


def _arms(document: Document, tables: dict[str, Any], study: StudySpec) -> tuple[Arm, ...]:
    problems: list[Problem] = []
    arms: list[Arm] = []
    for name, table in tables.items():
        arm, wrong = _arm(document, name, table, study)
        problems += wrong
        if wrong:
            continue
        settings = _overridden(document, arm, study.settings)
        _check_settings(document, settings, ("arms", name))
        check_decay_and_warmup(document, study, arm)
        arms.append(arm)
    raise_all(problems, document)
    return tuple(arms)


def _check_effects(document: Document, study: StudySpec) -> None:
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
        tried = grid.rule_of(study, arm)
        ids = (*(trial.trial_id for trial in whole), repr(tried.tune and tried))
        other = seen.setdefault(ids, arm.name)
        if other != arm.name:
            text = (
                f"the same trials as arm {other!r}: remove one of the two, or make them differ."
            )
            raise document.fail(("arms", arm.name), text)


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
        old: Any = base
        for part in parts:
            old = getattr(old, part)
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
