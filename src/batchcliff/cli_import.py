"""The verb `import`: its options, and what it does with them. Only typer is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchcliff.cli_options import PLACE, Json

READ = "How the table is read"


Source = Annotated[
    str, typer.Argument(metavar="FILE.csv|NAME", help="A table, or a published set's name.")
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Default: studies/NAME.", rich_help_panel=PLACE
    ),
]
Unit = Annotated[
    str | None,
    typer.Option(
        metavar="share|percent",
        help="0.91 is a share (the default), 91 percent.",
        rich_help_panel=READ,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(metavar="N", help="Guessing is right in 1 of N.", rich_help_panel=READ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="ARM",
        help="The arm the others are compared with. Default: none.",
        rich_help_panel=READ,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Loss of accuracy that is the tolerance cliff.",
        rich_help_panel=READ,
    ),
]


def import_verb(
    source: Source,
    out: Folder = None,
    unit: Unit = None,
    classes: Classes = None,
    reference: Reference = None,
    tolerance: Tolerance = 0.02,
    as_json: Json = False,
) -> None:
    """Import trials that ran elsewhere, and say where their cliffs are.

    A row a trial, with the columns arm, batch_size, accuracy and, if you have them, seed and
    outcome; other columns are left out. Or the name of a published set: article, goyal.

    Example: batchcliff import theirs.csv --unit percent --classes 1000
    """
    from batchcliff import show
    from batchcliff.importing import import_

    found = import_(
        source,
        out=out,
        unit=unit,
        classes=classes,
        reference_arm=reference,
        tolerance=tolerance,
    )
    if as_json:
        said = {"folder": str(found.folder), "report": str(found.page)}
        show.write_json(said | {"headlines": found.headlines, "marks": found.marks})
    else:
        show.write(*found.headlines, *found.marks, f"report: {found.page}")
