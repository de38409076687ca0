"""For optax: a schedule is a function of the update count, so the table becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.schedules.adapters import require


def schedule(table: Sequence[float], peak: float) -> Callable[[Any], Any]:
    """An optax schedule: count -> peak * table[count]; the last entry holds for ever.

    Works on traced counts, in JAX's float32. Pass it as `learning_rate=`.

    Raises:
        UsageError: JAX is not installed, or an empty table.
    """
    if not table:
        raise UsageError("an empty table of factors: the run has no update.")
    jnp = require("jax.numpy", "optax")
    values = jnp.asarray([peak * factor for factor in table])

    def at(count: Any) -> Any:
        return values[jnp.clip(count, 0, len(table) - 1)]

    return at
