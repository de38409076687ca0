"""Tables of what probes measured and what follows: first updates, noise, causes, cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from figure_sources import ROOT, caption, made_with, read

from batchcliff import api
from batchcliff.record import Probes, TrialRecord
from batchcliff.report.diagnosis import noise_table
from batchcliff.report.tables import markdown_table
from batchcliff.stats.noise_scale import noise_scales, sharpness_shares


def folders(path: Path) -> list[Path]:
    """The studies of a path: some joined by +, or a folder that holds studies."""
    if (ROOT / path / "STUDY.json").exists() or "+" in str(path):
        return [ROOT / part for part in str(path).split("+")]
    return sorted(file.parent for file in (ROOT / path).glob("*/STUDY.json"))


SHOWN = 2  # seeds of a cell, in a table with a row a trial
NEAR = 0.98  # of an eigenvalue


def first_updates_table(folder: Path) -> str:
    """A row for each probed trial of the first seeds: its first losses, gradients, noise and
    sharpness."""
    store, _, records = read(ROOT / folder)
    order = {arm.name: i for i, arm in enumerate(store.study.arms)}
    seeds = sorted({r.spec.seed for r in records})
    probed = [
        (r, r.probes) for r in records if r.probes is not None and r.spec.seed in seeds[:SHOWN]
    ]
    probed.sort(key=lambda p: (p[0].spec.batch_size, order[p[0].spec.arm], p[0].spec.seed))
    header = ["batch size", "arm", "seed", "accuracy, %", "gradient norm, first",
              "largest", "at update", "noise scale, first", "loss, first", "second",
              "largest", "sharpness share, first", "largest", "at update",
              "last over 1"]  # fmt: skip
    table = [
        [f"{r.spec.batch_size:,}", r.spec.arm, str(r.spec.seed),
         "" if r.accuracy is None else f"{100 * r.accuracy:.2f}", *_first(r, probes)]
        for r, probes in probed
    ]  # fmt: skip
    cells = {(r.spec.arm, r.spec.batch_size) for r, _ in probed}
    measured = caption([r for r, _ in probed], len(cells))
    more = f" Of the study's {len(seeds)} seeds the first {SHOWN}." if seeds[SHOWN:] else ""
    return (
        "Updates count from 0; norms, losses and their largest are of the first 100 updates "
        "(of all, where there are fewer). Sharpness share: the largest eigenvalue of the "
        "Hessian over 2 (1 + m) / lr, last over 1: the last probed update at which it was "
        f"above 1. Noise scale in examples.{more} {measured}\n\n{markdown_table(header, table)}"
    )


def _first(record: TrialRecord, probes: Probes) -> list[str]:
    norms, losses = record.curves.first_gradient_norms, probes.first_losses
    noise = noise_scales(probes)
    shares = sharpness_shares(record.spec, probes)
    strongest = max(range(len(norms)), key=norms.__getitem__)
    at, top = max(shares, key=lambda pair: pair[1])
    over = [update for update, share in shares if share > 1]
    return [
        f"{norms[0]:.3g}", f"{norms[strongest]:.3g}", f"{strongest}",
        f"{noise[0][1]:.0f}" if noise and noise[0][0] == 0 else "",
        f"{losses[0]:.3g}", f"{losses[1]:.3g}", f"{max(losses):.3g}",
        f"{shares[0][1]:.2g}", f"{top:.2g}", f"{at}", f"{over[-1]}" if over else "never",
    ]  # fmt: skip


def noise_scale_table(path: Path) -> str:
    """The critical batch that the noise predicts beside the cliff, a row a study and arm."""
    table, header, trials = [], [], list[TrialRecord]()
    for folder in folders(path):
        records = [r for r in read(folder)[2] if r.probes is not None]
        found = noise_table(api.diagnose(folder).noise)
        header = ["study", *found.header]
        table += [[folder.name, *row] for row in found.rows]
        trials += records
    return (
        "Batch sizes in examples. Early: smoothed, at a tenth of the run. Interval: 95%, over "
        "the trials beside it, which are those of the batch sizes that hold. "
        f"{made_with(trials)}.\n\n{markdown_table(header, table)}"
    )


def causes_table(path: Path) -> str:
    """What `batchcliff diagnose` names: a row a study and arm with a fallen cell."""
    table = []
    for folder in folders(path):
        causes: dict[str, dict[str, list[str]]] = {}
        for cell in api.diagnose(folder).diagnosis.cells:
            arm = causes.setdefault(cell.arm, {})
            named = arm.setdefault(", ".join((cell.cause, *cell.also)), [])
            named.append(f"{cell.batch_size:,}")
        table += [
            [folder.name, arm, "; ".join(f"{c} at {_listed(s)}" for c, s in found.items())]
            for arm, found in causes.items()
        ]
    made = markdown_table(["study", "arm", "why it fell"], table).replace("---:", "---")
    return f"The cause first, then others that were found.\n\n{made}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * bool(words[:-1]) + words[-1:])


def probe_cost_table(file: Path) -> str:
    """What each probe costs of a trial (benchmarks/bench_probes.py).

    Of rows that do not say how much was probed, no share: they took a short run's probes.
    """
    rows = json.loads((ROOT / file).read_text())
    kinds = [key.removesuffix("_seconds") for key in rows[0] if key.endswith("_seconds")]
    kinds = [kind for kind in kinds if kind not in ("trial", "first")]
    first, head, probed = rows[0], ["batch size", "trial", *kinds], ""
    table = [
        [f"{row['batch_size']:,}", f"{row['trial_seconds']:.2f}",
         *(f"{row[f'{kind}_seconds']:.3f}" for kind in kinds)]
        for row in rows
    ]  # fmt: skip
    if "iterations" in first:
        head += ["share", "the first time"]
        for line, row in zip(table, rows, strict=True):
            line.append(f"{row['share']:.1%}")
            line.append(f"{row['first_seconds'] / row['trial_seconds']:.1%}")
        probed = (
            f" Probes at {first['places']} places, the sharpness at "
            f"{first['sharpness_places']} with {first['iterations']} iterations."
        )
    on_gpu = "+cu" in first["torch"]
    where = first["device"] if on_gpu else f"{first['device']}, one thread"
    return (
        f"Seconds of a trial and of its probes. {first['workload']}, {where}, "
        f"torch {first['torch']}, {first['code']}, {first['date']}.{probed}\n\n"
        + markdown_table(head, table)
    )


def sharpness_table(file: Path) -> str:
    """How much of the sharpness is found after so many iterations (bench_sharpness.py)."""
    rows = json.loads((ROOT / file).read_text())
    table = []
    for count in rows[0]["shares"]:
        shares = sorted(row["shares"][count] for row in rows)
        near = sum(share >= NEAR for share in shares)
        table.append([count, f"{shares[0]:.1%}", f"{near} of {len(shares)}"])
    one = rows[0]
    return (
        f"Share of the largest eigenvalue that is found. {one['what']}, {one['device']}, torch "
        f"{one['torch']}, {one['code']}, {one['date']}.\n\n"
        + markdown_table(["iterations", "least", f"{NEAR:.0%} or more, places"], table)
    )


PROBE_KINDS: dict[str, Callable[[Path], str]] = {
    "first-updates": first_updates_table,
    "noise-scale": noise_scale_table,
    "causes": causes_table,
    "probe-cost": probe_cost_table,
    "sharpness": sharpness_table,
}
