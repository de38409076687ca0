"""Study files: what is read, what is refused, and where the message points."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bad_study_files import GOOD, WARMUP
from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import Settings, StudySpec
from batchcliff.studyfile import load_study, parse_study, recipe_names, recipe_text
from batchcliff.studyfile.document import parse
from batchcliff.workloads import ARTICLE, DIGITS, Workload


def test_the_good_file_is_good() -> None:
    study = parse_study(GOOD)
    assert (study.name, study.batch_sizes, study.seeds) == ("mine", (128, 256), (0, 1))
    assert study.settings.loss == "logits"
    assert study.settings.batch_norm.momentum == 0.9
    assert study.settings.batch_norm.eps == ARTICLE.settings.batch_norm.eps  # the workload's
    assert study.arms[1].techniques == (("warmup", (("duration", "2ep"),)),)  # linear: default


# --- arms


def test_an_override_that_changes_nothing_has_no_effect() -> None:
    with pytest.raises(NoEffect, match=r"s:21: arms\.same\.loss = \"logits\": changes nothing"):
        parse_study(
            GOOD.replace("[arms.none]", '[arms.same]\nloss = "logits"\n\n[arms.none]'),
            label="s",
        )


def test_arms_merge_field_by_field_into_dotted_overrides() -> None:
    text = GOOD + (
        '\n[arms.ghost]\nbatch_norm = { group = 32, running = "mean" }\n'
        "model.widths = [[8], [8, 16]]\n"
    )
    arm = parse_study(text).arms[-1]
    assert arm.settings == (
        ("batch_norm.group", 32),
        ("batch_norm.running", "mean"),
        ("model.widths", ((8,), (8, 16))),
    )
    assert hash(arm)  # frozen all the way down


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_study(tmp_path / "s.toml") == parse_study(GOOD)


def test_two_spellings_of_one_trial_are_one_arm() -> None:
    def arm(text: str) -> object:
        study = parse_study(GOOD.replace(WARMUP, f"warmup = {{ {text} }}"))
        return study.arms[1].techniques

    assert arm('duration = "2ep"') == arm('shape = "linear", duration = "2.0 ep"')
    assert arm('duration = "2ep", start = 0') == arm('duration = "2ep", start = 0.0')
    assert arm('duration = "2ep"') != arm('duration = "3ep"')


def test_the_reference_arm_is_found_or_asked_for() -> None:
    text = GOOD.replace('reference_arm = "none"\n', "")
    assert parse_study(text).reference_arm == "none"
    only = text[: text.index("[arms.none]")] + "[arms.one]\n"
    assert parse_study(only).reference_arm == "one"


# --- overrides from the command line


def test_set_overrides_before_validation() -> None:
    study = parse_study(
        GOOD,
        overrides=[
            "lr.base=1e-3",
            "name = other",
            "arms.warmup.warmup.duration=3ep",
            'arms.extra.loss="clipped-softmax"',
            "settings.model.widths=[[8]]",
        ],
    )
    assert (study.lr.base, study.name) == (1e-3, "other")
    assert study.lr.base_batch_size == 128
    assert dict(study.arms[1].techniques[0][1])["duration"] == "3ep"
    assert study.arms[2].settings == (("loss", "clipped-softmax"),)
    assert study.settings.model.widths == ((8,),)


def test_set_reaches_an_arm_whose_name_needs_quotes() -> None:
    text = GOOD.replace("[arms.warmup]", '[arms."warm+up"]')
    study = parse_study(text, overrides=["arms.warm+up.warmup.duration=4ep"])
    assert dict(study.arms[1].techniques[0][1])["duration"] == "4ep"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lr.base", "write key=value"),
        ("=3", "write key=value"),
        ("lr.base=", "write key=value"),
        ("a..b=1", "is no key"),
        ("lr.base=1\nseeds=1", "without a line break"),
        ("batch_sizes=[1,", "--set batch_sizes=[1,"),
        ("name.x=1", "is not a table"),
        ("lr.bas=1", "Did you mean 'base'?"),
        ("lr.base=x", '--set lr.base=x: lr.base = "x": a number is needed'),
        ("seeds=\x1b[2J", "--set seeds=[2J"),
    ],
)
def test_bad_overrides_name_the_option(override: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_study(GOOD, label="s", overrides=[override])
    assert hint in str(caught.value)
    assert str(caught.value).startswith("--set")
    assert str(caught.value).isprintable()


def test_shortcuts_for_the_grid() -> None:
    study = parse_study(GOOD, seeds="0,4", batch_sizes="32..128:x2", budget="3ep")
    assert (study.seeds, study.batch_sizes, study.budget) == ((0, 4), (32, 64, 128), "3ep")
    assert parse_study(GOOD, seeds="4").seeds == (0, 1, 2, 3)
    assert parse_study(GOOD, seeds="7,").seeds == (7,)
    assert parse_study(GOOD, batch_sizes="512, 64").batch_sizes == (64, 512)
    with pytest.raises(UsageError, match=r'^--seeds 1-3: seeds = "1-3": '):
        parse_study(GOOD, seeds="1-3")
    with pytest.raises(UsageError, match=r"^--budget 5%: budget = "):
        parse_study(GOOD, budget="5%")


# --- workloads and defaults


def test_what_a_file_leaves_out_comes_from_its_workload() -> None:
    text = 'name = "d"\nworkload = "digits"\nbatch_sizes = [32]\nseeds = 1\n[arms.none]\n'
    study = parse_study(text)
    assert (study.lr, study.decay) == (DIGITS.lr, DIGITS.decay)
    assert (study.settings, study.budget, study.data) == (DIGITS.settings, "60ep", "digits")
    half = parse_study(text.replace("[arms", "lr.base = 0.2\n[arms"))
    assert (half.lr.base, half.lr.base_batch_size) == (0.2, DIGITS.lr.base_batch_size)
    flat = parse_study(text.replace("[arms", 'decay.kind = "constant"\n[arms'))
    assert (flat.decay.kind, flat.decay.at) == ("constant", ())


def test_a_workload_of_ones_own_replaces_the_one_of_the_file() -> None:
    own = Workload(
        name="mine", data=lambda: None, lr=DIGITS.lr, budget="7ep", settings=DIGITS.settings
    )
    text = 'name = "d"\nbatch_sizes = [32]\nseeds = 1\n[arms.none]\n'
    study = parse_study(text, workload=own)
    assert (study.workload, study.data, study.budget) == ("mine", "mine-data", "7ep")
    assert parse_study('workload = "article"\n' + text, workload=own) == study
    with pytest.raises(UsageError, match="brings its own data"):
        parse_study('data = "digits"\n' + text, workload=own)


# --- recipes


def test_every_recipe_is_a_valid_study_with_a_description() -> None:
    assert set(recipe_names()) >= {"article", "article-as-coded", "article-semantics", "digits"}
    for name in recipe_names():
        study = load_study(name)
        assert study.name == name
        assert study.description


def test_the_article_is_the_workload_with_every_setting_written_out() -> None:
    study = load_study("article")
    assert study.settings == ARTICLE.settings == Settings()
    assert (study.lr, study.decay, study.budget) == (ARTICLE.lr, ARTICLE.decay, ARTICLE.budget)
    assert study.batch_sizes == (128, 256, 512, 1024, 2048, 4096, 8192)
    data = tomllib.loads(recipe_text("article"))
    first = {f.name for f in dataclasses.fields(Settings) if "added" not in f.metadata}
    assert data["settings"].keys() == first
    for name in ("model", "batch_norm", "optimizer"):
        fields = dataclasses.fields(getattr(Settings(), name))
        first = {f.name for f in fields if "added" not in f.metadata}
        assert data["settings"][name].keys() == first


def test_article_variants_differ_from_it_as_they_say() -> None:
    article, coded = load_study("article"), load_study("article-as-coded")
    assert coded.settings.augmentation == "as-coded"
    assert coded.arms == article.arms
    semantics = load_study("article-semantics")
    base, *others = semantics.arms
    assert (base.name, base.settings) == ("article", ())
    assert all(arm.techniques == base.techniques and arm.settings for arm in others)
    assert base.techniques == article.arms[1].techniques
    changed = {name for arm in others for name, _ in arm.settings}
    assert changed >= {
        "batch_norm.group", "batch_norm.running", "batch_norm.momentum", "optimizer.form",
        "loss", "model.init", "augmentation", "remainder", "precision",
    }  # fmt: skip
    assert article.settings == semantics.settings


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'digit'. Did you mean 'digits'\?"):
        recipe_text("digit")


# --- lines

TRICKY = '''\
# a = 1
[settings] # [not.a.table]
loss = """
a = 1
[b]
""" # end
"quoted key" = 'x = "y"'
list = [ # first
  1, # ]
  [2,
   3], { k = 4 },
]
[a."b.c"]
d.e = { f = "}", g = [ "]", """x"""", \'\'\'\'\'\' ] }

[[t]]
x = 1
[[t]]
x = 2
'''


def paths(value: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [prefix] if prefix else []
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        found += paths(inner, (*prefix, key))
    return found


def test_every_key_of_a_tricky_file_has_its_line() -> None:
    lines = parse(TRICKY, "t").lines
    assert set(paths(tomllib.loads(TRICKY))) == set(lines)
    assert lines[("settings", "loss")] == 3
    assert lines[("settings", "quoted key")] == 7
    assert lines[("settings", "list", 0)] == 9
    assert lines[("settings", "list", 1, 1)] == 11
    assert lines[("settings", "list", 2, "k")] == 11
    assert lines[("a", "b.c", "d", "e", "g", 1)] == 14
    assert lines[("t", 1, "x")] == 19


def test_every_key_of_the_recipes_has_its_line() -> None:
    for name in recipe_names():
        text = recipe_text(name)
        lines = parse(text, name).lines
        for path in paths(tomllib.loads(text)):
            last = next(p for p in reversed(path) if isinstance(p, str))
            at = lines[path]
            assert last in "".join(text.split("\n")[max(at - 12, 0) : at])
            if path[-1] == last:
                assert last in text.split("\n")[at - 1]


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
values = st.one_of(st.booleans(), st.integers(-9, 9), texts)


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(f"\\U{ord(c):08x}" if not c.isalnum() else c for c in value)
        return f'"{escaped}"'
    return str(value)


@given(st.lists(st.tuples(texts, values), unique_by=lambda pair: pair[0], max_size=8))
def test_law_the_line_of_a_key_is_the_line_it_was_written_on(
    pairs: list[tuple[str, object]],
) -> None:
    text = "".join(f"\n{written(key)} = {written(value)} # {i}" for i, (key, value) in
                   enumerate(pairs))  # fmt: skip
    document = parse(text, "t")
    assert document.data == dict(pairs)
    assert [document.lines[(key,)] for key, _ in pairs] == [i + 2 for i in range(len(pairs))]


@given(st.text(max_size=60))
def test_law_any_text_is_a_study_or_a_usage_error(text: str) -> None:
    try:
        assert isinstance(parse_study(text), StudySpec)
    except UsageError as error:
        assert all(line.isprintable() for line in str(error).splitlines())


@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_law_any_override_is_a_study_or_a_usage_error(key: str, value: str) -> None:
    try:
        assert isinstance(parse_study(GOOD, overrides=[f"{key}={value}"]), StudySpec)
    except UsageError as error:
        assert all(line.isprintable() for line in str(error).splitlines())
