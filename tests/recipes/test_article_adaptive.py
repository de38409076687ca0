"""The recipe article-adaptive: the article's trials, and sizes between them, nothing else."""

from __future__ import annotations

import dataclasses

from batchcliff import api
from batchcliff.stats.search import search
from batchcliff.study import grid
from batchcliff.study.adaptive import Adaptive
from batchcliff.studyfile import load_study
from batchcliff.training.arithmetic import DataFacts

FACTS = DataFacts(num_train=50_000, num_test=10_000, num_classes=10, image_shape=(32, 32, 3))


def test_its_trials_are_those_of_the_article_and_between() -> None:
    study = load_study("article-adaptive")
    adaptive = Adaptive(study, "d" * 64, "", FACTS, search)
    assert not adaptive.reasons and adaptive.most == 2 * 13 * 5
    article = dataclasses.replace(load_study("article"), seeds=(0, 1, 2, 3, 4))
    mine = {spec.trial_id for spec in adaptive.specs.values()}
    theirs = {spec.trial_id for spec in grid.trials(article, "d" * 64)}
    assert theirs < mine
    other = dataclasses.replace(article, budget="90ep")
    assert not mine & {spec.trial_id for spec in grid.trials(other, "d" * 64)}


def test_the_plan_is_made_offline_and_says_the_worst_case() -> None:
    plan = api.plan("article-adaptive")
    assert (len(plan.trials), plan.most) == (4, 130)
    assert {(t.spec.arm, t.spec.batch_size) for t in plan.trials} == {
        ("none", 128),
        ("none", 1024),
        ("warmup", 128),
        ("warmup", 1024),
    }
