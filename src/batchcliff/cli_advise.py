"""The verb `advise`: its options, and what it prints. Only typer is imported."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from batchcliff.cli_options import OUTPUT, Json, StudyFolder


def advise_verb(
    study: StudyFolder,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="torch|toml|lightning|transformers|timm",
            help="Settings that run as given, in place of the text; toml: a confirming study.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            metavar="ARM", help="Of this arm. Default: the one that is safe furthest."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what to use: the largest safe batch size, with its learning rate and warmup, what it
    gains, why not more, and what was not tested.

    Safe: up to the lower end of the tolerance cliff's interval, and run.

    Example: batchcliff advise digits --format torch > train.py
    """
    from batchcliff import api, show
    from batchcliff.advising import chosen, exported, words

    advised = api.advise(study)
    if format_ is not None:
        sys.stdout.write(exported(advised, format_, arm))
        return
    advice = advised.advice
    found = chosen(advised, arm) if arm is not None else advice.best
    if as_json:
        show.write_json(
            {"answer": words.answer(advice, found), "advice": advice, "chosen": found}
        )
        return
    show.write(words.answer(advice, found))
    if found is not None:
        show.write("", *(f"{what:<15}{much}" for what, much in words.details(advice, found)))
    show.write("")
    show.write_table(words.HEADER, words.rows(advice))
    show.write("", *words.text(advice, found))
