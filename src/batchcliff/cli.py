"""The command line: one verb is one function of `batchcliff.api`.

Only typer is imported here; a verb imports what it needs, so that `--help` is quick.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from batchcliff import __version__
from batchcliff.cli_advise import advise_verb
from batchcliff.cli_compare import compare_verb
from batchcliff.cli_diagnose import diagnose_verb
from batchcliff.cli_ending import finish, say_how_to_go_on
from batchcliff.cli_import import import_verb
from batchcliff.cli_options import (
    OUTPUT,
    AcceptCodeChange,
    AllowMixedNumerics,
    BatchSizes,
    Budget,
    CheckpointEvery,
    Data,
    Deterministic,
    Device,
    DryRun,
    Extend,
    Grace,
    Ids,
    Json,
    MicroBatch,
    Only,
    Out,
    Ranks,
    Seeds,
    Set,
    Shared,
    StudyFolder,
    StudySource,
    Verify,
    Weights,
    Workers,
    WorkloadOption,
    ids_in,
)
from batchcliff.cli_schedule import schedule_verb
from batchcliff.cli_target import target_verb
from batchcliff.errors import BatchcliffError, UsageError

Verb = TypeVar("Verb", bound=Callable[..., None])

HELP = """Measure where the batch-size cliff of a workload is, and how far warmup moves it.

A batch size is the number of examples per optimizer update, always.

[bold]Examples[/bold]

  batchcliff run digits                    the demo, a minute on two cores

  batchcliff plan article                  what would run, its arithmetic

  batchcliff run article --data cifar10/   the article's study, on a GPU

  batchcliff init article > my.toml        a study file to start from

  batchcliff export article > trials.csv   a row per trial

  batchcliff schedule article              the learning rate of every update

  batchcliff advise --probe my.toml        predictions before any study, in a minute

[bold]Exit codes[/bold]

  0 every trial has an outcome (diverged is one); 3 some failed

  2 bad usage, nothing written; 74 the disk refused

  75, 130, 143 incomplete: the same command goes on where it stopped
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _guarded(verb: Verb) -> Verb:
    """Errors that a user can cause or meet, as one message and the exit code of their class."""

    @functools.wraps(verb)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            verb(*args, **options)
            sys.stdout.flush()
        except BrokenPipeError:  # `batchcliff export x | head`
            _let_go_of_stdout()
            raise typer.Exit(141) from None
        except KeyboardInterrupt:
            say_how_to_go_on()
            raise typer.Exit(130) from None
        except BatchcliffError as error:
            from batchcliff.study.printable import printable

            for line in str(error).splitlines() or [type(error).__name__]:
                typer.echo(printable(line, limit=2_000), err=True)
            raise typer.Exit(error.exit_code) from None

    return guarded  # type: ignore[return-value]


