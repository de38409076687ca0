"""Tables of what benchmarks timed: examples per second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from figure_sources import ROOT

from batchcliff.report.tables import markdown_table


def bench_table(file: Path) -> str:
    """A benchmark's rows: examples per second by batch size."""
    rows = json.loads((ROOT / file).read_text())
    machine, what = rows[0], {row["what"] for row in rows}
    common = ", ".join(
        part for part in machine["what"].split(", ") if all(part in w for w in what)
    )
    table = [
        [
            ", ".join(
                [
                    row.get("peer", "batchcliff"),
                    *(part for part in row["what"].split(", ") if part not in common),
                ]
            ),
            f"{row['batch_size']:,}",
            f"{row['examples_per_second']:,.0f}",
        ]
        for row in rows
    ]
    return (
        f"Examples per second. {machine['device']}, torch {machine['torch']}, "
        f"{machine['date']}, {common}.\n\n"
        + markdown_table(["engine", "batch size", "examples/s"], table)
    )


def peers_table(file: Path) -> str:
    """bench_peers.py's rows: ours, the peers', and ours as a share of the fastest peer's and of
    the floor."""
    rows = json.loads((ROOT / file).read_text())
    ours = {row["batch_size"]: row for row in rows if "peer" not in row}
    rates: dict[str, dict[int, float]] = {}
    for row in rows:
        engine = row.get("peer", "batchcliff, with augmentation and a test after every epoch")
        rates.setdefault(engine, {})[row["batch_size"]] = row["examples_per_second"]
    table = [
        [engine, *(f"{found[size]:,.0f}" if size in found else "" for size in ours)]
        for engine, found in rates.items()
    ]
    fastest = (row["ratio_to_fastest_peer"] for row in ours.values())
    table += [
        ["ours / the fastest peer", *(f"{ratio:.2f}" if ratio else "" for ratio in fastest)],
        ["ours / the floor", *(f"{row['ratio_to_floor']:.2f}" for row in ours.values())],
    ]
    one = rows[0]
    return (
        f"Examples per second by batch size. {one['device']}, {one['cores']} cores, torch "
        f"{one['torch']}, {one['date']}, {one['code']}, {one['what']}; floor "
        f"{one['floor']:,} examples/s.\n\n"
        + markdown_table(["", *(f"{size:,}" for size in ours)], table)
    )


def models_table(file: Path) -> str:
    """bench_models.py's rows: ours and the peer's, and by how much their losses differ."""
    rows = json.loads((ROOT / file).read_text())
    one, table = rows[0], []
    for ours, peer in zip(rows[::2], rows[1::2], strict=True):
        ratio = ours["examples_per_second"] / peer["examples_per_second"]
        table.append(
            [
                ours["what"].removeprefix("a user's network, updates alone, "),
                f"{ours['batch_size']:,}",
                f"{ours['examples_per_second']:,}",
                f"{peer['examples_per_second']:,}",
                f"{ratio:.3f}",
                f"{ours['loss_difference']:.2g}",
                f"{ours['loss_difference_of_rounding']:.2g}",
            ]
        )
    head = ["network", "batch size", "batchcliff", rows[1]["peer"], "ratio"]
    return (
        f"Examples per second, updates alone. {one['device']}, torch {one['torch']}, "
        f"{one['date']}, {one['code']}.\n\n"
        + markdown_table([*head, "losses differ by", "of rounding alone"], table)
    )


def beside_table(file: Path) -> str:
    """bench_side_by_side.py's rows: what each trial keeps of its speed beside others."""
    rows = json.loads((ROOT / file).read_text())
    table = [
        [
            ", ".join(f"{size:,}" for size in row["batch_sizes"]),
            ", ".join(f"{size:,}" for size in row["of_lower_priority"]) or "none",
            ", ".join(f"{share:.2f}" for share in row["of_alone"]),
            f"{row['together']:.2f}",
        ]
        for row in rows
        if len(row["batch_sizes"]) > 1
    ]
    one = rows[0]
    return (
        f"Speed of trials at the same time, as a share of each one's alone. {one['device']}, "
        f"{'MPS' if one['mps'] else 'slices of time'}, torch {one['torch']}, {one['date']}, "
        f"{one['code']}.\n\n"
        + markdown_table(["batch sizes", "of lower priority", "of alone", "together"], table)
    )


def launch_table(files: Path) -> str:
    """Of several runs of bench_launch.py, files joined by "+": where the seconds went."""
    runs = [json.loads((ROOT / file).read_text())[0] for file in str(files).split("+")]
    one = runs[0]
    table = [
        [phase, *(f"{run['seconds'][phase]:z,.1f}" for run in runs)] for phase in one["seconds"]
    ]
    shared = "MPS" if one["mps"] else "slices of time"
    return (
        f"Seconds of {one['what']}. {one['device']}, {one['cores']} cores, torch "
        f"{one['torch']}, {one['workers']} workers, {shared}.\n\n"
        + markdown_table(["", *(f"{run['date']}, {run['code']}" for run in runs)], table)
    )


SPEED_KINDS: dict[str, Callable[[Path], str]] = {
    "beside": beside_table,
    "bench": bench_table,
    "peers": peers_table,
    "launch": launch_table,
    "models": models_table,
}
