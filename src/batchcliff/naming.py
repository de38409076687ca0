"""Which study is meant: a spec, a file, a recipe's name or a folder; and where it lies."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path

from batchcliff.errors import UsageError
from batchcliff.spec import StudySpec
from batchcliff.study.printable import printable
from batchcliff.studyfile import load_study, recipe_names
from batchcliff.workloads import WORKLOADS, Workload

STUDIES = Path("studies")  # where studies lie unless a folder is named


def resolved(study: StudySpec | str | Path, own: Workload | None) -> StudySpec:
    """The study itself, or read from a file, a recipe, or a folder that holds one."""
    if isinstance(study, StudySpec):
        return study
    folder = begun(study)
    return load_study(study, workload=own) if folder is None else study_in(folder, bool(own))


def begun(study: StudySpec | str | Path) -> Path | None:
    """The folder that `study` names, if it holds a study that has been begun. A recipe's name
    is the recipe, whatever folder is called so."""
    from batchcliff.study.identity import STUDY

    if isinstance(study, StudySpec) or study in recipe_names():
        return None
    with contextlib.suppress(OSError, ValueError):  # what no path can be is no folder either
        if (Path(study) / STUDY).is_file():
            return Path(study)
    return None


def study_in(folder: Path, own: bool) -> StudySpec:
    """The study that a folder holds. UsageError for one of a workload of the user's, unless
    it is given: the trials of another code would have other names."""
    from batchcliff.study.store import Store

    with Store.open(folder) as store:
        study = store.study
    if not own and study.workload not in WORKLOADS:
        raise UsageError(
            f"{printable(folder)} holds a study of the workload {printable(study.workload)!r}, "
            "which is not built in: add --workload module:function, as it was run with."
        )
    return study


def with_weights(study: StudySpec, weights: str | Path | None) -> StudySpec:
    """The study that begins with a file's weights, which it names by their SHA-256.

    Raises UsageError if the file cannot be read or the study has no pretraining to replace.
    """
    if weights is None:
        return study
    pretraining = study.settings.pretraining
    if pretraining is None:
        raise UsageError(
            f"--weights {weights}: the study has no pretraining that they could stand for. "
            'Write settings.pretraining = { data = "cifar10-first-half" } in it.'
        )
    try:
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--weights {weights}: {error.strerror or error}") from error
    given = dataclasses.replace(pretraining, weights=digest)
    settings = dataclasses.replace(study.settings, pretraining=given)
    return dataclasses.replace(study, settings=settings)


def folder_of(study: StudySpec, out: str | Path | None) -> Path:
    """The study's folder: `out`, or studies/NAME."""
    return Path(out) if out is not None else STUDIES / study.name
