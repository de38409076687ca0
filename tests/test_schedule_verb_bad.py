"""`batchcliff schedule`: what it refuses, how it starts, and that its page in docs is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from batchcliff.cli import app
from batchcliff.schedules import CONVENTIONS, SCALING
from batchcliff.schedules.decays import DECAYS

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("home")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["schedule", *arguments])


# --- the page in docs


def test_the_docs_hold_the_table_of_conventions() -> None:
    result = call("--conventions")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + len(CONVENTIONS)
    assert "| `kozistr` | max(t - 1, 0)/W | 0 0 0.2 0.4 0.6 0.8 1 1 | 1 | no |" in result.stdout
    assert result.stdout in (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")


def test_the_docs_hold_every_rule_and_decay_with_its_formula() -> None:
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    for rule in SCALING.values():
        assert f"| `{rule.name}` | {rule.formula} | {rule.source} |" in text
    for kind in DECAYS.values():
        defaults = {name: kind.default(name) for name in kind.options}
        shown = [f"`{n}`" if v is None else f"`{n}` = {v:g}" for n, v in defaults.items()]
        options = ", ".join(shown) or "none"
        assert f"| `{kind.name}` | {kind.formula} | {options} |" in text


def test_the_examples_of_the_docs_run(home: Path) -> None:
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    commands = re.findall(r"^batchcliff (schedule .*)$", text, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command, comments=True))
        assert result.exit_code == 0, (command, result.output)


def snippets(holds: str) -> list[str]:
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [block for block in blocks if holds in block]


SNIPPETS = {
    "torch": 'WarmupLR(optimizer, "5ep", clock=clock',
    "transformers": "get_linear_schedule_with_warmup(",
    "lightning": "def configure_optimizers",
    "optax": "import optax",
    "keras": "import keras",
}


@pytest.mark.parametrize("framework", sorted(SNIPPETS))
def test_the_snippets_of_the_docs_run(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = snippets(SNIPPETS[framework])
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # read once, when Keras is first imported
    pytest.importorskip(framework if framework in ("optax", "keras") else "torch")
    assert "assert " in snippet
    exec(compile(snippet, framework, "exec"), {})


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "name a study or a recipe"),
        ("artcle", "Did you mean 'article'?"),
        ("article warmp", "has no arm 'warmp'. Did you mean 'warmup'?"),
        ("article --batch-size 0", "--batch-size 0"),
        ("article --warmup 5ep", "--warmup is for a schedule without a study"),
        ("article --convention torch", "--convention is for a schedule without a study"),
        ("--arm none --warmup 5up", "--arm is for a study"),
        ("--convention tourch", "unknown convention 'tourch'. Did you mean 'torch'?"),
        ("--diff torch tourch", "unknown convention 'tourch'. Did you mean 'torch'?"),
        ("--diff tourch torch", "unknown convention 'tourch'. Did you mean 'torch'?"),
        ("--diff --warmup 5up", "name them"),
        ("--convention torch --decay cosine --budget 9up", "of the warmup alone"),
        ("--convention torch --warmup cosine:5up", "readings of a linear warmup"),
        ("--convention timm --warmup 5up,start=0.2", "leave out start = 0.2"),
        ("--convention ignite --warmup 1up", "at least 2"),
        ("--warmup 5ep", "'5ep' needs the length of an epoch"),
        ("--warmup 5ex", "'5ex' needs the examples of an update"),
        ("--warmup 5%", "'5%' is a share of the run: --budget is missing"),
        ("--warmup 5.5", "has no unit"),
        ("--warmup -5ep", "cannot be negative"),
        ("--warmup liner:5up", "Did you mean 'linear'?"),
        ("--warmup 5up,strat=1", "unknown option 'strat'. Did you mean 'start'?"),
        ("--warmup 5up,start=", "'start=' is not key=value"),
        ("--warmup 5up,duration=6up", "duration stands twice"),
        ("--warmup 5up,6up", "one duration"),
        ("--warmup linear", "duration is missing"),
        ("--warmup {", "--warmup {"),
        ("--warmup 30up --budget 20up", "30 updates are longer than the run (20 updates)"),
        ("--convention torch --warmup 30up --budget 20up", "longer than the run (20 updates)"),
        ("--warmup 5up --budget 0up", "budget '0up' has no update"),
        ("--warmup 5up --budget 5%", "cannot be a share of itself"),
        ("--warmup 5up --budget 99999999999up", "more than 10,000,000 updates"),
        ("--decay cosine", "--budget is missing"),
        ("--decay cosin --budget 9up", "Did you mean 'cosine'?"),
        ("--decay cosine:5up --budget 9up", "cosine takes no length"),
        ("--decay cosine,flor=0.1 --budget 9up", "Did you mean 'floor'?"),
        ("--decay multistep,factor=0.1 --budget 9up", "decay.at: missing key"),
        ("--decay multistep:60%,factor=x --budget 9up", 'decay.factor = "x": a number is'),
        ("--decay multistep:60%,at=5up --budget 9up", "at stands twice"),
        ("--decay multistep:20up --budget 9up", "20up is not inside of the run of 9up"),
        ("--decay multistep:20 --budget 9up", "20up is not inside of the run of 9up"),
        ("--decay multistep:80%,20% --budget 9up", "ascending order"),
        ("--decay multistep:9ep --budget 9up --updates-per-epoch 2", "after the end of"),
        ("--decay exponential --budget 9up", "decay.floor: missing key. Write e.g. floor ="),
        ("--decay inverse-sqrt --budget 9up", "timescale is missing"),
        ("--decay one-cycle,rise=2 --budget 9up", "decay.rise = 2: is not between 0 and 1"),
        ("--decay one-cycle,rise=0.1 --budget 9up", "no update before the peak"),
        ("--decay one-cycle --warmup 2up --budget 9up", "has a warmup of its own"),
        ("--decay warmup-stable-decay --budget 9up", "decay.duration: missing key"),
        ("--decay warmup-stable-decay:10up --budget 9up", "not end inside of the run of 9up"),
        ("--decay warmup-stable-decay:8up --warmup 2up --budget 9up", "longer than the run"),
        ("--decay growth:50% --budget 9up", "counts in examples"),
        ("--decay growth:50%,factor=0.3 --budget 9ep --num-examples 20 --batch-size 2",
         "batch sizes grow by whole factors"),
        ("--decay growth:50%,max_batch_size=x --budget 9ep --num-examples 20 --batch-size 2",
         "max_batch_size"),
        ("--lr x", "--lr x: write a number above 0"),
        ("--lr 0", "write a number above 0"),
        ("--lr 0.1,base_batch_size=128", "--batch-size"),
        ("--lr 0.1,scaling=sqrt --batch-size 8", "base_batch_size is missing"),
        ("--lr 0.1,base_batch_size=128,scaling=liner --batch-size 8", "Did you mean 'linear'?"),
        ("--lr 0.1,bse=3", "unknown key 'bse'. Did you mean 'base'?"),
        ("--num-examples 100 --warmup 5up", "--batch-size is missing"),
        ("--num-examples 100 --batch-size 200 --warmup 1ep", "leaves no update in it"),
        ("--num-examples 9 --batch-size 3 --updates-per-epoch 3", "one of them"),
        ("--updates-per-epoch 0 --warmup 5up", "--updates-per-epoch 0"),
        ("--remainder keep --warmup 5up", "write drop or carry"),
        ("--remainder carry --warmup 5up", "--num-examples is missing"),
        ("article --format cvs", "Did you mean 'csv'?"),
        ("article --plot lr.gif", "Write FILE.svg, FILE.png or FILE.html"),
    ],
)  # fmt: skip
def test_refused(arguments: str, says: str, home: Path) -> None:
    result = call(*arguments.split())
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stdout == ""
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "a\nb", "\u202etxt", "x" * 5000, "%s%n"])
@pytest.mark.parametrize("option", ["", "--arm", "--warmup", "--lr", "--decay", "--convention",
                                    "--format", "--plot", "--remainder"])  # fmt: skip
def test_hostile_texts_are_refused_without_a_traceback(option: str, text: str) -> None:
    study = ["article"] if option in ("--arm", "--format", "--plot") else []
    result = call(*study, *([option, text] if option else ["--", text]))
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    for bad in ("\x1b]0", "\u202e"):
        assert bad not in result.output


# --- the verb


def test_help_has_an_example_and_kebab_case_options() -> None:
    result = call("--help")
    assert "Example: batchcliff schedule" in result.stdout
    options = {w for w in result.stdout.split() if w.startswith("--")}
    assert {"--convention", "--diff", "--plot", "--batch-size"} <= options
    assert all(w == w.lower() and "_" not in w for w in options)


@pytest.mark.parametrize("arguments", ["article", "--diff torch keras", "--warmup 5up"])
def test_no_torch_and_nothing_else_that_is_slow_is_imported(arguments: str) -> None:
    code = (
        "import sys\nsys.argv = ['batchcliff', 'schedule', *sys.argv[1:]]\n"
        "from batchcliff.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint(*sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(ended.stdout.splitlines()[-1].split())
    assert "batchcliff.schedule_view.tables" in modules
    assert not modules & {
        "torch",
        "vl_convert",
        "altair",
        "sklearn",
        "scipy",
        "jinja2",
        "keras",
    }
