"""Study files: a TOML text, checked to the last key, as a `StudySpec`.

Nothing here imports torch or writes a file, so a bad study file is refused in well under a
second. pydantic is imported in `studyfile.schema` and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import StudySpec
from batchcliff.study.printable import printable
from batchcliff.studyfile.build import build
from batchcliff.studyfile.document import parse, read_text
from batchcliff.workloads import Workload

__all__ = ["load_study", "parse_study", "recipe_names", "recipe_text"]


@functools.cache
def recipe_names() -> tuple[str, ...]:
    """The built-in study files, sorted."""
    entries = resources.files("batchcliff.recipes").iterdir()
    return tuple(sorted(e.name[:-5] for e in entries if e.name.endswith(".toml")))


def recipe_text(name: str) -> str:
    """The text of a built-in study file. UsageError with the nearest known name."""
    if name not in recipe_names():
        raise UsageError(f"unknown recipe {printable(name)!r}.{_recipes(name)}")
    recipe = resources.files("batchcliff.recipes").joinpath(f"{name}.toml")
    return recipe.read_text(encoding="utf-8")


def _recipes(name: str) -> str:
    return did_you_mean(printable(name), recipe_names()).replace("Known:", "Recipes:")


def load_study(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    batch_sizes: str | None = None,
    budget: str | None = None,
    workload: Workload | None = None,
) -> StudySpec:
    """The study of a file or a recipe's name.

    overrides: `key=value` texts, dotted keys and TOML values (a bare word is a text), applied
    before validation; seeds ("3" or "0,4"), batch_sizes ("128..8192:x2" or "128,512") and
    budget ("100ep") are short for one each. workload: replaces the one that the file names.
    Raises UsageError, a line for each thing that is wrong, with file, line, key and value.
    """
    text, label = _source(source)
    return parse_study(
        text,
        label=label,
        overrides=overrides,
        seeds=seeds,
        batch_sizes=batch_sizes,
        budget=budget,
        workload=workload,
    )


def _source(source: str | Path) -> tuple[str, str]:
    """The text of a study and the name that messages give it."""
    name = str(source)
    if isinstance(source, str) and name in recipe_names():
        return recipe_text(name), f"{name} (recipe)"
    path = Path(source)
    try:
        exists = "\0" not in name and path.exists()
    except OSError:  # a name longer than the file system takes
        exists = False
    if not exists:
        raise UsageError(f"no study file or recipe {printable(name)!r}.{_recipes(path.stem)}")
    return read_text(path), printable(path)


def parse_study(
    text: str,
    *,
    label: str = "study file",
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    batch_sizes: str | None = None,
    budget: str | None = None,
    workload: Workload | None = None,
) -> StudySpec:
    """As `load_study`, from the text of a study file; `label` names it in messages."""
    from batchcliff.data.sources import DATASETS

    document = parse(text, label, overrides)
    if seeds is not None:
        document.put(("seeds",), _numbers(seeds), f"--seeds {seeds}")
    if batch_sizes is not None:
        document.put(("batch_sizes",), batch_sizes, f"--batch-sizes {batch_sizes}")
    if budget is not None:
        targeted = isinstance(document.data.get("budget"), dict)
        place = ("budget", "at_most") if targeted else ("budget",)
        document.put(place, budget, f"--budget {budget}")
    return build(document, workload, DATASETS)


def _numbers(text: str) -> object:
    """`3` as a number, `0,4` and `0,` as a list; anything else is left for validation."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and parts[-1] == "":
        parts.pop()
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        return text
    return int(parts[0]) if "," not in text else [int(part) for part in parts]
