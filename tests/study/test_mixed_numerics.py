"""F28: a study that goes on under another instruction set, which changes bits."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from study_runs import driver, slowly, table

from batchcliff import api
from batchcliff.record import Provenance, TrialRecord
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.store import Store
from batchcliff.training.precision import ISA_LIMITS

OTHER = {"ATEN_CPU_CAPABILITY": "default"}  # no vector instructions
LIMITED = {"ONEDNN_MAX_CPU_ISA": "sse41"}  # oneDNN's convolutions alone
HERE = torch.backends.cpu.get_cpu_capability()

pytestmark = pytest.mark.skipif(
    HERE == "DEFAULT" or not {"ATEN_CPU_CAPABILITY", *ISA_LIMITS}.isdisjoint(os.environ),
    reason="this machine has one instruction set only: mixed numerics NOT TESTED",
)
limits_onednn = pytest.mark.skipif(
    not HERE.startswith("AVX"), reason="SSE4.1 is of other processors: NOT TESTED"
)


def command(folder: Path, *more: str) -> list[str]:
    """Two trials of the digits, in one stack and long enough to be met."""
    words = ["run", "digits", "--out", str(folder), "--budget", "24ep", "--batch-sizes", "64"]
    words += ["--seeds", "1", "--workers", "1", "--device", "cpu", "--json"]
    return [sys.executable, "-m", "batchcliff", *words, *more]


def ran(folder: Path, *more: str, **environment: str) -> list[str]:
    """What a whole run says in notes."""
    output = folder.with_suffix(".out")
    with driver(command(folder, *more), output, **environment) as one:
        assert one.wait() == 0, one.errors()
        return [event["text"] for event in one.events("note")]


def provenances(folder: Path) -> list[Provenance]:
    with Store.open(folder) as store:
        return [r.provenance for r in store.records().values() if r.provenance is not None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs that nobody disturbed, one under each instruction set."""
    folder = tmp_path_factory.mktemp("whole")
    assert ran(folder / "here") == ran(folder / "other", **OTHER) == []
    assert table(folder / "here") != table(folder / "other"), "the control: bits do change"
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was ended in the middle of its two trials, which are saved."""
    folder = tmp_path_factory.mktemp("begun") / "s"
    with driver(slowly(command(folder)), folder.with_suffix(".out")) as one:
        one.until("advanced", 2)
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 143, one.errors()
    assert len(list((folder / "ckpt").iterdir())) == 1
    return folder


def test_a_trial_that_was_half_done_begins_anew(
    begun: Path, tmp_path: Path, whole: Path
) -> None:
    """Its bits are those of a run that was under the other numerics from its beginning."""
    folder = Path(shutil.copytree(begun, tmp_path / "s"))
    (note,) = ran(folder, **OTHER)
    assert (
        f"not used: made under other numerics: cpu_capability '{HERE}', now 'DEFAULT'" in note
    )
    assert {(p.resumed_from, p.mixed) for p in provenances(folder)} == {(0, ())}
    assert table(folder) == table(whole / "other")


def test_control_under_the_same_numerics_it_goes_on(
    begun: Path, tmp_path: Path, whole: Path
) -> None:
    """Also where mixing is allowed: there is nothing to mix, and the record says nothing."""
    folder = Path(shutil.copytree(begun, tmp_path / "s"))
    (note,) = ran(folder, "--allow-mixed-numerics")
    assert "goes on from update" in note and "numerics" not in note
    (where, again) = provenances(folder)
    assert where.resumed_from == again.resumed_from > 0 and where.mixed == again.mixed == ()
    assert table(folder) == table(whole / "here")


@limits_onednn
def test_a_limit_for_onednn_is_other_numerics(begun: Path, tmp_path: Path, whole: Path) -> None:
    """torch's own instruction set stays what it was, and still bits change."""
    folder = Path(shutil.copytree(begun, tmp_path / "s"))
    (note,) = ran(folder, **LIMITED)
    assert "not used: made under other numerics: onednn_isa 'no limit', now 'SSE41'" in note
    assert {p.resumed_from for p in provenances(folder)} == {0}
    assert table(folder) not in [table(whole / name) for name in ("here", "other")]
    there, here = (dict(provenances(place)[0].numerics) for place in (whole / "here", folder))
    assert here == there | {"onednn_isa": "SSE41"}


def test_mixing_is_allowed_if_somebody_says_so_and_then_it_is_said(
    begun: Path, tmp_path: Path, whole: Path
) -> None:
    """On from the checkpoint, then interrupted again and on without the word: anew, since
    what was mixed stays so. With it, a record of neither bits, flagged in the report."""
    folder = Path(shutil.copytree(begun, tmp_path / "s"))
    mixing = slowly(command(folder, "--allow-mixed-numerics"))
    with driver(mixing, tmp_path / "1", **OTHER) as one:
        one.until("advanced", 2)
        one.process.send_signal(signal.SIGTERM)
        assert one.wait() == 143, one.errors()
        (note,) = [e["text"] for e in one.events("note") if "goes on" in e["text"]]
    assert f"reached under other numerics (cpu_capability {HERE}): the record says so" in note
    strict = Path(shutil.copytree(folder, tmp_path / "strict"))
    (note,) = ran(strict, **OTHER)
    assert "not used: made in parts, under several numerics" in note
    assert table(strict) == table(whole / "other")
    (note,) = ran(folder, "--allow-mixed-numerics", **OTHER)
    assert {p.mixed for p in provenances(folder)} == {(("cpu_capability", HERE),)}
    assert all(dict(p.numerics)["cpu_capability"] == "DEFAULT" for p in provenances(folder))
    assert table(folder) not in [table(whole / name) for name in ("here", "other")]
    page = api.report(folder, out=tmp_path / "report").page.read_text(encoding="utf-8")
    assert "trials of one cell ran under different numerics" in page
    assert page.count("mixed-numerics") > 2, "at the cells, and where it is explained"


def test_new_trials_run_with_a_warning(whole: Path, tmp_path: Path) -> None:
    """One of two records is there: the other is made under other numerics, and that is said
    when it begins."""
    folder = Path(shutil.copytree(whole / "here", tmp_path / "s"))
    next((folder / "results").iterdir()).unlink()
    (note,) = ran(folder, **OTHER)
    assert f"(cpu_capability '{HERE}' there, 'DEFAULT' now): the report flags" in note
    assert note.startswith("new trials run under other numerics than the records that are")
    assert len({p.fingerprint for p in provenances(folder)}) == 2


def test_news_of_a_fingerprint_are_told_once(record: TrialRecord) -> None:
    """And not at all where there are no records, or where one has it."""
    here = record.provenance
    assert here is not None
    pairs = [*here.fingerprint, ("batchcliff", "9")]
    there = [(name, "x" if name == "device" else value) for name, value in pairs]
    assert Fingerprints([]).news(there) == []
    prints = Fingerprints([None, here, here])
    assert prints.news(pairs) == []
    (told,) = prints.news(there)
    assert "(device " in told and "; " not in told
    assert prints.news(there) == []
    assert Fingerprints([here, dataclasses.replace(here, device="x")]).news(there) == []


@pytest.fixture
def record() -> TrialRecord:
    import fake_peer as fake

    return fake.train(fake.specs_of(fake.study_of(1))[0])
