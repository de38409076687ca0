"""A key that an arm cannot have: where what it says is written instead."""

from __future__ import annotations

from typing import Any

from batchcliff.studyfile.document import show, unknown
from batchcliff.studyfile.misplaced import fields_of
from batchcliff.studyfile.schema import SettingsTable, StudyTable
from batchcliff.techniques import TECHNIQUES
from batchcliff.techniques.examples import written

RATES = ("lr", "decay")  # keys of the study that an arm may replace


def not_in_an_arm(key: str, value: Any) -> str:
    """What to write in place of `key = value` in an arm, which has no such key."""
    if key == "settings":
        return "an arm's settings stand directly in it, e.g. batch_norm = { group = 32 }."
    ways = [written(name) for name in (key.replace("_", "-"),) if name in TECHNIQUES]
    ways += [f"{table} = {{ {key} = {show(value)} }}" for table in _tables_with(key)]
    if ways:
        return f"does not stand in an arm like this. Write {', or '.join(ways)}."
    if key in StudyTable.model_fields:
        return "is the whole study's: write it above the arms, or make two studies."
    known = {*TECHNIQUES, *SettingsTable.model_fields, *RATES}
    return unknown("technique or setting", key, known)


def _tables_with(key: str) -> list[str]:
    """The tables of an arm that have `key`."""
    inner = {**fields_of(StudyTable), **fields_of(SettingsTable)}
    tables = {n: inner[n] for n in (*RATES, "model", "batch_norm", "optimizer")}
    return [n for n, table in tables.items() if table is not None and key in table.model_fields]
