"""What status and report say of trials that a run has left for the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_runs import MARK, run, study_of
from typer.testing import CliRunner

from batchcliff import api
from batchcliff.cli import app
from batchcliff.standing import suspects_text
from batchcliff.study.plan import Planned
from batchcliff.study.retries import MAX_DEATHS
from batchcliff.study.store import Store

pytestmark = pytest.mark.usefixtures("fake_workers")

STUDY = study_of(seeds=3, batch_sizes=(8, 16))
SAID = (
    "1 of the missing trials is a suspect (none, batch 16, seed 2): several attempts in a row "
    "died and nothing says why. The next run tries it alone and before all others."
)


@pytest.fixture
def parked(tmp_path: Path) -> Path:
    """A study of which two trials are missing: a suspect, and one that nobody has tried since
    its record was lost."""
    folder = tmp_path / "s"
    run(STUDY, folder)
    with Store.open(folder) as store:
        of_size = {p.batch_size: p.trial_id for p in store.planned() if p.seed == 2}
        lost, victim = of_size[8], of_size[16]
        (folder / "results" / f"{victim}.json").unlink()
        for _ in range(MAX_DEATHS):
            store.claim_attempt(victim)
    assert run(STUDY, folder).exit_code == 75
    (folder / "results" / f"{lost}.json").unlink()
    return folder


def screen(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_status_tells_a_suspect_from_what_nobody_has_tried(parked: Path) -> None:
    """In words and as plain values; it is one of the missing, and counts once."""
    status = api.status(parked)
    assert {c.batch_size: (c.counts["missing"], c.suspects) for c in status.cells} == {
        8: (1, 0),
        16: (1, 1),
    }
    assert status.counts == dict.fromkeys(status.counts, 0) | {"ok": 4, "missing": 2}
    lines = screen("status", str(parked)).splitlines()
    assert SAID in lines
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in lines}
    assert rows["none", "8"][:3] == ["3", "2", "1"] and "suspect" not in rows["none", "8"]
    assert rows["none", "16"][:5] == ["3", "2", "1", "(1", "suspect)"]
    plain = json.loads(screen("status", str(parked), "--json"))
    assert [cell["suspects"] for cell in plain["cells"]] == [0, 1]
    assert [(one["arm"], one["seed"]) for one in plain["suspects"]] == [("none", 2)]


def test_a_report_counts_it_as_missing_and_says_what_it_is(
    parked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MARK)  # what draws is kept for the next report, and is no worker
    written = api.report(parked)
    summary = json.loads((written.page.parent / "summary.json").read_text(encoding="utf-8"))
    assert summary["counts"] == {"ok": 4, "missing": 2}
    assert SAID in summary["warnings"]
    for name in ("index.html", "results.md"):
        assert SAID in (written.page.parent / name).read_text(encoding="utf-8")


def test_control_once_it_has_run_nothing_is_said(parked: Path) -> None:
    assert run(STUDY, parked).exit_code == 0
    assert api.status(parked).suspects == ()
    assert "suspect" not in screen("status", str(parked))


def test_many_are_named_as_far_as_a_line_goes() -> None:
    """And what they are named cannot act on a terminal."""
    many = [Planned("a\x1b[2J", 8, seed, "0" * 20) for seed in range(8)]
    text = suspects_text(many)
    assert text.startswith("8 of the missing trials are suspects (") and "\x1b" not in text
    assert "seed 5; and 2 more): several" in text and "tries each alone" in text
