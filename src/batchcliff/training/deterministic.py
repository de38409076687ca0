"""`--deterministic`: the same bits again, on the same machine with the same versions.

Which algorithm computes a sum is otherwise the libraries' choice: by measuring which is faster
today, or in the order in which threads happen to finish. The numbers are as good either way, so
this is an option of a run and no part of a trial's id; every record's provenance says it, and
no checkpoint of a run without it goes on in one with it.

Sources: RELIABILITY.md 5.4; PyTorch's notes on reproducibility; NVIDIA's cuBLAS
documentation, "Results reproducibility"; Intel oneMKL's "Conditional numerical
reproducibility". Our own kernels add in a fixed order (kernels/passes.py).
"""

from __future__ import annotations

ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # one workspace for each stream, of a fixed size
    "TORCHINDUCTOR_DETERMINISTIC": "1",  # compiled code is chosen without measuring
    "MKL_CBWR": "AUTO",  # the same sums wherever an array begins
}
"""Variables that libraries read as they start: to be set for a process, not in it."""


def choose_algorithms(*, deterministic: bool, alone: bool) -> None:
    """Let torch take the fastest algorithms, or only those that repeat their bits.

    alone: whether nobody else of the run uses the device. Then cuDNN tries its convolutions and
    takes what was fastest; else what it takes by its rules, since what seems fast while others
    train may be slow: on an H100 the article's network ran up to 12% slower with what had been
    found so (docs/log.md, 2026-11-23).
    With `deterministic`, an operation that has none raises RuntimeError, which names it.
    """
    import torch

    torch.backends.cudnn.benchmark = alone and not deterministic
    if deterministic or torch.are_deterministic_algorithms_enabled():
        # Not called to leave things as they are: it imports torch's compiler, for seconds.
        torch.use_deterministic_algorithms(deterministic)
