"""The public names: sorted, present, lazy."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import batchcliff


def test_all_is_sorted_and_distinct() -> None:
    assert list(batchcliff.__all__) == sorted(set(batchcliff.__all__))


@pytest.mark.parametrize("name", batchcliff.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(batchcliff, name) is not None
    assert name in dir(batchcliff)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cliff'"):
        batchcliff.cliff  # noqa: B018


def test_no_public_name_is_a_submodule_that_would_replace_it() -> None:
    modules = {module.name for module in pkgutil.iter_modules(batchcliff.__path__)}
    assert not modules & set(batchcliff.__all__)
    importlib.import_module("batchcliff.report")
    assert callable(batchcliff.make_report)


def test_type_checkers_see_what_users_get() -> None:
    tree = ast.parse(Path(batchcliff.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            name = alias.asname or alias.name
            assert getattr(batchcliff, name) is getattr(module, alias.name), name
    told = {a.asname or a.name for n in guarded.body for a in n.names}  # type: ignore[attr-defined]
    assert told | {"__version__"} == set(batchcliff.__all__)


def imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


def test_importing_the_package_imports_almost_nothing() -> None:
    found = imported_by("import batchcliff")
    assert not found & {"torch", "numpy", "pydantic", "typer", "rich", "batchcliff.errors"}


def test_what_needs_no_torch_imports_none() -> None:
    modules = (
        "api, cli, planning, show, machine, spec, record, canonical, randomness, provenance, "
        "schedules, techniques, workloads, stats, report, published, studyfile, data.sources, "
        "study.store, study.grid, study.cost, study.progress, study.live, training.arithmetic"
    )
    names = ", ".join(f"batchcliff.{name.strip()}" for name in modules.split(","))
    assert not imported_by(f"import {names}") & {"torch", "altair", "vl_convert", "sklearn"}


def test_the_command_line_imports_typer_and_no_more_than_it_must() -> None:
    found = imported_by("import batchcliff.cli")
    assert not found & {"torch", "numpy", "pydantic", "batchcliff.api", "batchcliff.studyfile"}
