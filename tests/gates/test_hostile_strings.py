"""Strings of strangers on their way to terminals, tables and file names.

The page in a real browser is in tests/report/test_browser.py, with the same payloads.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import visit
from hostile import PAYLOADS, hostile_study
from typer.testing import CliRunner, Result

from batchcliff.cli import app
from batchcliff.errors import UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.report import write_report
from batchcliff.report.tables import csv_text
from batchcliff.study import supervisor
from batchcliff.studyfile import parse_study
from pretended import Trainer

SAFE_NAME = re.compile(r"[A-Za-z0-9._+-]{1,100}")
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def acted_on(text: str) -> list[str]:
    """Characters that a terminal obeys instead of showing: C0, DEL, C1, directions."""
    controls = {chr(c) for c in (*range(32), *range(127, 160))} - {"\n", "\t"}
    text = text.replace("\r\n", "\n")  # as CSV ends its lines
    return [f"U+{ord(c):04X}" for c in text if c in controls or c in BIDI]


def formulas(text: str) -> list[str]:
    """Cells of a CSV file that a spreadsheet would compute."""
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
    return [
        c
        for c in cells
        if c[:1] in ("=", "+", "-", "@", "\t", "\r") and not number.fullmatch(c)
    ]


def study_text(payload: str) -> str:
    quoted = json.dumps(payload, ensure_ascii=True)
    return (
        f'name = "s"\nworkload = "digits"\nbatch_sizes = [32]\nseeds = 1\n'
        f'reference_arm = "none"\n[arms.none]\n[arms.{quoted}.warmup]\nduration = "1ep"\n'
    )


def taken(payload: str) -> bool:
    """Whether a study may have an arm of this name."""
    try:
        parse_study(study_text(payload))
    except UsageError as error:
        assert not acted_on(str(error)), ascii(str(error))
        return False
    return True


TAKEN = [payload for payload in PAYLOADS if taken(payload)]


def test_most_payloads_may_be_names_and_those_that_hide_may_not() -> None:
    assert len(TAKEN) > 30 and len(PAYLOADS) > 60
    assert all(not acted_on(payload) for payload in TAKEN)
    refused = set(PAYLOADS) - set(TAKEN)
    assert any("\x1b" in payload for payload in refused)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert not acted_on(result.output), (arguments, ascii(result.output))
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Every trial fails with a reason that the test sets."""
    trainer = Trainer()
    monkeypatch.setattr(supervisor, "run_study", trainer)
    return trainer


def failed(record: TrialRecord, payload: str) -> TrialRecord:
    assert record.provenance is not None
    provenance = dataclasses.replace(
        record.provenance, device=payload, code=payload, data_source=payload
    )
    return dataclasses.replace(
        record, outcome=Outcome.FAILED, reason=payload, accuracy=None, provenance=provenance
    )


def test_from_study_file_to_terminal_table_and_file_names(
    home: Path, pretending: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every payload that may be a name is one; every payload is a reason of failure."""
    from batchcliff import api

    monkeypatch.setattr(
        api, "report", lambda folder, out=None: api.Report(page=folder, headlines=())
    )
    for number, payload in enumerate(PAYLOADS):
        name = payload if payload in TAKEN else "arm"
        file = home / f"{number}.toml"
        file.write_text(study_text(name), encoding="utf-8")
        pretending.outcome = lambda record, text=payload: failed(record, text)
        folder = str(home / f"study{number}")
        assert call("run", str(file), "--out", folder).exit_code == 3
        assert call("status", folder).exit_code == 0
        if number % 4 == 0:  # their strings go the same ways
            assert call("plan", str(file)).exit_code == 0
            assert call("run", str(file), "--out", f"{folder}-json", "--json").exit_code == 3
            assert call("export", folder, "-f", "md").exit_code == 0
        assert call("export", folder, "-f", "json").exit_code == 0
        table = call("export", folder, "-f", "csv")
        assert table.exit_code == 0
        assert not formulas(table.output), formulas(table.output)
        for path in Path(folder).rglob("*"):
            assert SAFE_NAME.fullmatch(path.name), path


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "§"),
        ("plan", "digits", "--set", "§"),
        ("plan", "digits", "--set", "description=§"),
        ("plan", "digits", "--set", "workload=§"),
        ("plan", "digits", "--budget", "§"),
        ("plan", "digits", "--seeds", "§"),
        ("plan", "digits", "--batch-sizes", "§"),
        ("plan", "digits", "--workload", "§"),
        ("run", "digits", "--device", "§"),
        ("run", "article", "--data", "§"),
        ("status", "§"),
        ("export", "§"),
        ("export", "§", "--format", "§"),
        ("report", "§"),
        ("init", "§"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_every_argument_is_shown_as_text(home: Path, arguments: tuple[str, ...]) -> None:
    for payload in PAYLOADS:
        if payload.startswith("-"):
            continue  # that is an option
        call(*(part.replace("§", payload) for part in arguments))
    assert list(home.iterdir()) == [], "nothing was written"


def test_control_what_terminals_and_spreadsheets_act_on_is_seen() -> None:
    assert (
        acted_on("\x1b[2J") and acted_on("\u202e") and acted_on("\x9b") and not acted_on("é\n")
    )
    assert formulas("a,=1+1\n") and formulas('"@x"\n') and formulas("+x\n")
    assert not formulas("-1.5,+2e-3,'=1\n")
    naive = io.StringIO()
    csv.writer(naive).writerows([[payload] for payload in PAYLOADS])
    assert len(formulas(naive.getvalue())) >= 5
    assert not formulas(csv_text([{"reason": payload} for payload in PAYLOADS]))


# --- what a study's folder may say of its trials --------------------------------------------


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a value, with where it stands."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from texts(getattr(value, f.name), f"{path}.{f.name}")
    elif isinstance(value, tuple):
        for item in value:
            yield from texts(item, path)
    elif isinstance(value, str) and not isinstance(value, enum.Enum):
        yield path, value


def hostile(value: Any, given: dict[str, str], path: str = "") -> Any:
    """The value with a payload for every text but an arm's name; the same at the same place,
    since trials that differ in more than their arms are not compared."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            f.name: hostile(getattr(value, f.name), given, f"{path}.{f.name}")
            for f in dataclasses.fields(value)
            if f.name != "arm"
        }
        return dataclasses.replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(hostile(item, given, path) for item in value)
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return given.setdefault(path, UTF8[len(given) % len(UTF8)])
    return value


UTF8 = [p for p in PAYLOADS if p == p.encode("utf-8", "replace").decode()]  # as ids need it


@pytest.mark.browser
def test_hostile_specs_of_records_run_nothing(tmp_path: Path) -> None:
    """Records that a stranger wrote, every text of their specs a payload, in a real browser:
    no script, no request, no message."""
    study, records, planned, _, _ = hostile_study()
    given: dict[str, str] = {}
    moved, poisoned = {}, []
    for record in records:
        spec = hostile(record.spec, given)
        moved[record.trial_id] = spec.trial_id
        poisoned.append(dataclasses.replace(record, spec=spec))
        assert {text for place, text in texts(spec) if place != ".arm"} <= set(UTF8)
    cells = [(arm, size, seed, moved[trial_id]) for arm, size, seed, trial_id in planned]
    page = write_report(study, poisoned, cells, tmp_path / "report").page
    seen = visit(page, tmp_path)
    assert len(given) > 20 and seen.console == () and seen.requests == ()
    assert "data-state=" in seen.dom, "scripts of ours ran"
