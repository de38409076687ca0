"""The name of a trial: what it depends on, walked field by field, and what it does not."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import typing
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from batchcliff.canonical import from_plain, parse_json, to_plain
from batchcliff.spec import Arm, Decay, LrRule, Pretraining, Settings, StudySpec, TrialSpec
from batchcliff.techniques import TECHNIQUES
from batchcliff.techniques.seams import kept

SPEC = TrialSpec(
    workload="article",
    data="cifar10",
    data_digest="ab" * 32,
    arm="warmup",
    techniques=(("warmup", (("duration", "6ep"), ("shape", "linear"))),),
    settings=Settings(),
    batch_size=128,
    lr=0.1,
    decay=Decay(at=("60%", "85%")),
    budget="100ep",
    seed=0,
)


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if value is None:
        return Pretraining(data="digits")
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    assert isinstance(value, tuple)
    return (*value, value[0]) if value else ("x",)


def neighbours(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass that differs from `value` in one field, however deep."""
    for f in dataclasses.fields(value):
        inner = getattr(value, f.name)
        name = f"{path}{f.name}"
        if dataclasses.is_dataclass(inner):
            for deeper, other in neighbours(inner, f"{name}."):
                yield deeper, dataclasses.replace(value, **{f.name: other})
        else:
            yield name, dataclasses.replace(value, **{f.name: changed(inner)})


NEIGHBOURS = dict(neighbours(SPEC))


FIRST_FIELDS = 10 + 3 + 4 + 5 + 5 + 3  # of the first release


def added(cls: Any) -> list[str]:
    """Fields of a dataclass and of those inside of it that came after the first release."""
    found, hints = [], typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        inner, new = hints[f.name], "added" in f.metadata
        if not dataclasses.is_dataclass(inner):  # of what may be None, the field is all
            found += [f.name] if new else []
        else:
            found += [g.name for g in dataclasses.fields(inner)] if new else added(inner)
    return found


def test_the_walk_reaches_every_field() -> None:
    assert len(NEIGHBOURS) == FIRST_FIELDS + len(added(TrialSpec))
    assert {"settings.batch_norm.group", "decay.factor", "semantics", "lr"} <= NEIGHBOURS.keys()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_id_changes_with_every_field_but_the_label(name: str) -> None:
    assert NEIGHBOURS[name] != SPEC
    assert (NEIGHBOURS[name].trial_id == SPEC.trial_id) == (name == "arm")


def test_ids_are_unique_among_neighbours() -> None:
    ids = [spec.trial_id for name, spec in NEIGHBOURS.items() if name != "arm"]
    assert len({*ids, SPEC.trial_id}) == len(ids) + 1


def test_twin_of_the_id() -> None:
    """SHA-256 of the sorted, compact JSON without the label; its first 20 digits."""
    plain = {
        **{name: getattr(SPEC, name) for name in ("workload", "data", "data_digest")},
        "techniques": SPEC.techniques,
        "settings": {
            "model": {"name": "conv-net", "widths": SPEC.settings.model.widths,
                      "init": "glorot-uniform"},
            "batch_norm": dataclasses.asdict(SPEC.settings.batch_norm),
            "optimizer": {"name": "sgd", "form": "keras", "momentum": 0.9, "nesterov": False,
                          "weight_decay": 0.0},
            "loss": "clipped-softmax",
            "augmentation": "as-written",
            "precision": "bf16",
            "remainder": "drop",
            "evaluate_every": 1,
        },
        "decay": {"kind": "multistep", "at": SPEC.decay.at, "factor": 0.1},
        **{name: getattr(SPEC, name) for name in ("batch_size", "lr", "budget", "seed")},
        "semantics": 1,
    }  # fmt: skip
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert SPEC.trial_id == hashlib.sha256(text.encode()).hexdigest()[:20]


def test_golden_id() -> None:
    """Pinned: a change would make every record of every store a stranger."""
    assert SPEC.trial_id == "1ef34c701562afe66ec2"


def test_the_id_of_a_spec_that_travelled() -> None:
    again = from_plain(TrialSpec, parse_json(json.dumps(to_plain(SPEC))))
    assert again == SPEC
    assert again.trial_id == SPEC.trial_id


def study(arms: tuple[Arm, ...]) -> StudySpec:
    return StudySpec(
        name="s",
        workload="article",
        batch_sizes=(128,),
        seeds=(0,),
        budget="100ep",
        lr=LrRule(base=0.1, base_batch_size=128),
        decay=Decay(),
        arms=arms,
        settings=Settings(),
        data="cifar10",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
    """A second technique that acts during the run."""

    epsilon: float = 0.5
    seam: ClassVar[str] = "loss"
    part: ClassVar[str] = "other"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        return kept(spec, "other", self)


def test_the_order_of_options_and_techniques_is_no_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two arms of the same content, in any order and under any name, are one trial."""
    from batchcliff.study.grid import trials

    monkeypatch.setitem(TECHNIQUES, "other", Other)

    options = (("duration", "6ep"), ("shape", "exponential"), ("start", 0.01))
    others = (("epsilon", 0.1),)
    ids = set()
    for order in itertools.permutations(options):
        for pairs in itertools.permutations([("warmup", order), ("other", others)]):
            arm = Arm(name=f"arm {len(ids)} {order}", techniques=pairs)
            (spec,) = trials(study((arm,)), "ab" * 32)
            ids.add(spec.trial_id)
    assert len(ids) == 1
    (plain,) = trials(study((Arm(name="none"),)), "ab" * 32)
    assert plain.trial_id not in ids


def test_specs_are_frozen_and_hashable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.seed = 1  # type: ignore[misc]
    assert len({SPEC, dataclasses.replace(SPEC), NEIGHBOURS["seed"]}) == 2
