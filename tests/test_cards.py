"""Every technique has its card, every recipe its page, every key of a study file its line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from batchcliff.studyfile import load_study, recipe_names
from batchcliff.studyfile.misplaced import fields_of
from batchcliff.studyfile.schema import StudyTable
from batchcliff.techniques import SEAMS, TECHNIQUES

DOCS = Path(__file__).parents[1] / "docs"
INDEX = (DOCS / "techniques" / "README.md").read_text()
FILE = (DOCS / "study-file.md").read_text()


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
def test_a_card_for_every_technique(name: str) -> None:
    """It has the technique's name, every one of its options, and its place in the index."""
    card = (DOCS / "techniques" / f"{name}.md").read_text()
    cls = TECHNIQUES[name]
    assert card.startswith(f"# {name}\n")
    for field in dataclasses.fields(cls):
        assert f"`{field.name}`" in card, field.name
    assert "**No effect.**" in card or "**Infeasible**" in card
    for section in ("**In a trial.**", "**Measured.**"):
        assert section in card, section
    assert f"| {cls.seam} | {cls.part} | [{name}]({name}.md) |" in INDEX


def test_the_index_has_no_other_technique() -> None:
    found = re.findall(r"^\| (\w+) \|.*\[(.*)\]\((.*)\.md\) \|$", INDEX, re.MULTILINE)
    assert {name for _, name, _ in found} == set(TECHNIQUES)
    assert {seam for seam, _, _ in found} == set(SEAMS)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_in_the_index_and_its_page_is_there(name: str) -> None:
    index = (DOCS / "recipes" / "README.md").read_text()
    assert f"`{name}`" in index
    for page in re.findall(rf"`{name}` .*?\[[\w_.-]+\]\(([\w./_-]+)\)", index):
        assert (DOCS / "recipes" / page).resolve().is_file()
    assert load_study(name).description


def keys(table: type, prefix: str = "") -> list[tuple[str, str]]:
    """(table, key) of every key of a study file."""
    found = []
    for name, inner in fields_of(table).items():
        found.append((prefix, name))
        if inner is not None:
            found += keys(inner, name)
    return found


@pytest.mark.parametrize(("table", "key"), keys(StudyTable))
def test_every_key_of_a_study_file_is_explained(table: str, key: str) -> None:
    names = (f"`{key}`", f"`{table}.{key}`", f"`[{key}]`")
    places = (*names, f"[settings.{key}]", f"[{key}.NAME]")
    assert any(place in FILE for place in places), key


def test_a_key_that_is_missing_would_be_noticed() -> None:
    assert "`warmup_epochs`" not in FILE
    assert ("optimizer", "trust") in keys(StudyTable)
