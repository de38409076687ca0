"""The verb `schedule`: its options, and what it does with them. Only typer is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcliff.cli_options import OUTPUT, Data, Set, WorkloadOption

if TYPE_CHECKING:
    from batchcliff.schedule_view.view import View

FORMATS = ("table", "csv", "json")
OWN, COMPARE = "A schedule without a study", "Which"

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STUDY [ARM]...]|[CONVENTION]...",
        help="A study file or recipe and some of its arms, or conventions.",
        show_default=False,
    ),
]
ArmOption = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="NAME", help="Repeatable.", rich_help_panel=COMPARE),
]
ConventionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--convention",
        metavar="NAME",
        help="What a library does for a linear warmup. Repeatable.",
        rich_help_panel=COMPARE,
    ),
]
Diff = Annotated[
    bool,
    typer.Option("--diff", help="Compare the first with the others.", rich_help_panel=COMPARE),
]
Conventions = Annotated[
    bool,
    typer.Option(
        "--conventions", help="Print the table of conventions.", rich_help_panel=COMPARE
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", help="Examples per update. Default: a study's largest."
    ),
]
WarmupOption = Annotated[
    str | None,
    typer.Option(
        metavar="[SHAPE:]DURATION",
        help="linear:5ep, or exponential:6ep,start=0.01,stepping=epoch.",
        rich_help_panel=OWN,
    ),
]
Lr = Annotated[
    str | None,
    typer.Option(
        "--lr",
        "--peak",
        metavar="NUMBER",
        help="0.4, or 0.1,base_batch_size=256,scaling=sqrt.",
        rich_help_panel=OWN,
    ),
]
DecayOption = Annotated[
    str | None,
    typer.Option(
        "--decay",
        "--curve",
        metavar="KIND",
        help="cosine, polynomial,power=2, multistep:60%,85%,factor=0.1, ...",
        rich_help_panel=OWN,
    ),
]
Length = Annotated[
    str | None,
    typer.Option(
        "--budget", "--total", metavar="DURATION", help="Of the run: 90ep, 2000up or 64000ex."
    ),
]
NumExamples = Annotated[
    int | None,
    typer.Option(metavar="N", help="Of an epoch; with --batch-size.", rich_help_panel=OWN),
]
UpdatesPerEpoch = Annotated[
    int | None,
    typer.Option(metavar="N", help="Instead of --num-examples.", rich_help_panel=OWN),
]
RemainderOption = Annotated[
    str | None,
    typer.Option("--remainder", metavar="drop|carry", rich_help_panel=OWN),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.svg|.png|.html", help="Draw it into a file.", rich_help_panel=OUTPUT
    ),
]
Format = Annotated[
    str,
    typer.Option("--format", "-f", metavar="table|csv|json", rich_help_panel=OUTPUT),
]


def schedule_verb(
    names: Names = None,
    arm: ArmOption = None,
    convention: ConventionOption = None,
    diff: Diff = False,
    conventions: Conventions = False,
    batch_size: BatchSize = None,
    budget: Length = None,
    warmup: WarmupOption = None,
    lr: Lr = None,
    decay: DecayOption = None,
    num_examples: NumExamples = None,
    updates_per_epoch: UpdatesPerEpoch = None,
    remainder: RemainderOption = None,
    set_: Set = None,
    workload: WorkloadOption = None,
    data: Data = None,
    plot: Plot = None,
    format_: Format = "table",
) -> None:
    """Say which learning rate every update runs at: of a study's arms, of a schedule that is
    typed, or of what libraries make of "linear warmup", compared with --diff.

    Example: batchcliff schedule --diff batchcliff torch transformers --warmup 5up
    """
    _check_format(format_)
    from batchcliff import api

    if conventions:
        from batchcliff.schedule_view.tables import conventions_table

        sys.stdout.write(conventions_table())
        return
    view = api.schedule(
        *(names or ()),
        arms=arm or (),
        conventions=convention or (),
        diff=diff,
        batch_size=batch_size,
        budget=budget,
        warmup=warmup,
        lr=lr,
        decay=decay,
        num_examples=num_examples,
        updates_per_epoch=updates_per_epoch,
        remainder=remainder,
        overrides=set_ or (),
        workload=workload,
        data=data,
    )
    _show(view, plot, format_)


def _check_format(name: str) -> None:
    from batchcliff.errors import UsageError, did_you_mean

    if name not in FORMATS:
        raise UsageError(f"--format {name!r}.{did_you_mean(name, FORMATS)}")


def _show(view: View, plot: Path | None, format_: str) -> None:
    from batchcliff import show
    from batchcliff.schedule_view import tables

    if plot is not None:
        from batchcliff.schedule_view.plot import write_plot

        write_plot(view, plot)
    if format_ == "csv":
        sys.stdout.write(tables.csv_text(view))
    elif format_ == "json":
        show.write_json(tables.plain(view))
    else:
        tables.show_view(view)
        if plot is not None:
            show.write(f"plot: {plot}")
