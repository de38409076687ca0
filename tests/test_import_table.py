"""What `batchcliff import` reads in a table, and what it refuses with line and column."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from batchcliff.errors import UsageError
from batchcliff.published.table import read_table
from batchcliff.record import Outcome

HEAD = "arm,batch_size,seed,accuracy,outcome\n"
GOOD = HEAD + "none,64,0,0.9,ok\nnone,128,0,0.7,\n"


def rows(text: str, unit: str = "share") -> list[tuple[object, ...]]:
    return [dataclasses.astuple(row) for row in read_table(text.encode(), unit, "t.csv").rows]


def test_what_a_table_says_is_read_whatever_its_form() -> None:
    expected = [
        ("a, b", 64, 0, Outcome.OK, 0.915),
        ("=x", 64, 1, Outcome.DIVERGED, None),
        ("c", 128, 2, Outcome.OK, 0.0),
    ]
    plain = HEAD + '"a, b",64,0,0.915,ok\n\'=x,64,1,,diverged\nc,128,2,0,\n'
    assert rows(plain) == expected
    assert rows("\ufeff" + plain.replace("\n", "\r\n")) == expected
    assert rows(plain.replace("\nc", "\n\n , ,,,\nc") + "\n") == expected
    moved = (
        "note,accuracy,outcome,seed,batch_size,arm\n"
        'x,0.915,ok,0,64,"a, b"\n,,diverged,1,64,\'=x\nx, 0 ,,2,128,c\n'
    )
    assert rows(moved) == expected
    assert read_table(moved.encode(), "share").left_out == ("note",)
    assert rows("arm,batch_size,accuracy\nn,64,91.5\n", "percent") == [
        ("n", 64, 0, Outcome.OK, 0.915)
    ]


def test_without_seeds_no_trial_is_anothers_pair() -> None:
    text = "arm,batch_size,accuracy\nnone,64,0.9\nnone,64,0.9\nwarmup,64,0.9\n"
    table = read_table(text.encode(), "share")
    assert not table.paired
    assert [row.seed for row in table.rows] == [0, 1, 2]


REFUSED = {
    "no column": ("arm,batch_size\nn,1\n", "line 1: no column 'accuracy'"),
    "nothing": ("", "line 1: no column 'arm'"),
    "no trial": (HEAD, "has no trial"),
    "semicolons": ("arm;batch_size;accuracy\nn;64;0.9\n", "line 1: no comma"),
    "near name": (
        "arm,batch_size,acuracy\nn,1,0.9\n",
        "column 'acuracy' is unknown. Did you mean 'accuracy'?",
    ),
    "near seed": (
        "arm,batch_size,accuracy,Seeds\nn,1,0.9,1\n",
        "column 'Seeds' is unknown. Did you mean 'seed'?",
    ),
    "twice": ("arm,arm,batch_size,accuracy\nn,n,1,0.9\n", "column 'arm' stands twice"),
    "short row": (HEAD + "n,64,0\n", "line 2: 3 cells, and the header has 5 columns"),
    "no arm": (HEAD + ",64,0,0.9,\n", "line 2, column arm: empty"),
    "batch 0": (HEAD + "n,0,0,0.9,\n", "column batch_size: '0' is no whole number >= 1"),
    "batch": (HEAD + 'n,"1,024",0,0.9,\n', "column batch_size: '1,024' is no whole number"),
    "batch float": (HEAD + "n,64.0,0,0.9,\n", "column batch_size: '64.0' is no whole number"),
    "batch digits": (HEAD + "n,\u0664,0,0.9,\n", "is no whole number"),
    "seed": (HEAD + "n,64,-1,0.9,\n", "column seed: '-1' is no whole number >= 0"),
    "no seed": (HEAD + "n,64,,0.9,\n", "column seed: '' is no whole number >= 0"),
    "same": (
        HEAD + "n,64,1,0.9,\nm,64,1,0.9,\nn,64,1,0.8,\n",
        "line 4: arm 'n', batch size 64, seed 1 stands in line 2 already",
    ),
    "outcome": (HEAD + "n,64,0,,divergd\n", "'divergd' is unknown. Did you mean 'diverged'?"),
    "both": (HEAD + "n,64,0,0.1,diverged\n", "'0.1', and the outcome is diverged"),
    "neither": (HEAD + "n,64,0,,\n", "line 2, column accuracy: empty"),
    "ok but empty": (HEAD + "n,64,0,,ok\n", "line 2, column accuracy: empty"),
    "nan": (HEAD + "n,64,0,nan,\n", "'nan' is no number. For a trial that diverged"),
    "inf": (HEAD + "n,64,0,1e999,\n", "'1e999' is no number"),
    "comma": (HEAD + 'n,64,0,"0,9",\n', "'0,9' is no number"),
    "underscore": (HEAD + "n,64,0,0_9,\n", "'0_9' is no number"),
    "percent sign": (HEAD + "n,64,0,91%,\n", "'91%' is no number"),
    "above": (HEAD + "n,64,0,1.0001,\n", "1.0001 is not between 0 and 1. Are these percent?"),
    "below": (HEAD + "n,64,0,-0.1,\n", "-0.1 is not between 0 and 1"),
    "quote": (HEAD + 'n,64,0,"0.9,\n', "unexpected end of data"),
    "null": (HEAD + "n,64,0,0.9\0,\n", "is no number|NUL"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_with_its_place(what: str) -> None:
    text, message = REFUSED[what]
    pattern = message if "|" in message else re.escape(message)
    with pytest.raises(UsageError, match=pattern) as caught:
        rows(text)
    assert str(caught.value).startswith("t.csv")


def test_the_unit_is_never_guessed() -> None:
    shares, percent = GOOD, HEAD + "n,64,0,91.5,\nn,128,0,0.4,\n"
    with pytest.raises(UsageError, match="Say --unit percent"):
        rows(percent)
    assert [row[4] for row in rows(percent, "percent")] == [0.915, 0.004]
    with pytest.raises(UsageError, match="Say --unit share"):
        rows(shares, "percent")
    with pytest.raises(UsageError, match=r"unknown\. Did you mean 'percent'"):
        rows(shares, "percents")


def test_other_encodings_are_refused() -> None:
    with pytest.raises(UsageError, match="line 3: not UTF-8"):
        read_table((HEAD + "n,64,0,0.9,\n").encode() + b"\xff,64,1,0.9,\n", "share", "t.csv")


def test_the_table_of_the_docs_is_one() -> None:
    text = (Path(__file__).parents[1] / "docs" / "importing.md").read_text()
    block = re.search(r"```csv\n(.*?)```", text, re.DOTALL)
    assert block is not None
    assert rows(block[1]) == [
        ("none", 128, 0, Outcome.OK, 0.9105),
        ("none", 8192, 0, Outcome.DIVERGED, None),
        ("warmup", 128, 0, Outcome.OK, 0.9175),
    ]
