"""`batchcliff import`: the same estimates, a folder marked as what it is, nothing made up."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batchcliff import api
from batchcliff.cli import app
from batchcliff.errors import DataError, UsageError
from batchcliff.importing import import_, report_imported
from batchcliff.published import load as load_published
from batchcliff.published.imported import describe, load
from batchcliff.published.table import read_table
from batchcliff.record import Ledger, Outcome, TrialRecord
from batchcliff.report.imported import cells_of_table, imported_content
from batchcliff.report.tables import csv_text, trial_rows
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.stats.summary import StudySummary, summarize

HEAD = "arm,batch_size,seed,accuracy,outcome\n"
GOOD = HEAD + "".join(
    f"{arm},{size},{seed},{value - seed / 1000},\n"
    for arm, values in {"none": (0.9, 0.9, 0.7, 0.1), "warmup": (0.9, 0.9, 0.9, 0.3)}.items()
    for size, value in zip((64, 128, 256, 512), values, strict=True)
    for seed in range(4)
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# the same estimates --------------------------------------------------------------------------


def records() -> list[TrialRecord]:
    """Two arms with collapsed, diverged and lost trials; accuracies with all their digits."""
    ledger = Ledger(
        num_train=1, num_test=1, num_classes=10, updates=1, updates_per_epoch=1.0, epochs=1.0,
        examples=1, dropped_per_epoch=0, batch_norm_group=0, batch_norm_horizon_epochs=0.0,
        accumulation=1, warmup_updates=0, lr_provenance="",
    )  # fmt: skip
    draw, found = random.Random(7), []
    for arm, cliff in (("none", 300.0), ("=warmup", 700.0)):
        for size in (64, 128, 256, 512, 1024):
            for seed in range(5):
                spec = TrialSpec(
                    workload="digits", data="digits", data_digest="0" * 64, arm=arm,
                    techniques=(("warmup", (("duration", "1ep"),)),) if arm != "none" else (),
                    settings=Settings(), batch_size=size, lr=0.1, decay=Decay(kind="constant"),
                    budget="1ep", seed=seed,
                )  # fmt: skip
                ended = Outcome.OK
                if size > cliff * draw.uniform(0.7, 1.4):
                    ended = draw.choice([Outcome.DIVERGED, Outcome.OK])
                    accuracy = draw.uniform(0.1, 0.3)
                else:
                    accuracy = 0.9 - 0.1 * size / cliff / 4 + draw.gauss(0, 0.004)
                if draw.random() < 0.1:
                    ended = Outcome.OOM
                ok = ended is Outcome.OK
                found.append(
                    TrialRecord(
                        spec=spec,
                        outcome=ended,
                        accuracy=accuracy if ok else None,
                        ledger=ledger,
                        reason="" if ok else 'a, "b"\nc',
                    )
                )
    return found


def estimates(summary: StudySummary) -> dict[str, object]:
    """All that is estimated, by arm."""
    left = dataclasses.replace(summary, arms=(), notes=(), accuracy="")
    return {"": left, **{arm.arm: arm for arm in summary.arms}}


def test_export_and_import_give_the_same_estimates_to_the_bit() -> None:
    run = records()
    assert {r.outcome for r in run} == {Outcome.OK, Outcome.DIVERGED, Outcome.OOM}
    ours = summarize(run, [r.spec for r in run], "none", 0.03)
    data = csv_text(trial_rows(run)).encode()
    imported, table = describe(
        data,
        name="t",
        source="t.csv",
        unit="share",
        num_classes=10,
        reference_arm=None,
        tolerance=0.03,
    )
    theirs = imported_content(imported, table).summary
    assert estimates(theirs) == estimates(ours)
    assert ours.arm("=warmup").tolerance.has_interval
    assert ours.arm("=warmup").collapse_shift is not None
    # The control: one digit of one accuracy.
    value = next(r.accuracy for r in run if r.accuracy is not None)
    other = data.replace(str(value).encode(), str(value + 1e-9).encode(), 1)
    changed, table = describe(
        other, name="t", source="t", unit="share", num_classes=10, reference_arm=None,
        tolerance=0.03,
    )  # fmt: skip
    assert estimates(imported_content(changed, table).summary) != estimates(ours)


def test_cells_count_every_outcome_of_the_table() -> None:
    text = HEAD + "n,64,0,0.9,\nn,64,1,,diverged\nn,64,2,,oom\nn,64,5,,timeout\nn,32,0,0.9,ok\n"
    small, cell = cells_of_table(read_table(text.encode(), "share"))
    assert (small.batch_size, small.planned) == (32, 1)
    assert (cell.ok, cell.diverged, cell.oom, cell.timeout, cell.planned) == (1, 1, 1, 1, 4)
    assert cell.diverged_seeds == (1,)


# folders and reports -------------------------------------------------------------------------


def written(name: str = "theirs", text: str = GOOD) -> Path:
    Path(f"{name}.csv").write_text(text)
    return Path(f"{name}.csv")


def test_an_import_is_a_folder_that_says_what_it_is(here: Path) -> None:
    found = import_(written(), classes=10)
    assert found.folder == Path("studies/theirs")
    assert {p.name for p in found.folder.iterdir()} == {"IMPORT.json", "trials.csv", "report"}
    assert (found.folder / "trials.csv").read_text() == GOOD
    head = json.loads((found.folder / "IMPORT.json").read_text())
    assert head["kind"] == "imported"
    assert head["import"]["digest"] == hashlib.sha256(GOOD.encode()).hexdigest()
    page = found.page.read_text()
    for text in (page, *found.marks[:1], (found.page.parent / "results.md").read_text()):
        assert "not run here" in text
    assert "no ledger" not in page and "Environment" not in page
    summary = json.loads((found.page.parent / "summary.json").read_text())
    assert summary["kind"] == "imported"
    none = summary["summary"]["arms"][0]
    assert none["arm"] == "none" and none["tolerance"]["low"] < none["tolerance"]["value"]
    assert any("falls 2 points below the plateau" in line for line in found.headlines)
    again = api.report("theirs")
    assert again.page == found.page and "not run here" in again.headlines[-1]


def test_the_same_import_twice_writes_the_same_bytes(here: Path) -> None:
    folder = import_(written(), classes=10).folder

    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    before = content()
    import_(written(), classes=10)
    assert content() == before and len(before) == 7
    for changes in ({"classes": 12}, {"tolerance": 0.03}, {"reference_arm": "warmup"}):
        with pytest.raises(UsageError, match="holds another import"):
            import_(written(), **({"classes": 10} | changes))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="holds another import"):
        import_(written(text=GOOD.replace("0.7", "0.71")), classes=10)
    assert content() == before


def test_a_changed_table_is_noticed(here: Path) -> None:
    folder = import_(written(), classes=10).folder
    (folder / "trials.csv").write_text(GOOD.replace("0.7", "0.8"))
    with pytest.raises(DataError, match="is not the table that was imported"):
        api.report(folder)
    (folder / "trials.csv").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        report_imported(folder)
    for damaged in (b"", b"{", b'{"schema": 1}', b'{"schema": 1, "import": {"name": 3}}'):
        (folder / "IMPORT.json").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            load(folder)
    (folder / "IMPORT.json").write_bytes(b'{"schema": 2}')
    with pytest.raises(UsageError, match="another version"):
        load(folder)


def test_a_study_is_not_overwritten_and_an_import_is_no_study(here: Path) -> None:
    (here / "studies" / "theirs").mkdir(parents=True)
    (here / "studies" / "theirs" / "STUDY.json").write_text("{}")
    with pytest.raises(UsageError, match="is not empty"):
        import_(written(), classes=10)
    import_(written(), classes=10, out="mine")
    for verb in (api.status, api.export):
        with pytest.raises(UsageError, match="is an imported table, not a study"):
            verb("mine")
    with pytest.raises(UsageError, match="no study and not empty"):
        api.run("noisy-quadratic", out="mine", device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, "--classes is missing"),
        ({"classes": 1}, "accuracy needs at least 2"),
        ({"tolerance": 2.0}, "write a share of accuracy such as 0.02"),
        ({"reference_arm": "warmpu"}, "has no arm 'warmpu'. Did you mean 'warmup'?"),
        ({"unit": "percent"}, "Say --unit share"),
    ],
)
def test_wrong_options_write_nothing(
    here: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        import_(written(), **({"classes": 10} | changes))  # type: ignore[arg-type]
    assert not Path("studies").exists()


def test_without_an_arm_called_none_the_reference_is_asked_for(here: Path) -> None:
    text = GOOD.replace("none,", "plain,")
    with pytest.raises(UsageError, match=r"--reference 'plain'\. Arms: plain, warmup"):
        import_(written(text=text), classes=10)
    assert import_(written(text=text), classes=10, reference_arm="plain").headlines


def test_one_trial_a_cell_is_a_bracket_without_interval(here: Path) -> None:
    found = import_("article")
    assert found.folder == Path("studies/article-published")
    summary = json.loads((found.page.parent / "summary.json").read_text())["summary"]
    none = next(arm for arm in summary["arms"] if arm["arm"] == "none")
    assert (none["tolerance"]["bracket"], none["tolerance"]["low"]) == ([512, 1024], None)
    assert none["collapse"]["bracket"] == [2048, 4096]
    assert summary["chance"] == 0.1
    assert any("One seed a cell" in line for line in found.headlines)
    assert any("No column seed" in mark for mark in found.marks)
    _, table = load(found.folder)
    article = load_published("article")
    assert [(r.arm, r.batch_size, r.accuracy) for r in table.rows] == [
        (arm.name, p.batch_size, p.accuracy) for arm in article.arms for p in arm.points
    ]


def test_a_published_mean_over_runs_gets_no_interval_and_says_why(here: Path) -> None:
    found = import_("goyal", tolerance=0.005)
    assert any("the mean of 5 runs and stands as one" in mark for mark in found.marks)
    assert any("between 256 and 8,192" in line for line in found.headlines)
    with pytest.raises(UsageError, match="leave --unit and --classes out"):
        import_("goyal", classes=1000)
    with pytest.raises(UsageError, match="Did you mean 'goyal'"):
        import_("goya")
    with pytest.raises(UsageError, match="cannot be read"):
        import_("nowhere.csv", classes=10)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "-", "--", "a\nb", "x" * 5000, "../../etc", "\udcff", "\x1b]0;x\x07"]
)
def test_a_name_that_is_none_is_refused_in_one_line(here: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["import", name])
    assert result.exit_code == 2
    assert "Traceback" not in result.output and "\x1b" not in result.output
    assert list(here.iterdir()) == []


def test_nothing_in_a_table_runs_in_the_page(here: Path) -> None:
    bad = "<script>alert(1)</script>"
    text = GOOD.replace("warmup,", f'"{bad}",').replace("outcome", f"outcome,{bad}", 1)
    text = re.sub(r",\n", ",,\n", text)
    found = import_(written(text=text), classes=10)
    page = found.page.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and "default-src &#39;none&#39;; script-src ;" in policy[1]
    picture = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert picture is not None
    assert base64.b64decode(picture[1]) == (found.page.parent / "accuracy.svg").read_bytes()
    assert page.count(" src=") == 1 and "http" not in page.split("</style>")[1]


def types(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batchcliff", *words],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_the_round_trip_on_the_command_line(here: Path) -> None:
    """Run, export, import: the two reports' estimates are the same JSON."""
    (here / "tiny.toml").write_text(
        'name = "tiny"\nworkload = "noisy-quadratic"\nbatch_sizes = [256, 362, 512]\n'
        'seeds = 3\nbudget = "2ep"\n[arms.none]\n'
    )
    assert types(here, "run", "tiny.toml", "--device", "cpu").returncode == 0
    exported = types(here, "export", "tiny", "--format", "csv").stdout
    (here / "theirs.csv").write_text(exported, newline="")
    said = types(here, "import", "theirs.csv", "--classes", "2", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["folder"] == "studies/theirs"

    def arms(name: str) -> object:
        place = here / "studies" / name / "report" / "summary.json"
        return json.loads(place.read_text())["summary"]["arms"]

    assert arms("theirs") == arms("tiny")
    refused = types(here, "import", "theirs.csv")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("--classes is missing")
