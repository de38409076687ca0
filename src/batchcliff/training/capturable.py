"""A network of the user's own whose passes no compiler takes, or no graph can hold.

Then they run as they are, slower and with the same result, and the record's numerics say why.
The architectures that come with the tool need no such trial.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from batchcliff.training.compiled import rewound

WAITED = "called a synchronizing CUDA operation"  # torch's words in its mode "error"


def uncompilable(function: Callable[[], None], changes: list[Tensor]) -> str:
    """Why the compiler does not take what `function` calls; "" if it does. It has run then, and
    what it changed is undone. Raises what is no compiler's error."""
    try:
        with rewound(changes):
            function()
    except torch._dynamo.exc.TorchDynamoException as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise
        return f"not compiled ({_short(error)})"
    return ""


def uncapturable(function: Callable[[], None], changes: list[Tensor]) -> str:
    """Why no CUDA graph can hold `function`, which has run before; "" if one can.

    It runs once more in the mode in which torch refuses to wait for the device, so that what a
    capture would break on, such as a branch on a tensor's value, is found with nothing broken.
    """
    before = torch.cuda.get_sync_debug_mode()
    with rewound(changes):
        torch.cuda.set_sync_debug_mode("error")
        try:
            function()
        except RuntimeError as error:
            if WAITED not in str(error):
                raise
            return "not captured (a pass waits for the device, as a branch on a value does)"
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:200]
