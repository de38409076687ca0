"""The verb `target`: its options, and what it prints. Only typer is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batchcliff.cli_options import Json, StudyFolder

if TYPE_CHECKING:
    from batchcliff.stats.budget import Budget

HEADER = ("batch size", "trials", "updates", "interval", "examples", "of perfect scaling",
          "device s")  # fmt: skip


def target_verb(
    study: StudyFolder,
    accuracy: Annotated[
        float | None,
        typer.Argument(
            metavar="[ACCURACY]", help="The target, a share: 0.9. Default: the study's budget."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how many updates a target accuracy took at each batch size, and where more stop
    helping.

    Fixed epochs give a large batch few updates; this asks how many it needs. The knee is the
    batch size from which on doubling no longer halves them.

    Example: batchcliff target digits 0.9
    """
    from batchcliff import api, show
    from batchcliff.report.target import knee_sentences

    found = api.target(study, accuracy)
    if as_json:
        show.write_json(found)
        return
    for curve in found:
        show.write(f"{curve.arm}: updates to {curve.target:.1%} test accuracy", "")
        show.write_table(HEADER, _rows(curve))
        show.write("", *knee_sentences(curve), *_hours(curve), "")


def _rows(curve: Budget) -> list[tuple[str, ...]]:
    from batchcliff.report.text import NOTHING

    rows: list[tuple[str, ...]] = []
    for cell in curve.cells:
        updates, efficiency = cell.updates, cell.efficiency
        row = (f"{cell.batch_size:,}", str(len(cell.reached)))
        if updates.value is None:
            rows.append((*row, NOTHING, "", "", "", ""))
            continue
        interval = ""
        if updates.low is not None and updates.high is not None:
            interval = f"{updates.low:,.1f} to {updates.high:,.1f}"
        examples = f"{cell.batch_size * updates.value:,.0f}"
        share = "" if efficiency is None else f"{efficiency:.0%}"
        seconds = "" if cell.device_seconds is None else f"{cell.device_seconds:,.3g}"
        rows.append((*row, f"{updates.value:,.1f}", interval, examples, share, seconds))
    return rows


def _hours(curve: Budget) -> list[str]:
    """Whose seconds stand in the table, and the sum of them in hours."""
    devices = sorted({trial.device for cell in curve.cells for trial in cell.reached} - {""})
    if not devices:
        return []
    hours = (
        sum(trial.device_seconds or 0.0 for cell in curve.cells for trial in cell.reached)
        / 3600
    )
    named = devices[0] if len(devices) == 1 else f"several devices ({', '.join(devices)})"
    text = (
        f"Device seconds are of {named}: a trial's seconds up to the target over the workers "
        f"that shared the device, {hours:.2g} device hours for all trials that reached it."
    )
    return [text]