def _let_go_of_stdout() -> None:
    """Nobody reads: send what is still buffered nowhere, or Python complains on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _study(source: str, out: Path | None, workload: str | None, **changes: Any) -> Any:
    """The study of a file, a recipe or a folder that holds one, and its folder if known."""
    from batchcliff.naming import begun, study_in
    from batchcliff.studyfile import load_study
    from batchcliff.workloads import load_workload

    if (folder := begun(source)) is not None:
        if any(changes.values()):
            raise UsageError(
                f"{source} is the folder of a study that was begun, and --set, --seeds, "
                "--batch-sizes and --budget change a study file: write the name of the file or "
                "the recipe, and the folder after --out."
            )
        return study_in(folder, bool(workload)), out or folder
    own = load_workload(workload) if workload else None
    return load_study(source, workload=own, **changes), out


@app.command("plan")
@_guarded
def plan_verb(
    study: StudySource,
    data: Data = None,
    out: Out = None,
    device: Device = "auto",
    workers: Workers = None,
    set_: Set = None,
    seeds: Seeds = None,
    batch_sizes: BatchSizes = None,
    budget: Budget = None,
    workload: WorkloadOption = None,
    ranks: Ranks = 1,
    as_json: Json = False,
    ids: Ids = False,
) -> None:
    """Say what would run: every trial's arithmetic, what is infeasible, the expected time.

    Of an adaptive study (search = "adaptive"): what is next, what is known, the worst case.

    Example: batchcliff plan article --batch-sizes 1024..8192:x2
    """
    from batchcliff import api, show

    changes = {"seeds": seeds, "batch_sizes": batch_sizes, "budget": budget}
    spec, out = _study(study, out, workload, overrides=set_ or (), **changes)
    found = api.plan(
        spec, out=out, data=data, device=device, workers=workers, workload=workload, ranks=ranks
    )
    if ids:
        show.write_ids(found, as_json=as_json)
    elif as_json:
        show.write_json(show.plan_json(found))
    else:
        show.show_plan(found)


@app.command("run")
@_guarded
def run_verb(
    study: StudySource,
    data: Data = None,
    out: Out = None,
    device: Device = "auto",
    workers: Workers = None,
    dry_run: DryRun = False,
    set_: Set = None,
    seeds: Seeds = None,
    batch_sizes: BatchSizes = None,
    budget: Budget = None,
    workload: WorkloadOption = None,
    extend: Extend = False,
    accept_code_change: AcceptCodeChange = False,
    shared: Shared = False,
    weights: Weights = None,
    checkpoint_every: CheckpointEvery = 120.0,
    micro_batch: MicroBatch = None,
    deterministic: Deterministic = False,
    grace: Grace = None,
    ranks: Ranks = 1,
    verify: Verify = False,
    allow_mixed_numerics: AllowMixedNumerics = False,
    only: Only = None,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with one that was interrupted: the same command does both.

    Example: batchcliff run article --data cifar10/ --device cuda
    """
    if dry_run and only is not None:
        raise UsageError("--dry-run is of the whole study: leave --only out")
    if dry_run:
        changed = (set_, seeds, batch_sizes, budget)
        return plan_verb(study, data, out, device, workers, *changed, workload, ranks, as_json)
    changes = {"seeds": seeds, "batch_sizes": batch_sizes, "budget": budget}
    spec, out = _study(study, out, workload, overrides=set_ or (), **changes)
    from batchcliff import api
    from batchcliff.study.progress import Foreseeing, make_progress

    shown = make_progress(sys.stdout if as_json else sys.stderr, as_json=as_json)
    progress = shown if only is not None else Foreseeing(shown, api.prepare_report)
    summary = api.run(
        spec, data=data, out=out, workload=workload, device=device, workers=workers,
        extend=extend, accept_code_change=accept_code_change, shared=shared, weights=weights,
        checkpoint_every=checkpoint_every, micro_batch=micro_batch, progress=progress,
        deterministic=deterministic, grace=grace, ranks=ranks, verify=verify,
        allow_mixed_numerics=allow_mixed_numerics, only=ids_in(only),
    )  # fmt: skip
    finish(summary, as_json, reported=only is None)


@app.command("status")
@_guarded
def status_verb(study: StudyFolder, as_json: Json = False) -> None:
    """Say how far a study is: how the trials of each cell ended, and what is missing.

    Example: batchcliff status digits
    """
    from batchcliff import api, show

    found = api.status(study)
    if as_json:
        show.write_json(show.status_json(found))
    else:
        show.show_status(found)


@app.command("report")
@_guarded
def report_verb(
    study: StudyFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Default: the study's report/."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a study: one HTML file, its figures and its tables.

    Example: batchcliff report digits --out /tmp/digits-report
    """
    from batchcliff import api, show

    written = api.report(study, out=out)
    if as_json:
        show.write_json({"report": str(written.page), "headlines": written.headlines})
    else:
        show.write(*written.headlines, f"report: {written.page}")


@app.command("export")
@_guarded
def export_verb(
    study: StudyFolder,
    format_: Annotated[
        str, typer.Option("--format", "-f", metavar="csv|json|md", rich_help_panel=OUTPUT)
    ] = "csv",
) -> None:
    """Print a row per trial: arm, batch_size, seed, outcome, accuracy, seconds, ...

    Example: batchcliff export digits --format csv > digits.csv
    """
    from batchcliff import api

    sys.stdout.write(api.export(study, format=format_))


@app.command("init")
@_guarded
def init_verb(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Without one: list the recipes.")
    ] = None,
) -> None:
    """Print a recipe, to start a study file from.

    Example: batchcliff init article > my.toml
    """
    from batchcliff import api, show

    if recipe is not None:
        sys.stdout.write(api.init(recipe))
        return
    from batchcliff.studyfile import load_study, recipe_names

    rows = [(n, load_study(n).description.split(". ")[0]) for n in recipe_names()]
    show.write_table(("recipe", "what it is"), rows, left=2)


app.command("import")(_guarded(import_verb))
app.command("target")(_guarded(target_verb))
app.command("advise")(_guarded(advise_verb))
app.command("diagnose")(_guarded(diagnose_verb))
app.command("compare")(_guarded(compare_verb))
app.command("schedule")(_guarded(schedule_verb))


@app.command("doctor")
@_guarded
def doctor_verb(data: Data = None, as_json: Json = False) -> None:
    """Say what this machine has and lacks for running studies, and what to do about it.

    Example: batchcliff doctor --data cifar10/
    """
    from batchcliff import api, show

    found = api.doctor(data=data)
    if as_json:
        show.write_json(found)
    else:
        show.show_checks(found)
    if not all(check.fine for check in found):
        raise typer.Exit(1)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"batchcliff {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say it, and exit."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """The console script."""
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # LANG=C: an arm called "学習率" is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()
