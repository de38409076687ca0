"""`compare`: two studies' arms in one answer, or a refusal that names the difference."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from batchcliff import api
from batchcliff.cli import app
from batchcliff.comparing import in_the_words_of
from batchcliff.errors import UsageError
from batchcliff.naming import resolved
from batchcliff.spec import Arm, LrRule, StudySpec
from batchcliff.stats.comparable import check_studies

RESULTS = Path(__file__).parents[1] / "results"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_arms_of_two_studies_against_one() -> None:
    found = api.compare(RESULTS / "digits", RESULTS / "digits-ladder")
    assert found.studies == ("digits", "digits-ladder")
    names = [f"{study}: {arm}" for study in found.studies for arm in ("none", "warmup")]
    assert [arm.arm for arm in found.summary.arms] == names
    own = api.compare(RESULTS / "digits-ladder", RESULTS / "digits").summary
    assert own.reference_arm == "digits-ladder: none"
    # The ladder has digits' sizes and seeds, and more: its trials are pairs of theirs.
    shift = found.summary.arm("digits-ladder: none").tolerance_shift
    assert shift is not None and shift.pairs == 12


def test_differences_are_over_pairs_of_equal_seed() -> None:
    both = api.compare(RESULTS / "kernels-auto-h200-jpeg", RESULTS / "kernels-off-h200-jpeg")
    (difference,) = both.summary.arms[1].differences
    accuracies = [
        {
            r["seed"]: r["accuracy"]
            for r in json.loads(api.export(RESULTS / name, format="json"))
        }
        for name in ("kernels-auto-h200-jpeg", "kernels-off-h200-jpeg")
    ]
    pairs = [accuracies[1][seed] - accuracies[0][seed] for seed in accuracies[0]]
    assert difference.difference.n == len(pairs) == 5
    assert difference.difference.value == pytest.approx(sum(pairs) / 5)


def test_what_is_printed_and_its_json() -> None:
    told = call("compare", str(RESULTS / "digits"), str(RESULTS / "digits-ladder"))
    assert told.exit_code == 0, told.output
    assert "“digits-ladder: none”" in told.stdout and "p, corrected" in told.stdout
    assert "The trials mix" in told.stdout
    plain = json.loads(
        call(
            "compare", str(RESULTS / "digits"), str(RESULTS / "digits-ladder"), "--json"
        ).stdout
    )
    assert plain["studies"] == ["digits", "digits-ladder"]


def test_another_arm_as_the_reference() -> None:
    found = api.compare(RESULTS / "digits", RESULTS / "digits-ladder", reference="warmup")
    assert found.summary.reference_arm == "digits: warmup"
    wrong = call(
        "compare",
        str(RESULTS / "digits"),
        str(RESULTS / "digits-ladder"),
        "--reference",
        "warm",
    )
    assert wrong.exit_code == 2 and "Did you mean 'warmup'?" in wrong.stderr


def test_two_studies_that_differ_in_more_than_the_arm_are_refused() -> None:
    with pytest.raises(UsageError) as refusal:
        api.compare(RESULTS / "article-h100-jpeg", RESULTS / "half-precision-h200-jpeg")
    for named in ("budget ('100ep', '18ep')", "settings.precision ('bf16', 'fp32')",
                  "settings.evaluation (the default, 'reestimated')"):  # fmt: skip
        assert named in str(refusal.value)
    assert "gradient_norms" not in str(refusal.value)  # recorded, not trained otherwise


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"budget": "7ep"}, "budget ('60ep', '7ep')"),
        ({"lr": LrRule(base=0.1, base_batch_size=64)}, "lr.base (0.9, 0.1)"),
        ({"data": "cifar10"}, "data ('digits', 'cifar10')"),
        ({"name": "b", "seeds": (7,), "batch_sizes": (8,), "tolerance": 0.1}, ""),
        ({"arms": (Arm(name="other"),), "reference_arm": "other", "description": "x"}, ""),
    ],
)
def test_what_belongs_to_the_study_and_what_to_its_arms(
    changed: dict[str, Any], named: str
) -> None:
    study = resolved("digits", None)
    other = dataclasses.replace(study, **changed)
    if not named:
        check_studies(study, other)
        return
    with pytest.raises(UsageError) as refusal:
        check_studies(study, other)
    assert str(refusal.value).endswith(f"an arm's: {named}")


@pytest.mark.parametrize(
    ("mine", "theirs", "alike"),
    [
        ((0.1, 128, "linear"), (0.2, 256, "linear"), True),
        ((0.1, 128, "linear"), (0.2, 256, "smith"), True),  # the same formula
        ((0.1, 128, "sqrt"), (0.2, 512, "sqrt"), True),
        ((0.1, 128, "none"), (0.1, 512, "none"), True),
        ((0.1, 128, "linear"), (0.2, 255, "linear"), False),
        ((0.1, 128, "linear"), (0.1, 128, "sqrt"), False),
        ((0.1, 128, "legw"), (0.2, 512, "legw"), False),  # the warmup differs
        ((0.1, 128, "malladi"), (0.2, 512, "malladi"), False),  # the betas do
    ],
)
def test_one_rate_in_two_wordings_is_no_difference(
    mine: tuple[float, int, str], theirs: tuple[float, int, str], alike: bool
) -> None:
    def with_rate(base: float, base_batch_size: int, scaling: str) -> StudySpec:
        rule = LrRule(base=base, base_batch_size=base_batch_size, scaling=scaling)
        return dataclasses.replace(resolved("digits", None), lr=rule)

    one, other = with_rate(*mine), with_rate(*theirs)
    assert (in_the_words_of(one, other).lr == one.lr) is alike
    tried = dataclasses.replace(other, lr=dataclasses.replace(other.lr, tune=(0.1, 0.2)))
    assert in_the_words_of(one, tried) is tried


def test_one_study_twice_and_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(RESULTS / "digits")
    with pytest.raises(UsageError, match="are one study"):
        api.compare(RESULTS / "digits", tmp_path / "again")
    table = tmp_path / "theirs.csv"
    table.write_text("arm,batch_size,accuracy\nnone,8,0.5\nnone,16,0.4\n")
    api.import_(table, classes=10, out=tmp_path / "theirs")
    with pytest.raises(UsageError, match="imported table"):
        api.compare(RESULTS / "digits", tmp_path / "theirs")


def test_a_record_that_both_have_is_told() -> None:
    found = api.compare(RESULTS / "article-h100-jpeg", RESULTS / "article-adaptive-jpeg")
    assert "9 trials are one record in both studies, and not two" in found.summary.notes
    control = api.compare(RESULTS / "article-h100-jpeg", RESULTS / "article-h100-jpeg-repeat")
    assert not any("one record" in note for note in control.summary.notes)
