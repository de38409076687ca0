"""Where the figures of README and docs come from: a study's folder, and what to say of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from batchcliff.record import TrialRecord
from batchcliff.study.store import Store

ROOT = Path(__file__).resolve().parent.parent


def read(folder: Path) -> tuple[Store, list[tuple[str, int, int, str]], list[TrialRecord]]:
    """A study's store, its plan as plain tuples, and its records."""
    store = Store.open(folder, any_owner=True)
    plan = [(c.arm, c.batch_size, c.seed, c.trial_id) for c in store.planned()]
    return store, plan, list(store.records().values())


def made_with(records: list[TrialRecord]) -> str:
    """On which devices, with which versions and when trials ran."""
    found = [r.provenance for r in records if r.provenance]
    devices = ", ".join(sorted({p.device for p in found}))
    codes = ", ".join(sorted({p.code for p in found}))
    torch = ", ".join(sorted({dict(p.versions).get("torch", "?") for p in found}))
    days = sorted({p.started[:10] for p in found})
    day = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{devices}, torch {torch}, {codes}, {day}"


def caption(records: list[TrialRecord], cells: int) -> str:
    """Where and with what the figures were measured, and of how many trials."""
    sources = " ".join(sorted({r.provenance.data_source for r in records if r.provenance}))
    seeds = Counter((r.spec.arm, r.spec.batch_size) for r in records).values()
    most = max(seeds, default=0)
    at_most = "at most " * (len(set(seeds)) > 1)
    return (
        f"{len(records)} trials in {cells} cells, "
        f"{at_most}{most} seed{'s' * (most > 1)} a cell; "
        f"{made_with(records)}. Data: {sources}"
    )
