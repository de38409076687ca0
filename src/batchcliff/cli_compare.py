"""The verb `compare`: its options, and what it prints. Only typer is imported."""

from __future__ import annotations

from typing import Annotated

import typer

from batchcliff.cli_options import Json, StudyFolder


def compare_verb(
    study: StudyFolder,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Another study's folder, or its NAME.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="ARM",
            help="The first study's arm that all are compared with. Default: "
            "its reference arm.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the arms of two studies: their cliffs, and how far apart they lie.

    Two studies that differ in more than an arm may change are refused, with the difference.
    What else differs (settings, machines, numerics) is said beside the answer.

    Example: batchcliff compare digits digits-ladder
    """
    from batchcliff import api, show
    from batchcliff.report.pagetables import cliffs_table, shifts_table
    from batchcliff.report.words import cliff_rows, headline

    found = api.compare(study, other, reference=reference)
    if as_json:
        show.write_json(found)
        return
    summary = found.summary
    show.write(*headline(summary))
    for table in (cliffs_table(cliff_rows(summary), summary), shifts_table(summary)):
        if table.rows:
            show.write("", table.caption, "")
            show.write_table(table.header, table.rows)
    if summary.notes:
        show.write("", "What else differs, and what is missing:")
        show.write(*(f"  {note}" for note in summary.notes))
