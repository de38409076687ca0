"""How `run` ends on the command line: its last lines, the report, the exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from batchcliff.study.supervisor import RunSummary


def say_how_to_go_on() -> None:
    """Name the command that goes on, which is the one that was given."""
    import shlex

    from batchcliff.study.printable import printable

    again = printable(shlex.join(["batchcliff", *sys.argv[1:]]))
    typer.echo(f"not complete; this goes on where it stopped: {again}", err=True)


def finish(summary: RunSummary, as_json: bool, *, reported: bool) -> None:
    """Write the report, say where it lies and what it says, and exit with the run's code.

    reported: not where a few trials ran of a study that others are working on.
    """
    from batchcliff import api, show

    counts = {outcome: n for outcome, n in summary.counts.items() if n}
    said: dict[str, Any] = {"folder": str(summary.folder), "counts": counts}
    said["missing"] = summary.missing
    if reported and summary.exit_code in (0, 3, 75) and counts:
        if not as_json:
            typer.echo("writing the report", err=True)
        written = api.report(summary.folder)
        said |= {"report": str(written.page), "headlines": list(written.headlines)}
    if as_json:
        import json

        said |= {"event": "done", "exit_code": summary.exit_code}
        sys.stdout.write(json.dumps(said) + "\n")
    else:
        ended = [f"{n} {outcome}" for outcome, n in sorted(counts.items())]
        show.write(
            ", ".join([*ended, *([f"{summary.missing} missing"] * bool(summary.missing))])
        )
        show.write(*said.get("headlines", ()))
        if "report" in said:
            show.write(f"report: {said['report']}")
        if summary.exit_code >= 74:
            say_how_to_go_on()
    sys.stdout.flush()
    raise typer.Exit(summary.exit_code)
