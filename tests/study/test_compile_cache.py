"""Folders of compiled code: which they are, and that they are looked at before a run."""

from __future__ import annotations

import getpass
import runpy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from study_runs import run, study_of

from batchcliff.errors import UsageError
from batchcliff.study import supervisor
from batchcliff.study.compile_cache import (
    INDUCTOR,
    TRITON,
    check_compiler_folders,
    compiler_folders,
)
from batchcliff.study.placement import environment


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (INDUCTOR, TRITON):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A place in which no folder can be made, not even by root."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "cache"


def torchs_rule() -> dict[str, Any]:
    """What torch's module of these folders defines, without its compiler, which takes seconds
    to import."""
    root = Path(torch.__file__).parent
    return runpy.run_path(str(root / "_inductor" / "runtime" / "cache_dir_utils.py"))


def test_the_folder_is_the_one_that_torch_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named or not, with a user's name or without: by torch's own function."""
    theirs = torchs_rule()
    usual = theirs["default_cache_dir"]
    assert compiler_folders()[INDUCTOR] == Path(usual())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(getpass, "getuser", lambda: "a/b:c")
    assert compiler_folders()[INDUCTOR] == Path(usual())

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert compiler_folders()[INDUCTOR] == Path(usual())
    monkeypatch.chdir(tmp_path)
    for name in ("named", str(tmp_path / "whole"), ""):
        monkeypatch.setenv(INDUCTOR, name)
        assert str(compiler_folders()[INDUCTOR]) == theirs["cache_dir"]()


def test_kernels_have_one_folder_in_all_processes_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's compiler leaves one that is named alone, and names another where none is."""
    assert compiler_folders()[TRITON] == compiler_folders()[INDUCTOR] / "triton"
    monkeypatch.setenv(INDUCTOR, str(tmp_path))
    assert environment("cuda:1", 3)[TRITON] == str(tmp_path / "triton")
    monkeypatch.setenv(TRITON, str(tmp_path / "own"))
    assert environment("cuda", 3)[TRITON] == str(tmp_path / "own")
    assert TRITON not in environment("cpu", 3)


@pytest.mark.parametrize("variable", [INDUCTOR, TRITON])
def test_a_folder_that_cannot_be_written_is_refused_by_name(
    variable: str, no_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(INDUCTOR, str(tmp_path / "fine"))
    monkeypatch.setenv(variable, str(no_folder))
    with pytest.raises(UsageError, match=f"{no_folder}.*Not a directory.*{variable}=FOLDER"):
        check_compiler_folders("cuda")
    check_compiler_folders("cpu")  # compiles nothing


def test_one_that_can_is_made_and_left_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (INDUCTOR, TRITON):
        monkeypatch.setenv(name, str(tmp_path / "new" / name))
    check_compiler_folders("cuda:1")
    for name in (INDUCTOR, TRITON):
        assert list((tmp_path / "new" / name).iterdir()) == []


def test_a_run_on_a_gpu_is_refused_before_anything_is_written(
    no_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a GPU that is only said to be there: the refusal comes first."""
    monkeypatch.setenv(INDUCTOR, str(no_folder))
    monkeypatch.setattr(supervisor, "resolve_device", lambda device: device)
    with pytest.raises(UsageError, match="which cannot be written"):
        run(study_of(), tmp_path / "s", device="cuda")
    assert not (tmp_path / "s").exists()
