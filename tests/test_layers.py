"""Who may import whom, and what may be called nowhere: held by walking the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "batchcliff"
FILES = sorted(ROOT.rglob("*.py"))

BASE = {
    "canonical",
    "errors",
    "helper",
    "host",
    "provenance",
    "randomness",
    "record",
    "spec",
    "trace",
}
ROOMS = {
    "schedules": BASE,
    "data": BASE | {"schedules"},
    "kernels": BASE,
    "models": BASE | {"schedules", "kernels"},
    "optimizers": BASE | {"schedules", "models"},
    "techniques": BASE | {"schedules", "data", "models", "optimizers"},
    "workloads": BASE | {"schedules", "data", "models", "optimizers", "techniques"},
    "training": BASE
    | {"schedules", "data", "models", "kernels", "optimizers", "techniques", "workloads"},
    "study": BASE
    | {"schedules", "data", "models", "optimizers", "techniques", "workloads", "training"},
    "stats": BASE,
    "published": BASE,
    "report": BASE | {"stats", "published"},
    "recipes": set(),
}
FRONT = {"__init__", "__main__", "advising", "api", "cli", "cli_advise", "cli_compare",
         "cli_diagnose", "cli_ending", "cli_import", "comparing", "diagnosing",
         "cli_options", "cli_schedule", "cli_target", "importing", "machine", "naming",
         "planning", "schedule_view", "show", "standing", "studyfile"}  # fmt: skip
BANNED_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
BANNED_CALLS = {"torch.load", "yaml.load", "os.system", "os.popen", "tempfile.mktemp"}
BANNED_METHODS = {"extractall"}
BANNED_NAMES = {"eval", "exec", "mktemp"}
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today",
          "datetime.datetime.now", "datetime.datetime.utcnow", "date.today",
          "datetime.date.today"}  # fmt: skip


def room(path: Path) -> str:
    """The first part of a module's name under the package."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, with what is taken from it: `a.b` of `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(tree: ast.AST) -> set[str]:
    parts = {name.split(".")[1] for name in imported(tree) if name.startswith("batchcliff.")}
    return parts - {"__version__"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def banned(tree: ast.AST, *, clock: bool = False) -> list[str]:
    """What a module uses that none may use."""
    names = list(imported(tree))
    found = [name for name in names if name.split(".")[0] in BANNED_MODULES]
    clocks = set() if clock else CLOCKS
    found += [name for name in names if name in BANNED_CALLS | clocks | {"tempfile.mktemp"}]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in BANNED_CALLS | clocks:
            found.append(dotted(node))
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BANNED_NAMES:
            found.append(node.func.id)
        if isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS:
            found.append(node.func.attr)
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg in ("shell", "allow_pickle") and value is not False:
                found.append(f"{keyword.arg}={value}")
            if keyword.arg == "weights_only":
                found.append("weights_only: nothing here is unpickled")
    return found


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 30
    assert {room(path) for path in FILES} >= {"spec", "study", "training", "stats", "cli"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_point_one_way(path: Path) -> None:
    here = room(path)
    if here in FRONT:
        return
    assert here in BASE | ROOMS.keys(), f"{here}: give it a place in ARCHITECTURE.md, and here"
    allowed = BASE if here in BASE else ROOMS[here] | {here}
    assert rooms_used(tree_of(path)) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_banned_is_used(path: Path) -> None:
    assert banned(tree_of(path), clock=path.name == "provenance.py") == []


def test_some_libraries_have_one_door() -> None:
    doors = {
        "pydantic": {"studyfile"},
        "pydantic_core": {"study"},
        "typer": {
            "cli",
            "cli_advise",
            "cli_compare",
            "cli_diagnose",
            "cli_ending",
            "cli_import",
            "cli_options",
            "cli_schedule",
            "cli_target",
        },
    }
    for path in FILES:
        used = {name.split(".")[0] for name in imported(tree_of(path))}
        for library, allowed in doors.items():
            assert library not in used or room(path) in allowed, path
    assert any("pydantic" in str(list(imported(tree_of(path)))) for path in FILES)


def test_the_base_and_the_rooms_below_training_need_no_torch_to_be_imported() -> None:
    for path in FILES:
        if room(path) not in BASE | {"techniques", "workloads", "stats", "report", "published"}:
            continue
        top = [n for n in tree_of(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {n.split(".")[0] for n in imported(ast.Module(body=list(top), type_ignores=[]))}
        assert "torch" not in names, path


def test_no_drawers_for_odds_and_ends() -> None:
    for path in [*FILES, *(p.parent for p in FILES)]:
        assert path.stem not in {"utils", "util", "common", "core", "helpers", "misc"}, path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import yaml\nyaml.load('x')",
        "eval('1')",
        "exec('1')",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import subprocess\nsubprocess.run('x', shell=flag)",
        "archive.extractall()",
        "import tempfile\ntempfile.mktemp()",
        "from tempfile import mktemp",
        "import time\nt = time.time()",
        "import time\nclock = time.time",
        "from time import time",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.now()",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_the_ban_catches(source: str) -> None:
    assert banned(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import time\ntime.monotonic()",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['x'])",
        "from safetensors.torch import load_file",
    ],
)
def test_the_ban_lets_pass(source: str) -> None:
    assert banned(ast.parse(source)) == []


def test_the_layers_catch() -> None:
    found = rooms_used(ast.parse("from batchcliff.study import store\nimport batchcliff.cli"))
    assert found == {"study", "cli"}
    assert rooms_used(ast.parse("from batchcliff import stats, __version__")) == {"stats"}
    assert not found <= ROOMS["stats"]
    assert not ROOMS["study"] & (FRONT | {"report", "stats"})
