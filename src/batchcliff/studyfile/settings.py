"""The settings of a study file: over the workload's, and whether they fit each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from batchcliff.spec import Pretraining, Settings
from batchcliff.studyfile.document import Document, Path_, show, unknown
from batchcliff.techniques.update_rules import without_use
from batchcliff.workloads import Workload


def check_own_network(document: Document, table: dict[str, Any], base: Workload) -> None:
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


def pretrained(
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


def check_settings(document: Document, settings: Settings, path: Path_) -> None:
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
