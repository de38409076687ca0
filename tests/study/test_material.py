"""What driver and workers load: from a name, or from a function of the user's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from batchcliff.errors import DataError, UsageError
from batchcliff.study.material import load_material

sys.path.insert(0, str(Path(__file__).parent))
import faulty


def test_a_built_in_workload_needs_only_its_data() -> None:
    material = load_material(None, "digits", None)
    assert material.build is None
    assert material.workload_digest == ""
    assert material.facts.num_train == len(material.dataset.train_images) > 1000
    assert material.facts.num_test == len(material.dataset.test_images) > 100
    assert material.facts.num_classes == 10
    assert material.facts.image_shape == (8, 8, 1)


def test_a_users_function_brings_data_network_and_its_digest() -> None:
    material = load_material("faulty:workload", "whatever the study file says", None)
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
        load_material(f"{name}:workload", "", None).workload_digest
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
    mine = load_material("mine_on_digits:here", "cifar10", None)
    ours = load_material(None, "digits", None)
    assert mine.dataset.digest == ours.dataset.digest
    assert np.array_equal(mine.dataset.train_images, ours.dataset.train_images)
    with pytest.raises(UsageError, match=r"unknown data set 'digit'.*'digits'"):
        load_material("mine_on_digits:wrong", "digits", None)
    with pytest.raises(UsageError, match=r"returned list, not a batchcliff Dataset"):
        load_material("mine_on_digits:list_of", "digits", None)


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
