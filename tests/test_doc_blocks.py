"""Every fenced block of README and docs is what it claims to be: Python runs, TOML is of a
study, and a command line is one that batchcliff takes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from batchcliff.cli import app
from batchcliff.errors import UsageError
from batchcliff.studyfile import parse_study
from batchcliff.techniques import TECHNIQUES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
HEAD = {
    "name": '"x"',
    "workload": '"article"',
    "batch_sizes": "[128, 1024]",
    "seeds": "1",
    "reference_arm": '"none"',
}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and number, text) of every fenced block of `language`."""
    return [
        (f"{page.relative_to(ROOT)}-{i}", text)
        for page in PAGES
        for i, text in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.M)
        )
    ]


PYTHON = dict(blocks("python"))
# A list of techniques is no study; tests/techniques/test_examples.py holds what it says.
TOML = {
    name: text
    for name, text in blocks("toml")
    if not tomllib.loads(text).keys() & TECHNIQUES.keys()
}
COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for language in ("sh", "")
        for _, text in blocks(language)
        for line in re.findall(r"^batchcliff .*$", text, re.MULTILINE)
    }
)


def test_the_pages_have_blocks_of_each_kind() -> None:
    assert len(PYTHON) >= 6 and len(TOML) >= 15 and len(COMMANDS) >= 20


@pytest.mark.parametrize("name", PYTHON)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for framework in ("keras", "optax"):  # which are there with the oracles
        needed = f"import {framework}" in PYTHON[name]
        if needed and importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[name], name, "exec"), {"__name__": "block"})
    assert not list(tmp_path.iterdir()), "an example of a page writes nothing"


def whole(text: str) -> str:
    """`text` with the keys of a study that it leaves out."""
    given = tomllib.loads(text)
    missing = [f"{key} = {value}" for key, value in HEAD.items() if key not in given]
    none = "" if "none" in given.get("arms", {}) else "\n[arms.none]\n"
    return "\n".join([*missing, text.replace('workload = "mine"', HEAD_WORKLOAD), none])


HEAD_WORKLOAD = f"workload = {HEAD['workload']}"


@pytest.mark.parametrize("name", TOML)
def test_toml_is_of_a_study(name: str) -> None:
    assert parse_study(whole(TOML[name]), label=name).arms


def test_toml_that_is_none_is_noticed() -> None:
    name = next(name for name in TOML if name.endswith("mixup.md-0"))
    with pytest.raises(UsageError, match="alfa"):
        parse_study(whole(TOML[name].replace("alpha", "alfa")), label=name)


def parsed(line: str) -> Any:
    """What the command line makes of `line`, without running it."""
    verb, *arguments = shlex.split(re.split(r" [>|] ", line)[0])[1:]
    found = typer.main.get_command(app).get_command(None, verb)  # type: ignore[attr-defined, arg-type]
    assert found is not None, f"no verb {verb!r}"
    return found.make_context(verb, arguments)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_taken(line: str) -> None:
    parsed(line)


def test_a_command_line_that_is_not_taken_is_noticed() -> None:
    with pytest.raises(Exception, match="--batchsize"):
        parsed("batchcliff run article --batchsize 3")
    with pytest.raises(AssertionError, match="no verb"):
        parsed("batchcliff train article")
