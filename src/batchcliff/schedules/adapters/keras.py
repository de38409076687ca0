"""For Keras 3: a `LearningRateSchedule` and a `Callback` that read the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchcliff.errors import UsageError
from batchcliff.schedules.adapters import require


def schedule(table: Sequence[float], peak: float) -> Any:
    """A `keras.optimizers.schedules.LearningRateSchedule`: step -> peak * table[step].

    The last entry holds for ever; values are in Keras' float precision. Pass it as
    `learning_rate=`.

    Raises:
        UsageError: Keras is not installed, or an empty table.
    """
    if not table:
        raise UsageError("an empty table of factors: the run has no update.")
    keras = require("keras", "keras")
    base: Any = keras.optimizers.schedules.LearningRateSchedule

    class TableSchedule(base):  # type: ignore[misc]  # the base is known at run time only
        """peak * table[step]."""

        def __init__(self, table: Sequence[float], peak: float) -> None:
            self.table, self.peak = [float(factor) for factor in table], float(peak)

        def __call__(self, step: Any) -> Any:
            ops = keras.ops
            values = ops.convert_to_tensor([self.peak * factor for factor in self.table])
            index = ops.clip(ops.cast(step, "int32"), 0, len(self.table) - 1)
            return ops.take(values, index)

        def get_config(self) -> dict[str, Any]:
            return {"table": self.table, "peak": self.peak}

    return TableSchedule(table, peak)


def callback(table: Sequence[float], peak: float) -> Any:
    """A `keras.callbacks.Callback` that sets the rate of every update before it is done.

    For an optimizer whose `learning_rate` is a number. The update is the optimizer's own
    count, which is saved with it: a resumed run goes on at the right rate, whatever was
    loaded first.

    Raises:
        UsageError: Keras is not installed, or an empty table.
    """
    if not table:
        raise UsageError("an empty table of factors: the run has no update.")
    keras = require("keras", "keras")
    base: Any = keras.callbacks.Callback
    rates = [float(peak * factor) for factor in table]

    class TableCallback(base):  # type: ignore[misc]  # the base is known at run time only
        """Sets peak * table[updates done]."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            optimizer = self.model.optimizer
            done = int(optimizer.iterations)
            optimizer.learning_rate = rates[min(done, len(rates) - 1)]

    return TableCallback()
