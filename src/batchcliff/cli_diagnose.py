"""The verb `diagnose`: its options, and what it prints. Only typer is imported."""

from __future__ import annotations

from batchcliff.cli_options import Json, StudyFolder


def diagnose_verb(study: StudyFolder, as_json: Json = False) -> None:
    """Say why training fell: too few updates, instability early or later, a generalization
    gap, batch-norm statistics, or data left out; each with its numbers.

    Beside it, where the trials were probed: the critical batch size that the gradient noise
    predicts. "Cannot tell" is an answer: it says what was not measured.

    Example: batchcliff diagnose digits
    """
    from batchcliff import api, show
    from batchcliff.report.diagnosis import diagnosis_table, evidence_lines, noise_table
    from batchcliff.report.text import percent, points

    found = api.diagnose(study)
    if as_json:
        show.write_json(found)
        return
    diagnosis = found.diagnosis
    if diagnosis.note:
        show.write(f"{found.study}: {diagnosis.note}.")
    else:
        table = diagnosis_table(diagnosis)
        show.write_table(table.header, table.rows)
        for cell in diagnosis.cells:
            place = f"{cell.arm} at {cell.batch_size:,}: {percent(cell.accuracy, 1)}"
            under = f"{points(cell.fall, 1).lstrip('+')} points under the plateau"
            causes = ", ".join((cell.cause, *cell.also))
            show.write("", f"{place}, {under}: {causes}", *evidence_lines(cell))
    if found.noise:
        table = noise_table(found.noise)
        show.write("", f"{table.caption}", "")
        show.write_table(table.header, table.rows)
