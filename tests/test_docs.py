"""What README and docs say is true of this tree: figures, study file, workload."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import write_figures

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
FOLDERS = (ROOT / "docs").rglob("*.md"), (ROOT / "benchmarks").glob("*.md")
PAGES = sorted([*ROOT.glob("*.md"), *itertools.chain(*FOLDERS)])


def block(language: str, holds: str) -> str:
    """The first fenced block of `language` in README that contains `holds`."""
    for match in re.finditer(rf"```{language}\n(.*?)```", README, re.DOTALL):
        if holds in match[1]:
            return match[1]
    raise AssertionError(f"README has no {language} block with {holds!r}")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    # Read-only: what is committed under results/ stays as it is.
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


def test_every_figure_is_what_the_records_say() -> None:
    done = run("docs/write_figures.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    """The check above can fail: one digit of one table is changed in a copy."""
    text = write_figures.rewritten(README)
    assert text == README
    wrong = re.sub(r"(\| 2,048 \| \d\d)\.\d", r"\1.x", README, count=1)
    assert wrong != README
    assert write_figures.rewritten(wrong) == README


def test_a_table_of_seeds_gives_each_trial_its_own_place(tmp_path: Path) -> None:
    """Against the records as files; one taken away leaves its place, not its neighbour's."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "results" / "digits", folder)
    files = {
        (body["spec"]["arm"], body["spec"]["batch_size"], body["spec"]["seed"]): (file, body)
        for file in (folder / "results").glob("*.json")
        for body in [json.loads(file.read_text())["body"]]
    }
    files.pop(("warmup", 256, 3))[0].unlink()
    rows = {
        cells[0]: cells[1:]
        for line in write_figures.seeds_table(folder).splitlines()
        if (cells := [cell.strip() for cell in line.strip("| ").split("|")])[0][:1].isdigit()
    }
    assert set(rows) == {"64", "128", "256", "512"}
    for column, arm in enumerate(("none", "warmup")):
        for size in rows:
            for seed, cell in enumerate(rows[size][column].split(", ")):
                found = files.pop((arm, int(size), seed), None)
                want = "missing" if found is None else f"{100 * found[1]['accuracy']:.2f}"
                assert cell == want, (arm, size, seed)
    assert not files


def test_the_study_file_of_the_readme_is_planned(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(block("toml", 'name = "my-study"'))
    done = run("-m", "batchcliff", "plan", "my.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "63 trials" in done.stdout  # 3 arms x 7 batch sizes x 3 seeds
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.toml"], "a plan writes nothing"


def test_the_workload_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block("python", "def workload"))
    study = 'name = "own"\nworkload = "mine"\nbatch_sizes = [64]\nseeds = 1\nbudget = "1ep"\n'
    (tmp_path / "my.toml").write_text(f"{study}[arms.none]\n")
    done = run(
        "-m", "batchcliff", "run", "my.toml", "--workload", "mine:workload", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "1 ok" in done.stdout + done.stderr


def targets(page: Path) -> list[tuple[Path, str]]:
    """What `page` links to in the repository: the file or folder, and the heading or ""."""
    return [
        ((page.parent / place).resolve() if place else page, heading)
        for place, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text())
        if not re.match(r"https?://", place)
    ]


def headings(page: Path) -> set[str]:
    """The anchors that a page has, as GitHub makes them of its headings."""
    plain = (
        re.sub(r"[^\w\- ]", "", h.lower())
        for h in re.findall(r"(?m)^#+ (.*)$", page.read_text())
    )
    return {heading.replace(" ", "-") for heading in plain}


def reached(page: Path) -> set[Path]:
    """The pages that a reader comes to who begins at `page`."""
    found, todo = set(), [page]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += [place for place, _ in targets(one) if place.suffix == ".md"]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for place, heading in targets(page):
        assert place.exists(), place
        assert not heading or heading in headings(place), f"{place}#{heading}"


def test_every_page_is_reached_from_the_readme() -> None:
    assert set(PAGES) <= reached(ROOT / "README.md")


def without_words(readme: str) -> tuple[list[str], set[Path], list[str]]:
    """What of a README is in no language: code without comments, links, tables of figures."""
    page = ROOT / readme
    text = page.read_text()
    blocks = [re.sub(r" *#.*", "", b) for b in re.findall(r"(?s)```\w+\n(.*?)```", text)]
    links = {place for place, _ in targets(page) if not place.name.startswith("README")}
    return blocks, links, re.findall(r"(?s)<!-- figures: .*?<!-- /figures -->", text)


def test_the_readme_in_japanese_is_the_same() -> None:
    assert without_words("README.ja.md") == without_words("README.md")


def test_control_a_page_that_nothing_links_to_and_a_missing_heading(tmp_path: Path) -> None:
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text("[second](second.md#which-of-two) and [far](https://example.org/x.md#y)")
    second.write_text("# Which of `two`?\n[back](first.md)")
    (tmp_path / "third.md").write_text("[first](first.md)")
    assert reached(first) == {first, second}
    assert targets(first) == [(second, "which-of-two")]
    assert headings(second) == {"which-of-two"}
