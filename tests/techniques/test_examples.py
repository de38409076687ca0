"""What messages and the README say of how a technique is written is a technique."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from batchcliff.errors import UsageError
from batchcliff.techniques import TECHNIQUES, technique
from batchcliff.techniques.examples import EXAMPLES, written

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_technique_has_an_example_and_nothing_else_has() -> None:
    assert EXAMPLES.keys() == TECHNIQUES.keys()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_example_is_one_and_gives_every_option_that_has_no_default(name: str) -> None:
    [(key, options)] = tomllib.loads(written(name)).items()
    assert key == name
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    assert isinstance(technique(name, lists), TECHNIQUES[name])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_an_option_that_is_missing_is_shown_by_example(name: str) -> None:
    try:
        technique(name, {})
    except UsageError as error:
        assert str(error).endswith(f"is missing. Write e.g. {written(name)}.")
    else:
        assert name not in ("lars", "warmup", "ghost-batch-norm")


def test_the_readme_shows_each_as_the_messages_do() -> None:
    block = re.search(r"```toml\n(warmup = .*?)```", README, re.DOTALL)
    assert block
    lines = [line.partition("#")[0].strip() for line in block[1].splitlines()]
    assert [line for line in lines if line] == [written(name) for name in EXAMPLES]
