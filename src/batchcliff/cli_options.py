"""The arguments and options that several verbs share. Only typer is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CHANGE, PLACE, OUTPUT = "Change the study", "Where", "Output"
StudySource = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A study file (TOML), a recipe's name, or the folder of a study that was begun.",
    ),
]
StudyFolder = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's folder, or NAME for studies/NAME.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, e.g. --set lr.base=0.2. May be given several times.",
        rich_help_panel=CHANGE,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="N|LIST", help="3, or 0,4,7.", rich_help_panel=CHANGE),
]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        metavar="RANGE|LIST", help="128..8192:x2, or 128,512.", rich_help_panel=CHANGE
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="10ep, 2000up or 64000ex a trial.", rich_help_panel=CHANGE
    ),
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar="MODULE:FUNCTION",
        help="A workload of your own: a function that returns a batchcliff.Workload.",
        rich_help_panel=CHANGE,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A local copy of the data: archive, Parquet, image folder or .npz.",
        rich_help_panel=PLACE,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder of the study. Default: studies/NAME.",
        rich_help_panel=PLACE,
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:0", rich_help_panel=PLACE)]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Processes that train side by side. Default: one for each core of a CPU; on each "
        "GPU up to three, as cores and free memory allow.",
        rich_help_panel=PLACE,
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        help="Add to the study in the folder: more seeds, batch sizes or arms. What has run "
        "is kept and not run again.",
        rich_help_panel=CHANGE,
    ),
]
AcceptCodeChange = Annotated[
    bool,
    typer.Option(
        "--accept-code-change",
        help="Go on although the code that trains is not the one that the study began with. "
        "Records of both are then compared as if of one.",
        rich_help_panel=CHANGE,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read and hash every file of the data again. Default: only those whose size or "
        "times have changed; what is trained on is hashed in any case.",
        rich_help_panel=PLACE,
    ),
]
AllowMixedNumerics = Annotated[
    bool,
    typer.Option(
        "--allow-mixed-numerics",
        help="Go on with a trial that another machine, version of torch or number of threads "
        "has begun; its record says so. Default: such a trial begins anew.",
        rich_help_panel=PLACE,
    ),
]
Shared = Annotated[
    bool,
    typer.Option(
        "--shared",
        help="The study's folder is for everybody in its group, who each run with this. "
        "Default: for you alone.",
        rich_help_panel=PLACE,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.safetensors",
        help="Weights to fine-tune, in place of the study's own pretraining.",
        rich_help_panel=PLACE,
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every",
        min=0,
        metavar="SECONDS",
        help="Save a trial that takes longer than this, at the end of an epoch: a run that is "
        "interrupted goes on from there. 0: never.",
        rich_help_panel=PLACE,
    ),
]
Grace = Annotated[
    float | None,
    typer.Option(
        "--grace",
        min=0,
        metavar="SECONDS",
        help="Time to save what is being trained after a signal; then it is killed. Default: "
        "8 after Ctrl-C, 25 after others.",
        show_default=False,
        rich_help_panel=PLACE,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="The same bits again, on the same machine with the same versions. Slower.",
        rich_help_panel=PLACE,
    ),
]
Ranks = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="R",
        help="Processes that train each trial together, a GPU each: every batch is shared "
        "equally, with the result of one.",
        rich_help_panel=PLACE,
    ),
]
MicroBatch = Annotated[
    str | None,
    typer.Option(
        "--micro-batch",
        metavar="N|auto",
        help="Most examples that pass through a network at once in training. A larger batch is "
        "run in parts, with the same result. auto, as on a GPU: only where a batch has no "
        "room, and then the largest part that fits.",
        rich_help_panel=PLACE,
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="ID[,ID...]",
        help="Run these trials and no other, as a scheduler hands them out; `plan --ids` lists "
        "them. One that another process runs is left to it, with exit code 75.",
        show_default=False,
        rich_help_panel=PLACE,
    ),
]
Ids = Annotated[
    bool,
    typer.Option(
        "--ids",
        help="Print the id of each trial that has no outcome, a line each, and nothing else: "
        "for `run --only`.",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="As plan.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="JSON for scripts.", rich_help_panel=OUTPUT)]


def ids_in(only: str | None) -> list[str] | None:
    """The ids that `--only` names; None without it."""
    return None if only is None else [one for one in only.split(",") if one]
