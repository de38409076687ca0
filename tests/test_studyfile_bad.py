"""Study files that are refused: every message names file, line, key, value and a way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchcliff.errors import UsageError
from batchcliff.studyfile import load_study, parse_study

GOOD = """\
name = "mine"
workload = "article"
batch_sizes = [128, 256]
seeds = 2
budget = "10ep"
reference_arm = "none"
lr = { base = 0.1, base_batch_size = 128, scaling = "linear" }
decay = { kind = "multistep", at = ["60%", "85%"], factor = 0.1 }

[settings]
loss = "logits"

[settings.batch_norm]
momentum = 0.9
group = "B/8"

[settings.optimizer]
form = "keras"

[arms.none]

[arms.warmup]
warmup = { shape = "linear", duration = "2ep" }
"""

LR, DECAY = GOOD.split("\n")[6], GOOD.split("\n")[7]
WARMUP = 'warmup = { shape = "linear", duration = "2ep" }'


# What is replaced by what (§ marks the line that is to blame); key and value, and the hint.

BAD: dict[str, tuple[str, str, str, str]] = {
    # unknown keys, with the nearest
    "top-level typo": ("seeds = 2", "§seed = 2", "seed = 2", "Did you mean 'seeds'?"),
    "budget typo": ('budget = "10ep"', '§bugdet = "10ep"', "bugdet", "Did you mean 'budget'?"),
    "lr typo": (LR, "§lr = { bas = 0.1 }", "lr.bas = 0.1", "Did you mean 'base'?"),
    "decay typo": (DECAY, "§decay = { kinds = 1 }", "decay.kinds = 1", "Did you mean 'kind'?"),
    "settings typo": ('loss = "logits"', '§los = "logits"', "settings.los", "mean 'loss'?"),
    "norm typo": ("momentum = 0.9", "§momentom = 0.9", "batch_norm.momentom", "'momentum'?"),
    "optimizer typo": ('form = "keras"', '§from = "keras"', "optimizer.from", "mean 'form'?"),
    "table typo": ("[settings]\n", "§[setings]\n", "setings", "Did you mean 'settings'?"),
    "arms typo": ("[arms.none]", "§[arm.none]", "arm = ", "Did you mean 'arms'?"),
    "technique typo": (WARMUP, '§warmpu = { duration = "2ep" }', "arms.warmup.warmpu",
        "'warmup'?"),
    "setting typo in arm": ("[arms.none]", '[arms.none]\n§agmentation = "none"',
        "arms.none.agm",
                            "Did you mean 'augmentation'?"),
    "deep typo in arm": ("[arms.none]", "[arms.none]\n§batch_norm = { grup = 32 }",
                         "arms.none.batch_norm.grup = 32", "Did you mean 'group'?"),
    "option typo": (WARMUP, '§warmup = { duraton = "2ep" }', "warmup.duraton", "'duration'?"),
    "settings in arm": ("[arms.none]", '[arms.none]\n§settings = { loss = "x" }',
                        "arms.none.settings", "stand directly in it"),
    # unknown values, with the nearest
    "workload": ('"article"', '§"artcle"', 'workload = "artcle"', "Did you mean 'article'?"),
    "workload is code": ('"article"', '§"my_module:make"', "workload",
        "--workload my_module:make"),
    "data": ("seeds = 2", 'seeds = 2\n§data = "cifar"', 'data = "cifar"', "mean 'cifar10'?"),
    "published": ("seeds = 2", 'seeds = 2\n§published = "artikle"', "published", "'article'?"),
    "scaling": (LR, '§lr = { scaling = "liner" }', 'lr.scaling = "liner"', "mean 'linear'?"),
    "scaling for Adam": (LR, '§lr = { scaling = "malladi" }', "lr.scaling", 'Write "sqrt"'),
    "decay kind": (DECAY, '§decay = { kind = "step" }', "decay.kind", "mean 'multistep'?"),
    "loss": ('"logits"', '§"logit"', 'settings.loss = "logit"', "Did you mean 'logits'?"),
    "form": ('form = "keras"', '§form = "Keras"', "settings.optimizer.form", "mean 'keras'?"),
    "optimizer": ('form = "keras"', '§name = "adam"', "settings.optimizer.name", "Known: sgd"),
    "precision": ('loss = "logits"', '§precision = "fp16"', "settings.precision", "'bf16'?"),
    "augmentation": ('loss = "logits"', '§augmentation = "crop"', "augmentation", "as-written"),
    "remainder": ('loss = "logits"', '§remainder = "keep"', "settings.remainder",
        "carry, drop"),
    "init": ('loss = "logits"', '§model = { init = "he" }', "settings.model.init", "glorot"),
    "model": ('loss = "logits"', '§model = { name = "resnet" }', "settings.model.name",
        "conv-net"),
    "running": ("momentum = 0.9", '§running = "means"', "batch_norm.running", "mean 'mean'?"),
    "group word": ('"B/8"', '§"B/x"', 'batch_norm.group = "B/x"', 'Write e.g. "global"'),
    "group zero": ('"B/8"', '§"B/0"', 'batch_norm.group = "B/0"', "ghost size >= 2"),
    "group of one": ('"B/8"', "§1", "batch_norm.group = 1", "ghost size >= 2"),
    "per-group global": ('group = "B/8"', '§group = "global"', "settings.batch_norm",
                         'Write running = "mean" too'),
    "warmup shape": (WARMUP, '§warmup = { shape = "liner", duration = "2ep" }',
                     'warmup.shape = "liner"', "Did you mean 'linear'?"),
    "reference": ('arm = "none"', '§arm = "nonne"', "reference_arm", "Did you mean 'none'?"),
    # wrong types
    "lr as text": (LR, '§lr = { base = "1e-3" }', 'lr.base = "1e-3"',
        "1e-3, without the quotes"),
    "lr as bool": (LR, "§lr = { base = true }", "lr.base = true", "a number is needed"),
    "lr no table": (LR, "§lr = 0.1", "lr = 0.1", "a table is needed"),
    "size as text": (LR, '§lr = { base_batch_size = "128" }', "lr.base_batch_size",
        "without the"),
    "size as float": (LR, "§lr = { base_batch_size = 128.5 }", "128.5",
        "whole number is needed"),
    "seeds as text": ("seeds = 2", '§seeds = "2"', 'seeds = "2"', "Write e.g. 3"),
    "seeds as bool": ("seeds = 2", "§seeds = true", "seeds = true", "Write e.g. 3"),
    "seeds as float": ("seeds = 2", "§seeds = 2.0", "seeds = 2.0", "Write e.g. 3"),
    "name as number": ('name = "mine"', "§name = 7", "name = 7", "a text is needed"),
    "budget as number": ('"10ep"', "§10", "budget = 10", 'Write e.g. "100ep"'),
    "batch sizes as number": ("[128, 256]", "§128", "batch_sizes = 128", '"128..8192:x2"'),
    "batch size as text": ("[128, 256]", '§[128, "256"]', "batch_sizes",
        '"256" is not a whole'),
    "batch size as bool": ("[128, 256]", "§[true]", "batch_sizes", "true is not a whole"),
    "at as text": (DECAY, '§decay = { at = "60%" }', "decay.at", "a list is needed"),
    "at of numbers": (DECAY, "§decay = { at = [60, 85] }", "decay.at[0] = 60",
        "a text is needed"),
    "widths flat": ('loss = "logits"', "§model = { widths = [8, 8] }", "widths[0]", "[[64, 64"),
    "nesterov": ('form = "keras"', '§nesterov = "yes"', "nesterov", "true or false is needed"),
    "evaluate_every": ('loss = "logits"', "§evaluate_every = 1.5", "evaluate_every", "whole"),
    "arm no table": ("[arms.none]", "[arms]\n§none = 1", "arms.none = 1", "a table is needed"),
    "technique no table": (WARMUP, '§warmup = "5ep"', "arms.warmup.warmup", "table of options"),
    "duration as number": (WARMUP, "§warmup = { duration = 5 }", "duration = 5", '"5ep"'),
    "start as text": (WARMUP, '§warmup = { duration = "2ep", start = "0.1" }', "start", "0.1"),
    "no duration": (WARMUP, '§warmup = { shape = "linear" }', "arms.warmup.warmup", "duration"),
    "table as list": ("[settings.optimizer]", "§[[settings.optimizer]]", "settings.optimizer",
                      "a table is needed"),
    # numbers that are none, or out of range
    "lr NaN": (LR, "§lr = { base = nan }", "lr.base = nan", "finite number above 0"),
    "lr infinite": (LR, "§lr = { base = inf }", "lr.base = inf", "finite number above 0"),
    "lr zero": (LR, "§lr = { base = 0 }", "lr.base = 0", "finite number above 0"),
    "lr negative": (LR, "§lr = { base = -0.1 }", "lr.base = -0.1", "finite number above 0"),
    "base size zero": (LR, "§lr = { base_batch_size = 0 }", "base_batch_size = 0",
        "number >= 1"),
    "momentum one": ("momentum = 0.9", "§momentum = 1.0", "momentum = 1.0",
        "from 0 to below 1"),
    "momentum NaN": ("momentum = 0.9", "§momentum = nan", "momentum = nan",
        "from 0 to below 1"),
    "eps zero": ("momentum = 0.9", "§eps = 0.0", "batch_norm.eps = 0.0", "above 0"),
    "decay factor": (DECAY, "§decay = { factor = 10 }", "decay.factor = 10", "between 0 and 1"),
    "weight decay": ('form = "keras"', "§weight_decay = -1e-4", "weight_decay", "number >= 0"),
    "start NaN": (WARMUP, '§warmup = { duration = "2ep", start = nan }', "start = nan",
        "finite"),
    "start negative": (WARMUP, '§warmup = { duration = "2ep", start = -1 }', "warmup", "start"),
    "width zero": ('loss = "logits"', "§model = { widths = [[8, 0]] }", "widths",
        "counts >= 1"),
    "no widths": ('loss = "logits"', "§model = { widths = [] }", "widths", "counts >= 1"),
    "nesterov alone": ('form = "keras"', "form = 'keras'\n§nesterov = true\nmomentum = 0",
                       "settings.optimizer", "changes nothing"),
    # grids
    "batch size zero": ("[128, 256]", "§[0, 256]", "batch_sizes = [0, 256]",
        "0 is not a whole"),
    "batch size negative": ("[128, 256]", "§[-1]", "batch_sizes = [-1]", "whole number >= 1"),
    "no batch sizes": ("[128, 256]", "§[]", "batch_sizes = []", "at least one"),
    "batch size twice": ("[128, 256]", "§[128, 128]", "batch_sizes", "128 stands twice"),
    "range past its end": ("[128, 256]", '§"128..300:x2"', "batch_sizes", "256 or 512"),
    "range backwards": ("[128, 256]", '§"256..128:x2"', "batch_sizes", "no values"),
    "range of x1": ("[128, 256]", '§"128..256:x1"', "batch_sizes", "no values"),
    "range too long": ("[128, 256]", '§"1..999999:+1"', "batch_sizes", "more than 1000"),
    "range malformed": ("[128, 256]", '§"128-256"', "batch_sizes", '"128..8192:x2"'),
    "no seeds": ("seeds = 2", "§seeds = 0", "seeds = 0", "from 1 to"),
    "empty seeds": ("seeds = 2", "§seeds = []", "seeds = []", "at least one"),
    "seed twice": ("seeds = 2", "§seeds = [3, 3]", "seeds = [3, 3]", "3 stands twice"),
    "seed negative": ("seeds = 2", "§seeds = [-1]", "seeds = [-1]", "whole number >= 0"),
    "seed huge": ("seeds = 2", f"§seeds = [{1 << 63}]", "seeds", "whole number >= 0"),
    "too many seeds": ("seeds = 2", "§seeds = 10001", "seeds = 10001", "from 1 to 10000"),
    # durations
    "budget share": ('"10ep"', '§"50%"', 'budget = "50%"', 'Write e.g. "100ep"'),
    "budget nothing": ('"10ep"', '§"0ep"', 'budget = "0ep"', "trains nothing"),
    "budget no unit": ('"10ep"', '§"0.5"', 'budget = "0.5"', "no unit"),
    "budget bare": ('"10ep"', '§"10"', 'budget = "10"', "Write '10ep' (epochs) or '10up'"),
    "warmup bare": (WARMUP, '§warmup = { duration = "6" }', "duration = ", "'6ep' (ep"),
    "budget other unit": ('"10ep"', '§"10epochs"', "budget", "Write '10ep'"),
    "budget words": ('"10ep"', '§"long"', 'budget = "long"', "not understood"),
    "decay no points": (DECAY, "§decay = { at = [] }", "decay.at = []", 'kind = "constant"'),
    "decay descending": (DECAY, '§decay = { at = ["85%", "60%"] }', "decay.at", "ascending"),
    "decay twice": (DECAY, '§decay = { at = ["60%", "6ep"] }', "decay.at", "ascending"),
    "decay past the end": (DECAY, '§decay = { at = ["11ep"] }', "decay.at",
        "inside of the run"),
    "decay at the end": (DECAY, '§decay = { at = ["100%"] }', "decay.at", "inside of the run"),
    "decay share of 120": (DECAY, '§decay = { at = ["120%"] }', "decay.at[0]", "longer than"),
    "constant with points": (DECAY, '§decay = { kind = "constant", at = ["5ep"] }', "decay.at",
                             "Leave the key out"),
    "staircase of a share": (WARMUP, '§warmup = { duration = "5%", stepping = "epoch" }',
                             "arms.warmup.warmup", "whole number"),
    # missing
    "no name": ('name = "mine"\n', "§", "name: missing key", 'name = "my-study"'),
    "no workload": ('workload = "article"\n', "", "workload: missing key",
        'workload = "article"'),
    "no batch sizes key": ("batch_sizes = [128, 256]\n", "", "batch_sizes: missing",
        "128..8192:x2"),
    "no seeds key": ("seeds = 2\n", "", "seeds: missing key", "seeds = 3"),
    "no arms": (GOOD[GOOD.index("[arms.none]"):], "", "arms: missing key", "arms = { none"),
    "empty arms": (GOOD[GOOD.index("[arms.none]"):], "§[arms]", "arms: no arm", "[arms.none]"),
    "no reference": ('reference_arm = "none"\n', "", "reference_arm: missing key", '"alone"'),
    # names and texts
    "name with a slash": ('"mine"', '§"a/b"', 'name = "a/b"', "letters, digits"),
    "name of dots": ('"mine"', '§".."', 'name = ".."', "begin with a letter"),
    "name like an option": ('"mine"', '§"-rf"', 'name = "-rf"', "begin with a letter"),
    "name empty": ('"mine"', '§""', 'name = ""', "begin with a letter"),
    "name long": ('"mine"', f'§"{"a" * 101}"', "name = ", "up to 100"),
    "name Japanese": ('"mine"', '§"学習率"', "学習率", "letters, digits"),
    "escape in a name": ('"mine"', '§"a\\u001b[31m"', "name", "letters, digits"),
    "escape in a text": ("seeds = 2", 'seeds = 2\n§description = "a\\u001b]0;x\\u0007"',
                         "description", "U+001B"),
    "overrides of direction": ("[arms.none]", '§[arms."a\\u202eb"]', "arms", "U+202E"),
    "arm without a name": ("[arms.none]", '§[arms.""]', "arms", "is empty"),
    # the same trials twice
    "arm twice": ("[arms.none]", "[arms.none]\n§[arms.nothing]", "arms.nothing", "arm 'none'"),
    "arm twice, spelled out": (
        "[arms.none]", '[arms.none]\n[arms.b]\n§warmup = { duration = "2.0ep" }',
        "arms.warmup", "same trials as arm 'b'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_line_key_and_hint(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, key, hint = BAD[case]
    assert GOOD.count(old) >= 1, old
    text = GOOD.replace(old, new, 1)
    if case == "no reference":
        text = text.replace("[arms.none]", "[arms.alone]")
    line = text[: text.index("§")].count("\n") + 1 if "§" in text else 1
    if case == "arm twice, spelled out":
        line = next(i for i, t in enumerate(text.split("\n"), 1) if t == "[arms.warmup]")
    file = tmp_path / "study.toml"
    file.write_text(text.replace("§", ""), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_study("study.toml")
    message = str(caught.value)
    assert message.startswith(f"study.toml:{line}: "), (line, message)
    assert key in message
    assert hint in message
    assert message.isprintable() or "\n" in message
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]  # nothing was written


def test_enough_kinds_of_bad_files() -> None:
    assert len(BAD) >= 60


# --- TOML itself: file, line and column

SYNTAX = {
    "yaml": ("seeds = 2", "seeds: 2", 4, "`key = value`"),
    "python bool": ('form = "keras"', "nesterov = True", 18, "true or false, not True"),
    "on": ('form = "keras"', "nesterov = on", 18, "true or false, not on"),
    "none": ("seeds = 2", "seeds = None", 4, "leave the key out"),
    "octal": ("seeds = 2", "seeds = 010", 4, "Write 10, without leading zeros"),
    "bare text": ('"10ep"', "10ep", 5, 'budget = "10ep"'),
    "bare word": ('"article"', "article", 2, 'workload = "article"'),
    "duplicate key": ("seeds = 2", "seeds = 2\nseeds = 3", 5, "may stand once"),
    "duplicate table": ("[arms.none]", "[arms.none]\n[arms.none]", 21, "may stand once"),
    "open string": ('"10ep"', '"10ep', 5, ""),
    "open list": ("[128, 256]", "[128, 256", 4, ""),
    "control character": ('"10ep"', '"10\x01ep"', 5, ""),
}


@pytest.mark.parametrize("case", SYNTAX)
def test_malformed_toml_gives_file_line_and_column(case: str) -> None:
    old, new, line, hint = SYNTAX[case]
    with pytest.raises(UsageError) as caught:
        parse_study(GOOD.replace(old, new, 1), label="study.toml")
    message = str(caught.value)
    assert message.startswith(f"study.toml:{line}:"), message
    assert message.split(":")[2].isdigit()
    assert hint in message
    assert message.isprintable()


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("seeds = 2", "seeds = 0").replace("0.9", "7").replace("0.1, base", "x")
    with pytest.raises(UsageError, match=r"^s:7:\d+: "):  # malformed: only that
        parse_study(text, label="s")
    with pytest.raises(UsageError) as caught:
        parse_study(text.replace("base = x", "base = -1, base"), label="s")
    assert [m.split(":")[1] for m in str(caught.value).splitlines()] == ["4", "7", "14"]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"\xff\xfe", "bad.toml:1: is not UTF-8"),
        (b'name = "a"\n# \xe9\n', "bad.toml:2: is not UTF-8"),
        (b"#" * 1_000_001, "larger than 1000000 bytes"),
        (b"a = " + b"[" * 100_000, "nested"),
        (b"a = " + b"9" * 10_000, "bad.toml:1"),
        (b"", "name: missing key"),
    ],
)
def test_hostile_files(content: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_study(tmp_path / "bad.toml")
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["artcle", "article.tml", "no\0pe", "x" * 5000, "a\x1b[2Jb"])
def test_an_unknown_file_suggests_a_recipe_and_stays_printable(name: str) -> None:
    with pytest.raises(UsageError, match="no study file or recipe") as caught:
        load_study(name)
    assert "Recipes: article" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        load_study(tmp_path)


# --- before torch, quickly, and nothing written


def test_a_bad_file_is_refused_before_torch_and_in_under_a_second(tmp_path: Path) -> None:
    """The processor's time is measured: the wall's would depend on who else is at work."""
    (tmp_path / "s.toml").write_text(GOOD.replace("seeds", "sedes"))
    code = (
        "import sys, time\n"
        "sys.argv = ['batchcliff', 'run', 's.toml']\n"
        "from batchcliff.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'altair', 'scipy'} & sys.modules.keys()))\n"
        "    print(time.process_time())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found, seconds = ended.stdout.splitlines()
    assert found == "2 []"
    assert float(seconds) < 1.0
    assert ended.stderr.startswith("s.toml:4: sedes = 2: unknown key. Did you mean 'seeds'?")
    assert [p.name for p in tmp_path.iterdir()] == ["s.toml"]
