"""A network of the user's own: what does not reach it is refused, what breaks is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchcliff.errors import UsageError
from batchcliff.spec import LrRule
from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study
from batchcliff.training.arithmetic import DataFacts, ledger
from batchcliff.workloads import OWN_BATCH_NORM, Workload, load_workload

SOURCE = """
from batchcliff import LrRule, Workload

def workload():
    {body}
    return Workload(name="mine", data="digits", build=lambda shape, classes: None,
                    budget="1ep", lr=LrRule(base=0.1, base_batch_size=32))
"""
STUDY = 'name = "mine"\nworkload = "mine"\nbatch_sizes = [20, 100]\nseeds = 1\n'


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str = "") -> Workload:
    (folder / f"{name}.py").write_text(SOURCE.format(body=body or "pass"))
    monkeypatch.syspath_prepend(str(folder))
    return load_workload(f"{name}:workload")


def test_batch_norm_of_the_article_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch 20 and 100 are no multiples of 8: only the article's network minds."""
    found = own(tmp_path, monkeypatch, "mine_plain")
    assert found.settings.batch_norm == OWN_BATCH_NORM
    study = parse_study(STUDY + "[arms.none]\n", workload=found)
    facts = DataFacts(num_train=1024, num_test=773, num_classes=10, image_shape=(8, 8, 1))
    for spec in trials(study, "d" * 64):
        line = ledger(spec, facts)
        assert (line.batch_norm_group, line.batch_norm_horizon_epochs) == (0, 0.0)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[arms.none]\n[arms.ghost]\nbatch_norm = { group = 16 }\n", "arms.ghost.batch_norm"),
        ("[settings.model]\ninit = 'torch'\n[arms.none]\n", "settings.model"),
    ],
)
def test_settings_that_cannot_reach_it_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, key: str
) -> None:
    found = own(tmp_path, monkeypatch, f"mine_{len(key)}")
    with pytest.raises(UsageError, match="the network is the workload's own") as caught:
        parse_study(STUDY + table, workload=found)
    assert key in str(caught.value)


def test_an_error_in_the_users_code_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as caught:
        own(tmp_path, monkeypatch, "mine_broken", body="1 / 0")
    assert str(caught.value) == (
        "--workload mine_broken:workload: ZeroDivisionError: division by zero "
        "(mine_broken.py:5)"
    )


def test_lr_rule_is_the_workloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own(tmp_path, monkeypatch, "mine_lr").lr == LrRule(base=0.1, base_batch_size=32)
