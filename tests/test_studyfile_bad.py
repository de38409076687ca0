"""Study files that are refused: every message names file, line, key, value and a way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bad_study_files import BAD, GOOD, SYNTAX
from batchcliff.errors import UsageError
from batchcliff.studyfile import load_study, parse_study
from calls import HEAVY


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
    check(str(caught.value), line, key, hint)
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]  # nothing was written


def test_enough_kinds_of_bad_files() -> None:
    assert len({case[:2] for case in BAD.values()}) == len(BAD) >= 150, "150 different ones"
    assert sum("mean" in hint or "?" in hint for *_, hint in BAD.values()) >= 25, "near names"


def test_control_a_good_file_is_refused_by_nothing() -> None:
    """What every case begins with has no fault of its own."""
    assert parse_study(GOOD).name == "mine"
    with pytest.raises(AssertionError):  # and a wrong line would be noticed
        check(parse_error(GOOD.replace("seeds = 2", "sedes = 2")), 5, "sedes", "seeds")


def parse_error(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_study(text, label="study.toml")
    return str(caught.value)


def check(message: str, line: int, key: str, hint: str) -> None:
    """The message has the file, the line, the key with its value, and a way out."""
    assert message.startswith(f"study.toml:{line}: "), (line, message)
    assert key in message
    assert hint in message
    assert message.isprintable() or "\n" in message


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


def test_a_bad_file_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(GOOD.replace("seeds", "sedes"))
    code = (
        "import sys\n"
        "sys.argv = ['batchcliff', 'run', 's.toml']\n"
        "from batchcliff.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        f"    print(end.code, sorted({HEAVY - {'numpy'}} & sys.modules.keys()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "2 []\n"
    assert ended.stderr.startswith("s.toml:4: sedes = 2: unknown key. Did you mean 'seeds'?")
    assert [p.name for p in tmp_path.iterdir()] == ["s.toml"]
