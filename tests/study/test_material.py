"""What driver and workers load: from a name, or from a function of the user's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import faulty
import numpy as np
import pytest
from study_runs import study_of

from batchcliff.errors import DataError, UsageError
from batchcliff.planning import plan
from batchcliff.study.material import load_data, load_material
from batchcliff.workloads import load_workload


def test_a_built_in_workload_needs_only_its_data() -> None:
    material = load_material(None, "digits", None)
    assert material.build is None
    assert material.workload_digest == ""
    assert material.facts.num_train == len(material.dataset.train_images) > 1000
    assert material.facts.num_test == len(material.dataset.test_images) > 100
    assert material.facts.num_classes == 10
    assert material.facts.image_shape == (8, 8, 1)


def test_a_users_function_brings_data_network_and_its_digest() -> None:
    material = load_material("faulty:workload", "faulty-data", None)
    assert material.build is faulty.build
    assert material.dataset.name == "pictures"
    assert len(material.workload_digest) == 16
    assert material.facts.num_train == faulty.TRAIN
    assert material.facts.image_shape == (4, 4, 1)


def test_the_digest_is_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(faulty.__file__).read_text()
    (tmp_path / "copy_of_faulty.py").write_text(source)
    (tmp_path / "changed_faulty.py").write_text(source + "# other\n")
    monkeypatch.chdir(tmp_path)
    digests = [
        load_material(f"{name}:workload", "faulty-data", None).workload_digest
        for name in ("faulty", "copy_of_faulty", "changed_faulty")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_workload_may_name_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_on_digits.py").write_text(
        "import dataclasses, batchcliff.workloads as w\n"
        "def here(): return dataclasses.replace(w.DIGITS, name='mine')\n"
        "def wrong(): return dataclasses.replace(w.DIGITS, data='digit')\n"
        "def list_of(): return dataclasses.replace(w.DIGITS, data=lambda: [1, 2])\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = load_material("mine_on_digits:here", "digits", None)
    ours = load_material(None, "digits", None)
    assert mine.dataset.digest == ours.dataset.digest
    assert np.array_equal(mine.dataset.train_images, ours.dataset.train_images)
    with pytest.raises(UsageError, match=r"unknown data set 'digit'.*'digits'"):
        load_material("mine_on_digits:wrong", "digit", None)
    with pytest.raises(UsageError, match=r"returned list, not a batchcliff Dataset"):
        load_material("mine_on_digits:list_of", "digits-data", None)


def test_the_data_that_the_study_names_decide(tmp_path: Path) -> None:
    """Over what the workload brings: a name of another set, or the workload's own name."""
    digits = load_material(None, "digits", None).dataset.digest
    other = load_material("faulty:workload", "digits", None)
    assert other.dataset.digest == digits
    assert other.build is faulty.build
    with pytest.raises(DataError, match="nowhere"):  # a workload on digits, a study of cifar10
        load_material("digits", "cifar10", tmp_path / "nowhere")
    own = load_workload("faulty:workload")
    assert load_data("faulty-data", None, own).name == "pictures"
    assert load_data("digits", None, own).digest == digits
    for data, expected in (("faulty-data", faulty.TRAIN), ("digits", 1024)):
        study = dataclasses.replace(study_of(seeds=1), data=data)
        found = plan(study, out=tmp_path / "s", workload="faulty:workload").trials[0].ledger
        assert found is not None and found.num_train == expected


@pytest.mark.parametrize(
    ("workload", "data", "message"),
    [
        (None, "digit", "unknown data set 'digit'. Did you mean 'digits'"),
        ("no_such_module_at_all:f", "digits", "No module named 'no_such_module_at_all'"),
        ("faulty:f", "digits", "has no function 'f'"),
        ("faulty:data", "digits", "returned Dataset, not a batchcliff Workload"),
    ],
)
def test_what_is_not_there_is_named(workload: str | None, data: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_material(workload, data, None)
    assert message in str(caught.value)


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_material(None, "cifar10", tmp_path / "nowhere")
