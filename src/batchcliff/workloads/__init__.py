"""What is trained: pairings of data, model and base settings, by name.

Importing this package imports no torch: a workload names its model, and training builds it.
Your own workload comes through the Python API or `--workload module:function` typed on the
command line (a study file never imports code); the function returns a `Workload`.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.spec import BatchNorm, Decay, LrRule, Model, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Data, model and base settings; a study file may override what it names.

    data: the name of a data set (batchcliff.data.sources.DATASETS), or a function without
        arguments that returns a `batchcliff.data.sources.Dataset`.
    build: None to build `settings.model`; or a function (image_shape (H, W, C),
        num_classes) -> torch.nn.Module that maps float images [B, C, H, W] in 0..1 to
        logits [B, num_classes].
    """

    name: str
    data: str | Callable[[], Any]
    lr: LrRule
    budget: str
    settings: Settings = field(default_factory=Settings)
    decay: Decay = field(default_factory=lambda: Decay(kind="constant"))
    build: Callable[[tuple[int, int, int], int], Any] | None = None
    published: str = ""
    digest: str = ""  # of the source file, for a workload of the user's own

    @property
    def data_name(self) -> str:
        """The data set's name in a spec; that of a function is made from the workload's."""
        return self.data if isinstance(self.data, str) else f"{self.name}-data"


# The article's experiment (SCIENCE.md, "What the article's own code settles").
ARTICLE = Workload(
    name="article",
    data="cifar10",
    lr=LrRule(base=0.1, base_batch_size=128, scaling="linear"),
    budget="100ep",
    decay=Decay(kind="multistep", at=("60%", "85%"), factor=0.1),
    settings=Settings(),
    published="article",
)

# A tenth of the depth and a thousandth of the arithmetic, on real 8x8 images: small enough
# for two CPU cores, deep and wide enough at its end to fall for the article's reason.
DIGITS = Workload(
    name="digits",
    data="digits",
    lr=LrRule(base=0.9, base_batch_size=64, scaling="linear"),
    budget="60ep",
    decay=Decay(kind="multistep", at=("60%", "85%"), factor=0.1),
    settings=Settings(
        model=Model(widths=((8,), (8, 8), (8, 8, 128))),
        batch_norm=BatchNorm(eps=1e-3, momentum=0.9, group="global", running="mean"),
        loss="logits",
        augmentation="none",
        precision="fp32",
        remainder="carry",
        evaluate_every=5,
    ),
)

# What a trial's settings say of a network of the user's own: nothing, in these words.
OWN_MODEL = Model(name="own", widths=(), init="own")
OWN_BATCH_NORM = BatchNorm(eps=0.0, momentum=1.0, group="global", running="mean")


def _quadratic_data() -> Any:
    from batchcliff.workloads.noisy_quadratic import dataset

    return dataset()


def _quadratic_network(image_shape: tuple[int, int, int], num_classes: int) -> Any:
    from batchcliff.workloads.noisy_quadratic import network

    return network(image_shape, num_classes)


# Its cliffs are known in closed form: docs/noisy_quadratic.md, workloads/quadratic_truth.py.
NOISY_QUADRATIC = Workload(
    name="noisy-quadratic",
    data=_quadratic_data,
    build=_quadratic_network,
    lr=LrRule(base=0.56, base_batch_size=64, scaling="linear"),
    budget="3ep",
    settings=Settings(
        model=OWN_MODEL,
        batch_norm=OWN_BATCH_NORM,
        loss="logits",
        augmentation="none",
        precision="fp32",
        remainder="carry",
    ),
)

WORKLOADS: dict[str, Workload] = {w.name: w for w in (ARTICLE, DIGITS, NOISY_QUADRATIC)}


def workload(name: str) -> Workload:
    """The built-in workload `name`. UsageError with the nearest known name."""
    if name not in WORKLOADS:
        raise UsageError(f"unknown workload {name!r}.{did_you_mean(name, WORKLOADS)}")
    return WORKLOADS[name]


def own_reference(name: str) -> str | None:
    """What `load_workload` finds the built-in workload `name` by, if it brings data or a
    network of its own; None for one that names are enough for, and for one of a user's."""
    found = WORKLOADS.get(name)
    if found is None or (found.build is None and isinstance(found.data, str)):
        return None
    return name


def load_workload(reference: str) -> Workload:
    """A workload by name, or by `module:function` as typed on the command line.

    The current directory is importable, as with `python -m`. UsageError if the module or the
    function is missing, if what it returns is no `Workload`, or, with file and line, if
    either raises. With a network of its own, `settings.model` and `settings.batch_norm` say
    that they do not describe it.
    """
    if ":" not in reference:
        return workload(reference)
    module_name, _, function_name = reference.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(
            f"--workload {reference}: {module_name!r} is not the name of a module. Write "
            "module:function, such as my_workload:make."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            # Not this module is missing, but one that it imports.
            raise _broken(reference, error) from error
        raise UsageError(f"--workload {reference}: {error}") from error
    except Exception as error:
        raise _broken(reference, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(
            f"--workload {reference}: {module_name} has no function {function_name!r}"
        )
    try:
        made = function()
    except Exception as error:
        raise _broken(reference, error) from error
    if not isinstance(made, Workload):
        raise UsageError(
            f"--workload {reference}: returned {type(made).__name__}, not a batchcliff Workload"
        )
    source = Path(module.__file__ or "")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16] if source.is_file() else ""
    settings = made.settings
    if made.build is not None:
        settings = replace(settings, model=OWN_MODEL, batch_norm=OWN_BATCH_NORM)
    return replace(made, settings=settings, digest=digest)


def _broken(reference: str, error: Exception) -> UsageError:
    """What the user's own code raised, with the place in it, as one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if not frame.filename.startswith("<frozen ")]
    last = ours[-1] if ours else None
    place = f" ({Path(last.filename).name}:{last.lineno})" if last else ""
    return UsageError(f"--workload {reference}: {type(error).__name__}: {error}{place}")
