"""`batchcliff diagnose` on committed records and on a fresh study with probes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batchcliff import api
from batchcliff.cli import app
from batchcliff.errors import UsageError
from batchcliff.stats.diagnose import CANNOT_TELL, CAUSES, INSTABILITY

RESULTS = Path(__file__).parents[1] / "results"

STUDY = """\
name = "probed"
workload = "noisy-quadratic"
batch_sizes = [64, 256, 512]
seeds = 1
[settings]
probes = ["first-losses", "noise-scale", "sharpness", "update-ratio"]
[arms.none]
"""


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["diagnose", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_article_without_warmup_was_unstable_early() -> None:
    found = api.diagnose(RESULTS / "article-h100-jpeg").diagnosis
    by_cell = {(c.arm, c.batch_size): c for c in found.cells}
    assert {by_cell["none", size].cause for size in (1024, 2048, 4096)} == {INSTABILITY}
    assert by_cell["warmup", 8192].cause == INSTABILITY  # dead
    assert by_cell["none", 8192].cause == CANNOT_TELL
    assert {f.cause for f in by_cell["none", 1024].findings} == set(CAUSES)


def test_what_is_printed_and_its_json() -> None:
    text = said(str(RESULTS / "digits"))
    assert "none at 256: 45.1%, 52.4 points under the plateau: early instability" in text
    assert "share of the fall that warmup recovers at the same batch size: 0.977" in text
    assert "noise scale" not in text  # nothing was probed
    plain = json.loads(said(str(RESULTS / "digits"), "--json"))
    assert plain["noise"] == [] and len(plain["diagnosis"]["cells"]) == 3


def test_from_a_study_file_to_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "probed.toml").write_text(STUDY)
    summary = api.run("probed.toml", device="cpu", workers=1)
    assert summary.exit_code == 0
    text = said("probed")
    assert "none at 512" in text and "gradient noise scale" in text
    (row,) = api.diagnose("probed").noise
    assert row.predicted.value is not None and 3 < row.predicted.value < 60
    page = api.report("probed").page
    names = {path.stem for path in page.parent.glob("*.svg")}
    assert {"probe-noise", "probe-sharpness", "probe-losses"} <= names
    html = page.read_text()
    assert "Why accuracy fell" in html and "Gradient noise beside the cliff" in html


def test_no_study_and_an_imported_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no study"):
        api.diagnose(tmp_path / "none")
