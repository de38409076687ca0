"""The command line: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff import __version__
from batchcliff.cli import app
from calls import HEAVY

VERBS = ("plan", "run", "status", "report", "export", "init", "doctor")
HOSTILE = ("\x1b]0;owned\x07", "a\nb", "\u202etxt", "x" * 5000, "", " ", "../../etc/passwd",
           "-", "--", "%s%n", "${HOME}", "学習率", "\udcff")  # fmt: skip

pytestmark = pytest.mark.usefixtures("home")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batchcliff", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


# --- help and version


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"batchcliff {__version__}\n")


def test_help_names_every_verb_examples_and_exit_codes() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for word in (*VERBS, "Examples", "batchcliff run digits", "75, 130"):
        assert word in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_and_kebab_case_options(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: batchcliff {verb}" in result.stdout
    options = {w for w in result.stdout.split() if w.startswith("--")}
    assert options
    assert all(w == w.lower() and "_" not in w for w in options)


def test_no_verb_shows_the_help() -> None:
    assert "Commands" in call().output


def test_help_imports_nothing_heavy() -> None:
    """0.3 s is the target (benchmarks): any of them would take as long alone."""
    code = (
        "import sys\nsys.argv = ['batchcliff', '--help']\n"
        "from batchcliff.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = set(ended.stdout.splitlines()[-1].split())
    assert "typer" in imported
    assert imported & {*HEAVY, "pydantic"} == set()


def test_the_verbs_are_short() -> None:
    import ast

    import batchcliff.cli

    tree = ast.parse(Path(batchcliff.cli.__file__).read_text(encoding="utf-8"))
    verbs = [n for n in tree.body if isinstance(n, ast.FunctionDef) and "_verb" in n.name]
    assert {v.name for v in verbs} == {f"{verb}_verb" for verb in VERBS}
    for verb in verbs:  # without their options, a line each
        assert (verb.end_lineno or 0) - verb.body[0].lineno + 1 <= 24, verb.name


# --- refusals


@pytest.mark.parametrize("verb", ["plan", "run", "status", "report", "export", "init"])
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_names_are_refused_without_a_traceback(
    verb: str, text: str, home: Path
) -> None:
    result = call(verb, "--", text)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert "\x1b]0" not in result.output
    assert "\u202e" not in result.output
    assert list(home.iterdir()) == []  # nothing was written


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_bad_study_file_is_one_message_and_exit_2(verb: str, home: Path) -> None:
    (home / "s.toml").write_text("name = 'a'\nsede = 1\n")
    result = call(verb, "s.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("s.toml:2: sede = 1: unknown key. Did you mean 'seeds'?")
    assert [p.name for p in home.iterdir()] == ["s.toml"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["plan", "artcle"], "Did you mean 'article'?"),
        (["plan", "article", "--set", "lr.bas=1"], "--set lr.bas=1: lr.bas = 1"),
        (["plan", "article", "--seeds", "x"], "--seeds x: seeds"),
        (["plan", "article", "--batch-sizes", "8-9"], "--batch-sizes 8-9: batch_sizes"),
        (["plan", "article", "--budget", "9"], "--budget 9: budget"),
        (["plan", "article", "--workload", "no_such_module:make"], "no_such_module"),
        (["plan", "article", "--workload", "json:no_such"], "no_such"),
        (["plan", "article", "--workload", "digts"], "Did you mean 'digits'?"),
        (["plan", "article", "--data", "nowhere"], "nowhere"),
        (["plan", "digits", "--data", "nowhere"], "digits"),
        (["run", "digits", "--workers", "0"], "--workers"),
        (["run", "digits", "--device", "tpu"], "tpu"),
        (["run", "digits", "--jsn"], "--json"),
        (["rum", "digits"], "run"),
        (["export", "nothing"], "no study at 'nothing'"),
        (["init", "artcle"], "Did you mean 'article'?"),
    ],
)
def test_refusals_say_what_to_write(arguments: list[str], hint: str, home: Path) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert list(home.iterdir()) == []


# --- plan


def test_a_plan_states_the_arithmetic_of_the_article() -> None:
    result = call("plan", "article")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("study article: 14 trials = 2 arms x 7 batch sizes x 1 seeds")
    row = next(line for line in lines if line.startswith("warmup") and " 8192 " in line)
    assert row.split() == [
        "warmup", "8192", "6.4", "=", "0.1", "x", "8192/128", "(linear)", "6", "600", "36",
        "1024", "848", "1",
    ]  # fmt: skip
    assert "expected time: unknown until the first trial has run" in lines
    assert all(line == line.rstrip() and line.isprintable() for line in lines)


def test_a_plan_names_what_is_infeasible_and_why(home: Path) -> None:
    result = call("plan", "article", "--batch-sizes", "12,65536")
    assert result.exit_code == 0
    assert (
        "infeasible: batch size 65536 is larger than the training set (50000" in result.stdout
    )
    assert "infeasible: batch size 12 is not divisible by 8" in result.stdout
    assert "to run: 0, done: 0, infeasible: 4" in result.stdout
    assert list(home.iterdir()) == []


def test_a_plan_for_scripts() -> None:
    result = call("plan", "digits", "--seeds", "2", "--batch-sizes", "32,4096", "--json")
    plan = json.loads(result.stdout)
    assert (plan["to_run"], plan["done"], plan["infeasible"]) == (4, 0, 4)
    first = next(t for t in plan["trials"] if t["batch_size"] == 32 and t["arm"] == "warmup")
    assert first["ledger"]["updates"] == 1920
    assert first["ledger"]["warmup_updates"] == 480
    assert first["lr_provenance"] == "0.45 = 0.9 x 32/64 (linear)"
    assert len(first["trial_id"]) == 20
    assert plan["expected_seconds"] is None


def test_dry_run_is_plan() -> None:
    assert call("run", "digits", "-n").stdout == call("plan", "digits").stdout


def test_overrides_reach_the_plan() -> None:
    result = call("plan", "digits", "--set", "lr.base=0.2", "--set", "name=mine", "--json")
    plan = json.loads(result.stdout)
    assert plan["study"]["name"] == "mine"
    assert plan["folder"] == "studies/mine"
    assert {t["lr"] for t in plan["trials"] if t["batch_size"] == 64} == {0.2}


def test_a_workload_of_ones_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "my_own.py").write_text(
        "from batchcliff import LrRule, Settings, BatchNorm, Workload\n"
        "def make():\n"
        "    norm = BatchNorm(group='global', running='mean')\n"
        "    return Workload(name='own', data='digits', lr=LrRule(base=0.1,"
        " base_batch_size=32), budget='5ep', settings=Settings(batch_norm=norm))\n"
    )
    (home / "s.toml").write_text("name='s'\nbatch_sizes=[32]\nseeds=1\n[arms.none]\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = call("plan", "s.toml", "--workload", "my_own:make", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["study"]["workload"] == "own"
    assert plan["trials"][0]["ledger"]["num_train"] == 1024
    bare = call("plan", "s.toml")
    assert bare.exit_code == 2
    assert "workload: missing key" in bare.stderr


# --- init and doctor


def test_init_prints_a_recipe_that_is_a_study_file(home: Path) -> None:
    result = call("init", "article")
    (home / "my.toml").write_text(result.stdout, encoding="utf-8")
    mine, recipe = (
        json.loads(call("plan", n, "--json").stdout) for n in ("my.toml", "article")
    )
    assert mine == recipe


def test_init_lists_the_recipes() -> None:
    result = call("init")
    assert result.exit_code == 0
    for name in ("article", "article-as-coded", "article-semantics", "digits"):
        assert name in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_doctor_says_what_there_is() -> None:
    result = call("doctor", "--json")
    found = {check["what"]: check for check in json.loads(result.stdout)}
    assert found["python"]["fine"]
    assert {"torch", "device", "threads", "memory", "disk", "data: digits"} <= found.keys()
    assert result.exit_code == (0 if all(c["fine"] for c in found.values()) else 1)


def test_doctor_survives_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchcliff import machine

    def broken() -> machine.Check:
        raise RuntimeError("driver\x1b[2J gone")

    monkeypatch.setattr(machine, "_devices", broken)
    monkeypatch.setattr(machine, "_torch", lambda: machine.Check("torch", "none", False, "Do."))
    result = call("doctor")
    assert result.exit_code == 1
    assert "RuntimeError: driver[2J gone" in result.stdout
    assert "torch: Do." in result.stdout
    assert "\x1b" not in result.stdout


def test_doctor_looks_at_the_data_that_it_is_given(home: Path) -> None:
    (home / "junk.bin").write_bytes(b"junk")
    result = call("doctor", "--data", "junk.bin")
    assert result.exit_code == 1
    assert "not usable" in result.stdout


# --- as a process


def test_a_reader_that_leaves_is_no_error() -> None:
    program = f"{sys.executable} -m batchcliff init article | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; for i in 1 2 3; do {program}; done"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.count("# The article's experiment") == 3


def test_output_to_a_closed_pipe_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "batchcliff", "plan", "article", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_name_that_the_terminal_cannot_spell(home: Path) -> None:
    (home / "s.toml").write_text(
        "name='s'\nworkload='digits'\nbatch_sizes=[32]\nseeds=1\n[arms.'学習率']\n",
        encoding="utf-8",
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = command("plan", "s.toml", env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "\\u5b66" in ended.stdout
