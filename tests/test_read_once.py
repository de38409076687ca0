"""What a verb costs grows with a study's records: none of them reads one twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from batchcliff import api
from batchcliff.study.parts import Parts

ROOT = Path(__file__).parents[1]
VERBS: dict[str, Callable[[Path], object]] = {
    "status": api.status,
    "export": api.export,
    "report": lambda folder: api.report(folder, out=folder.parent / "out"),
    "plan": lambda folder: api.plan("digits", out=folder),
    "target": lambda folder: api.target(folder, 0.9),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_record_is_read_twice(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(ROOT / "results" / "digits", folder)
    reads, read = Counter[str](), Parts.read

    def counted(self: Parts, part: str, name: str) -> bytes | None:
        reads[f"{part}/{name}"] += 1
        return read(self, part, name)

    monkeypatch.setattr(Parts, "read", counted)
    VERBS[verb](folder)
    records = {name: count for name, count in reads.items() if name.startswith("results/")}
    assert len(records) == len(list((folder / "results").iterdir()))
    assert set(records.values()) == {1}
