"""docs/reliability.md cannot rot: what it names exists, and nothing is missing from it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from sizes import SIZES

from batchcliff.errors import DataError, Incomplete, StorageError, UsageError
from batchcliff.study.supervisor import STOPPING

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
NODE = re.compile(r"`([a-z_/]+\.py)(?:::(test_\w+))?`")
GATES, SCENARIOS = range(1, 17), range(1, 43)


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """The tests of a file; empty if there is no such file."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return frozenset(name for name in found if name.startswith("test_"))


def rows(page: str, letter: str) -> list[list[str]]:
    """The cells of every row about a gate (G) or a scenario (F)."""
    lines = [line for line in page.splitlines() if re.match(rf"\| {letter}\d+ ", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def complaints(page: str) -> list[str]:
    """What is wrong with the page."""
    found = []
    for letter, numbers in (("G", GATES), ("F", SCENARIOS)):
        here = [int(re.match(rf"{letter}(\d+)", row[0])[1]) for row in rows(page, letter)]
        if here != list(numbers):
            found.append(f"{letter}: {here}")
    for row in rows(page, "G") + rows(page, "F"):
        nodes = [node for cell in row for node in NODE.findall(cell)]
        for path, test in nodes:
            known = names_in(TESTS / path) if test else ()
            if not (test in known if test else (TESTS.parent / path).is_file()
                    or (TESTS / path).is_file()):  # fmt: skip
                found.append(f"{row[0]}: no test {path}::{test}")
        if not nodes and not re.search(r"as G\d+|not built", row[1]):
            found.append(f"{row[0]}: nothing holds it, and nothing says so")
    for row in rows(page, "G"):
        control = [test for _, test in NODE.findall(row[2])]
        if not control:
            found.append(f"{row[0]}: no negative control")
        if not all("control" in test or "would" in test for test in control):
            found.append(f"{row[0]}: {control} are no negative controls")
    return found


def test_every_gate_and_scenario_names_tests_that_exist() -> None:
    assert complaints(PAGE) == []


def test_the_sizes_on_the_page_are_those_that_run() -> None:
    said = re.findall(
        r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (.+) \|$", PAGE, re.M
    )
    numbers = {name: (*(int(n.replace(",", "")) for n in ns), what) for name, *ns, what in said}
    assert numbers == {name: tuple(size) for name, size in SIZES.items()}
    assert all(size.quick <= size.ci <= size.soak for size in SIZES.values() if size.soak)


def test_the_exit_codes_on_the_page_are_those_of_the_code() -> None:
    said = re.findall(r"^\| ([\d, ]+) \| .* \|$", PAGE, re.M)
    numbers = {int(code) for cell in said for code in cell.split(",")}
    errors = (UsageError, DataError, StorageError, Incomplete)
    assert numbers == {0, 3, *(e.exit_code for e in errors), *(128 + s for s in STOPPING)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("test_random_kills_lose_nothing", "test_that_was_renamed"),
        ("| F17 ", "| F170 "),
        ("| as G2 |", "| later |"),
        ("`gates/test_cost.py::test_control_a_store_that_dawdles_is_noticed`", ""),
        ("test_control_a_careless_look_is_caught", "test_random_injections"),
    ],
)
def test_control_a_page_that_rots_is_noticed(old: str, new: str) -> None:
    assert PAGE.count(old) >= 1
    assert complaints(PAGE.replace(old, new, 1))
