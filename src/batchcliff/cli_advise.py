"""The verb `advise`: its options, and what it prints. Only typer is imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from batchcliff.cli_options import OUTPUT, Data, Device, Json, WorkloadOption
from batchcliff.errors import UsageError

if TYPE_CHECKING:
    from batchcliff.advising import Advised
    from batchcliff.advising.probe import Probed

PROBE = "Before any study"


Study = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="A study's folder, or NAME for studies/NAME; with --probe a study file or a "
        "recipe's name.",
        show_default=False,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="torch|toml|lightning|transformers|timm",
        help="Settings that run as given, in place of the text; toml: a confirming study, "
        "with --probe the study to run.",
        rich_help_panel=OUTPUT,
    ),
]
OfArm = Annotated[
    str | None,
    typer.Option(
        metavar="ARM",
        help="Of this arm. Default: the one that is safe furthest; with --probe the reference.",
    ),
]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="Predict from a short run, where no study exists: memory and micro batch, "
        "examples/s by batch size, largest stable rate, noise scale. Writes nothing.",
        rich_help_panel=PROBE,
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="About how long the probe measures, without the start of its processes. "
        "Default: 60.",
        show_default=False,
        rich_help_panel=PROBE,
    ),
]


def advise_verb(
    study: Study = None,
    format_: Format = None,
    arm: OfArm = None,
    as_json: Json = False,
    probe: Probe = False,
    seconds: Seconds = None,
    workload: WorkloadOption = None,
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Say what to use: the largest safe batch size, with its learning rate and warmup, what it
    gains, why not more, and what was not tested.

    Safe: up to the lower end of the tolerance cliff's interval, and run. With --probe nothing
    has been run, so nothing is recommended: predictions, and the study that measures them.

    Examples: batchcliff advise digits --format torch > train.py;
    batchcliff advise --probe digits --format toml > next.toml
    """
    from batchcliff import api

    if probe:
        _check_format(format_)
        probed = api.probe(
            study,
            workload=workload,
            arm=arm,
            seconds=60.0 if seconds is None else seconds,
            device=device,
            data=data,
        )
        _show_probe(probed, format_, as_json)
        return
    given = {"--seconds": seconds, "--workload": workload, "--data": data}
    if device != "auto":
        given["--device"] = device
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} {value}: belongs to --probe; a study's records say all")
    if study is None:
        raise UsageError(
            "advise: name a study, such as digits; or --probe and a study file or a recipe, "
            "where none has been run"
        )
    _show_advice(api.advise(study), format_, arm, as_json)


def _show_advice(advised: Advised, format_: str | None, arm: str | None, as_json: bool) -> None:
    from batchcliff import show
    from batchcliff.advising import chosen, exported, words

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


def _check_format(format_: str | None) -> None:
    """UsageError for settings that a probe cannot know, before it takes a minute."""
    from batchcliff.study.printable import printable

    if format_ not in (None, "toml"):
        raise UsageError(
            f"--format {printable(format_)}: a probe has measured no settings to export. Write "
            "--format toml, the study that measures them, and run it first."
        )


def _show_probe(found: Probed, format_: str | None, as_json: bool) -> None:
    from batchcliff import show
    from batchcliff.advising import probe_words as words
    from batchcliff.advising.probe import probed_toml

    if format_ is not None:
        sys.stdout.write(probed_toml(found, words.head(found)))
        return
    if as_json:
        told = {"answer": words.answer(found), "measured": False, "probe": found}
        show.write_json(told | {"not_promised": words.caveats(found)})
        return
    show.write(words.answer(found), "")
    show.write(*(f"{what:<18}{much}" for what, much in words.details(found)), "")
    if found.readings.speeds:
        show.write_table(words.SPEED_HEADER, words.speed_rows(found), left=0)
        show.write("")
    show.write("What ended it, and what none of it promises:", *words.text(found))
