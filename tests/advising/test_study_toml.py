"""Studies as study files: what is written is read back as the same study."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from batchcliff.advising import advise_study, exported
from batchcliff.advising.study_toml import confirming, study_toml
from batchcliff.planning import plan
from batchcliff.studyfile import load_study, parse_study, recipe_names

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_written_and_read_back(name: str) -> None:
    study = load_study(name)
    assert parse_study(study_toml(study, ("a", "comment"))) == study


def test_names_that_need_quotes_are_read_back() -> None:
    study = load_study("digits")
    arms = tuple(
        dataclasses.replace(arm, name=name)
        for arm, name in zip(study.arms, ('a "b" \\ 学習', "x.y = 1 # z"), strict=True)
    )
    named = dataclasses.replace(
        study, arms=arms, reference_arm=arms[0].name, description="two\nlines"
    )
    assert parse_study(study_toml(named)) == named


def test_rates_that_are_searched_are_read_back() -> None:
    text = study_toml(load_study("digits")).replace("base = 0.9,", "tune = [0.3, 0.6, 0.9],")
    study = parse_study(text)
    assert study.lr.tune == (0.3, 0.6, 0.9)
    assert parse_study(study_toml(study)) == study


def test_a_lost_key_is_noticed() -> None:
    study = load_study("digits")
    lines = study_toml(study).splitlines(keepends=True)
    fewer = "".join(line for line in lines if not line.startswith("tolerance"))
    assert parse_study(fewer) != study


@pytest.mark.parametrize("folder", ["digits", "article-h100-jpeg"])
def test_the_confirming_study_is_planned_without_an_infeasible_trial(
    folder: str, tmp_path: Path
) -> None:
    advised = advise_study(RESULTS / folder)
    file = tmp_path / "confirm.toml"
    file.write_text(exported(advised, "toml"), encoding="utf-8")
    study = load_study(file)
    best, first = advised.advice.best, advised.study
    assert best is not None and first is not None
    assert study == confirming(first, advised.advice, best)
    planned = plan(study, out=tmp_path / "s")
    assert planned.infeasible == 0
    assert not set(study.seeds) & set(first.seeds)  # new ones, that had no say in choosing
    assert {best.batch_size, advised.advice.reference_batch_size} <= set(study.batch_sizes)
    finer = [size for size in study.batch_sizes if size > best.batch_size]
    assert len(finer) >= 2 and not set(finer) <= set(first.batch_sizes)
    assert {arm.name for arm in study.arms} == {"none", "warmup"}
