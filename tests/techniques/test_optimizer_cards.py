"""What the pages of the optimizer seam say is so: options, defaults, files, code."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study
from batchcliff.techniques import TECHNIQUES

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "docs/techniques"
NAMES = [
    name
    for name, cls in TECHNIQUES.items()
    if cls.seam == "optimizer" and (CARDS / f"{name}.md").exists()
]


def test_the_cards_of_this_seam_are_there() -> None:
    mine = {"gi-adam", "gradient-clipping", "lamb", "larc", "lars", "momentum-correction"}
    assert mine | {"nesterov", "no-decay", "radam", "weight-decay"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_every_option_with_its_default(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    for field in dataclasses.fields(TECHNIQUES[name]):
        row = re.search(rf"^\| `{field.name}` \| ([^|]+) \|", text, re.MULTILINE)
        assert row, field.name
        shown = row[1].strip().strip("`")
        if field.default is dataclasses.MISSING:
            assert shown == "needed"
        elif isinstance(field.default, tuple):
            assert shown == str(list(field.default))
        elif isinstance(field.default, float):
            assert float(shown) == field.default
        elif field.default is not None:
            assert shown.strip('"') == str(field.default)
    for word in (
        "**In a trial.**",
        "**No effect.**",
        "**How others differ.**",
        "**Measured.**",
    ):
        assert word in text


PAGES = [*(CARDS / f"{name}.md" for name in NAMES), ROOT / "docs/optimizers.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_arms_of_a_page_can_be_planned(page: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        head = 'name = "s"\nworkload = "digits"\nbatch_sizes = [64, 128]\nseeds = 1\n'
        study = parse_study(f"{head}[arms.none]\n{block}")
        assert len(trials(study, "")) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target


def test_the_code_of_the_page_on_optimizers_runs() -> None:
    text = (ROOT / "docs/optimizers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = f"{block}\nnetwork(torch.randn(8, 4)).sum().backward()\noptimizer.step()\n"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
