"""What no line of ours may do, and what only one file may: held by walking the syntax trees.

tests/test_layers.py bans pickles, shells, `eval`, extraction and wall clocks; here are the
side doors to the same, and the doors that are open in one place.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from test_layers import FILES, ROOT, dotted, imported, tree_of

BANNED = {
    # loads code, or objects by running code
    "__import__", "compile", "runpy.run_path", "runpy.run_module", "code.interact",
    "torch.save", "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load",
    "pandas.read_pickle", "numpy.fromregex", "yaml.unsafe_load", "yaml.full_load",
    # starts processes behind our back, or forks a process that has threads
    "os.fork", "os.forkpty", "os.execv", "os.execve", "os.execvp", "os.spawnl", "os.spawnv",
    "os.posix_spawn", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn",
    "asyncio.create_subprocess_shell", "multiprocessing.Process", "multiprocessing.Pool",
    # unpacks archives to places that they name
    "shutil.unpack_archive", "zipfile.ZipFile.extract", "tarfile.TarFile.extract",
    # listens, or trusts any certificate
    "http.server.HTTPServer", "socketserver.TCPServer", "ssl._create_unverified_context",
    "urllib.request.urlretrieve", "urllib.request.urlopen",
}  # fmt: skip
BANNED_ROOTS = {"multiprocessing", "telnetlib", "ftplib", "smtplib", "xmlrpc", "http.server",
                "socketserver", "requests", "yaml", "imp", "runpy", "code", "pdb"}  # fmt: skip
BANNED_METHODS = {"bind", "listen", "extract", "unpack_archive", "set_executable"}
DOORS = {
    "ctypes": {"study/worker.py", "study/devices.py"},
    "socket": {"study/worker.py", "study/engines/local.py", "study/claims.py"},
    "ssl": {"data/download.py"},
    "urllib": {"data/download.py"},
    "http": {"data/download.py"},
    "fcntl": {
        "study/claims.py",
        "study/files.py",
        "study/engines/local.py",
        "training/turns.py",
    },
    "grp": {"study/sharing.py"},
    "pwd": {"study/sharing.py"},
    "tarfile": {"data/cifar.py"},
    "zipfile": {"data/images.py"},
    "PIL": {"data/decoding.py"},
}
STARTS_PROCESSES = {"study/engines/local.py", "helper.py"}  # workers; who draws or decodes


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What of it a module does."""
    for name in imported(tree):
        if name in BANNED or name.split(".")[0] in BANNED_ROOTS or name in BANNED_ROOTS:
            yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in BANNED:
            yield dotted(node)
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BANNED:
            yield node.func.id
        own = dotted(node.func) == f"self.{dotted(node.func).split('.')[-1]}"
        if isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS - (
            {"listen"} if own else set()
        ):
            yield f".{node.func.attr}()"
        if dotted(node.func) in ("np.load", "numpy.load") and not any(
            keyword.arg == "allow_pickle" for keyword in node.keywords
        ):
            yield "np.load without allow_pickle=False"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg in ("verify", "check_hostname") and value is False:
                yield f"{keyword.arg}=False"
            if keyword.arg == "preexec_fn":
                yield "preexec_fn: it runs between fork and exec, where threads may hold locks"


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=place)
def test_no_side_door_is_used(path: Path) -> None:
    assert list(forbidden(tree_of(path))) == []


def test_dangerous_modules_have_one_door() -> None:
    used: dict[str, set[str]] = {}
    for path in FILES:
        for name in imported(tree_of(path)):
            used.setdefault(name.split(".")[0], set()).add(place(path))
    for module, allowed in DOORS.items():
        assert used.get(module, set()) <= allowed, module
    assert sum(module in used for module in DOORS) >= 7, "the names are those that are used"


def starts(tree: ast.AST) -> bool:
    calls = [dotted(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return any(c.startswith("subprocess.") and c != "subprocess.TimeoutExpired" for c in calls)


def test_two_files_start_processes_and_never_through_a_shell() -> None:
    found = {place(path) for path in FILES if starts(tree_of(path))}
    assert found == STARTS_PROCESSES


def test_every_exemption_from_the_security_rules_says_which() -> None:
    """`# noqa` without a code would switch off all of ruff's S rules on that line."""
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "noqa" in line and "#" in line:
                assert "# noqa: " in line, (path, line)


def test_the_security_rules_of_the_linter_are_on_for_all_of_the_package() -> None:
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    lint = project["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S")} == {"S101"}  # assert
    assert not [place for place in lint["per-file-ignores"] if place.startswith("src")]


@pytest.mark.parametrize(
    "source",
    [
        "__import__('os')",
        "compile('1', 'x', 'exec')",
        "import torch\ntorch.save(x, 'f')",
        "from torch.jit import load\nimport torch\ntorch.jit.load('x')",
        "import os\nos.fork()",
        "from os import fork",
        "import multiprocessing",
        "from multiprocessing import Process",
        "import subprocess\nsubprocess.getoutput('x')",
        "import subprocess\nsubprocess.Popen(['x'], preexec_fn=f)",
        "import shutil\nshutil.unpack_archive('x')",
        "tar.extract(member)",
        "server.listen(5)",
        "import http.server",
        "import numpy as np\nnp.load('x')",
        "import requests",
        "get(url, verify=False)",
        "import urllib.request\nurllib.request.urlopen('http://x')",
    ],
)
def test_control_the_ban_catches(source: str) -> None:
    assert list(forbidden(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('x')",
        "torch.compile(f)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import subprocess\nsubprocess.Popen(['x'])",
        "tar.extractfile(member)",
    ],
)
def test_the_ban_lets_pass(source: str) -> None:
    assert not list(forbidden(ast.parse(source)))
    assert starts(ast.parse(source)) == ("subprocess" in source)
