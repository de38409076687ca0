"""Workloads by name, and the user's own by `module:function`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchcliff.data.sources import DATASETS
from batchcliff.errors import UsageError
from batchcliff.models import MODELS
from batchcliff.schedules.duration import parse_duration
from batchcliff.spec import LrRule, Settings
from batchcliff.workloads import (
    ARTICLE,
    DIGITS,
    OWN_MODEL,
    WORKLOADS,
    Workload,
    load_workload,
    workload,
)

SOURCE = """
from batchcliff.spec import LrRule
from batchcliff.workloads import Workload

RULE = LrRule(base=0.2, base_batch_size=64)


def tiny():
    return Workload(name="tiny", data="digits", lr=RULE, budget="2ep")


def own_data():
    return Workload(name="own", data=len, lr=RULE, budget="2ep", build=lambda s, k: None)


def wrong():
    return {"name": "tiny"}


number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory holds a user's module; nothing of it stays behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "users_own_workload.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("users_own_workload", None)


def test_the_article_is_the_article() -> None:
    assert workload("article") is ARTICLE
    assert ARTICLE.lr == LrRule(base=0.1, base_batch_size=128, scaling="linear")
    assert (ARTICLE.data, ARTICLE.budget, ARTICLE.decay.at) == (
        "cifar10",
        "100ep",
        ("60%", "85%"),
    )
    settings = ARTICLE.settings
    assert settings == Settings()
    assert settings.model.widths == ((64,) * 3, (128,) * 3, (256,) * 3)
    assert (settings.batch_norm.eps, settings.batch_norm.momentum) == (1e-3, 0.99)
    assert (settings.batch_norm.group, settings.batch_norm.running) == ("B/8", "per-group")
    assert (settings.optimizer.form, settings.optimizer.momentum) == ("keras", 0.9)
    assert settings.optimizer.weight_decay == 0
    assert (settings.loss, settings.remainder) == ("clipped-softmax", "drop")
    assert settings.augmentation == "as-written"


@pytest.mark.parametrize("name", WORKLOADS)
def test_contract_of_every_workload(name: str) -> None:
    made = load_workload(name)
    assert made is workload(name)
    assert made.name == name
    assert callable(made.data) or made.data in DATASETS
    own = made.build is not None
    assert made.settings.model == OWN_MODEL if own else made.settings.model.name in MODELS
    assert parse_duration(made.budget).value > 0
    assert made.digest == ""


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    message = (
        "unknown workload 'artcile'. Did you mean 'article'? "
        "Known: article, digits, noisy-quadratic."
    )
    for function in (workload, load_workload):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            function("artcile")


def test_a_users_own(own: Path) -> None:
    made = load_workload("users_own_workload:tiny")
    assert (made.name, made.data_name, made.lr.base) == ("tiny", "digits", 0.2)
    assert made.digest == hashlib.sha256(own.read_bytes()).hexdigest()[:16]
    assert made.settings == Settings()
    with_data = load_workload("users_own_workload:own_data")
    assert with_data.data_name == "own-data"
    assert with_data.build is not None


def test_the_digest_follows_the_source(own: Path) -> None:
    before = load_workload("users_own_workload:tiny").digest
    del sys.modules["users_own_workload"]
    own.write_text(SOURCE + "\n# changed\n")
    assert load_workload("users_own_workload:tiny").digest != before


REFUSED = {
    "no_such_module_here:tiny": "--workload no_such_module_here:tiny: No module named "
    "'no_such_module_here'",
    **{
        f"{name}:f": f"--workload {name}:f: {name!r} is not the name of a module. Write "
        "module:function, such as my_workload:make."
        for name in ("", ".x", "a..b", "a.", "a/b.py", "a b", "1a", "a\0b", "../a")
    },
    "users_own_workload.part:f": "--workload users_own_workload.part:f: No module named "
    "'users_own_workload.part'; 'users_own_workload' is not a package",
    "no_such_package.part:f": "--workload no_such_package.part:f: No module named "
    "'no_such_package'",
    "users_own_workload:tny": "--workload users_own_workload:tny: users_own_workload has no "
    "function 'tny'",
    "users_own_workload:number": "--workload users_own_workload:number: users_own_workload has "
    "no function 'number'",
    "users_own_workload:": "--workload users_own_workload:: users_own_workload has no "
    "function ''",
    "users_own_workload:wrong": "--workload users_own_workload:wrong: returned dict, not a "
    "batchcliff Workload",
}


@pytest.mark.parametrize("reference", REFUSED)
def test_what_is_refused(reference: str, own: Path) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(REFUSED[reference])}$"):
        load_workload(reference)


def test_an_error_inside_a_users_module_is_its_own(own: Path) -> None:
    """A bug of the user's is shown with its place, not as a missing module."""
    own.write_text("1 / 0\n")
    with pytest.raises(UsageError) as caught:
        load_workload("users_own_workload:tiny")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(caught.value) == (
        "--workload users_own_workload:tiny: ZeroDivisionError: division by zero "
        "(users_own_workload.py:1)"
    )


def test_what_a_users_module_lacks_is_not_taken_for_the_module(own: Path) -> None:
    """The message of a missing library is the user's to read, with the line that wants it."""
    for missing in ("no_such_library", "users_own_workload_2", "users_own"):
        own.write_text(f"import {missing}\n")
        with pytest.raises(UsageError) as caught:
            load_workload("users_own_workload:tiny")
        assert f"ModuleNotFoundError: No module named '{missing}'" in str(caught.value)
        assert str(caught.value).endswith("(users_own_workload.py:1)")
    own.write_text("raise ModuleNotFoundError('by hand')\n")
    with pytest.raises(UsageError, match="by hand"):
        load_workload("users_own_workload:tiny")
    own.write_text("from batchcliff import no_such_name\n")
    with pytest.raises(UsageError, match="no_such_name"):
        load_workload("users_own_workload:tiny")


def test_workloads_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DIGITS.name = "other"  # type: ignore[misc]
    assert isinstance(DIGITS, Workload)
