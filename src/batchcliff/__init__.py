"""batchcliff: where is the batch-size cliff of your workload, and how far can it be moved?

Importing this package imports neither torch nor numpy; the public names load on first use
(PEP 562). A public name is never a submodule's too, since importing that would replace it:
hence `make_report`, which is `batchcliff.api.report`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchcliff.api import doctor, export, init, plan, run, schedule, status
    from batchcliff.api import report as make_report
    from batchcliff.data.sources import Dataset
    from batchcliff.errors import (
        BatchcliffError,
        DataError,
        Incomplete,
        Infeasible,
        NoEffect,
        StorageError,
        UsageError,
    )
    from batchcliff.models.convert import convert_ghost_batchnorm
    from batchcliff.models.ghost_batch_norm import GhostBatchNorm2d
    from batchcliff.optimizers import Lamb, Larc, Lars
    from batchcliff.record import Outcome, TrialRecord
    from batchcliff.spec import (
        Arm,
        BatchNorm,
        Decay,
        LrRule,
        Model,
        Optimizer,
        Settings,
        StudySpec,
        TrialSpec,
    )
    from batchcliff.studyfile import load_study
    from batchcliff.workloads import Workload

__version__ = "0.1.0"

__all__ = [
    "Arm",
    "BatchNorm",
    "BatchcliffError",
    "DataError",
    "Dataset",
    "Decay",
    "GhostBatchNorm2d",
    "Incomplete",
    "Infeasible",
    "Lamb",
    "Larc",
    "Lars",
    "LrRule",
    "Model",
    "NoEffect",
    "Optimizer",
    "Outcome",
    "Settings",
    "StorageError",
    "StudySpec",
    "TrialRecord",
    "TrialSpec",
    "UsageError",
    "Workload",
    "__version__",
    "convert_ghost_batchnorm",
    "doctor",
    "export",
    "init",
    "load_study",
    "make_report",
    "plan",
    "run",
    "schedule",
    "status",
]

_WHERE = {
    "api": ("doctor", "export", "init", "make_report", "plan", "run", "schedule", "status"),
    "data.sources": ("Dataset",),
    "errors": (
        "BatchcliffError",
        "DataError",
        "Incomplete",
        "Infeasible",
        "NoEffect",
        "StorageError",
        "UsageError",
    ),
    "models.convert": ("convert_ghost_batchnorm",),
    "models.ghost_batch_norm": ("GhostBatchNorm2d",),
    "optimizers": ("Lamb", "Larc", "Lars"),
    "record": ("Outcome", "TrialRecord"),
    "spec": (
        "Arm",
        "BatchNorm",
        "Decay",
        "LrRule",
        "Model",
        "Optimizer",
        "Settings",
        "StudySpec",
        "TrialSpec",
    ),
    "studyfile": ("load_study",),
    "workloads": ("Workload",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
_NAME_THERE = {"make_report": "report"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    return getattr(module, _NAME_THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
