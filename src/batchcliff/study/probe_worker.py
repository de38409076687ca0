"""The process of a probe: `python -m batchcliff.study.probe_worker FD PARENT`.

A worker (study/worker.py) whose jobs are parts of a probe: readings go out, and no record.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from batchcliff.canonical import from_plain, to_plain
from batchcliff.spec import TrialSpec
from batchcliff.study.worker import Channel, Station, is_out_of_memory, main
from batchcliff.training.probe_readings import READINGS, Ended, Reading, Speed

NAMES = {kind: name for name, kind in READINGS.items()}


class ProbeStation(Station):
    """Measures where a worker would train."""

    def __init__(
        self, channel: Channel, setup: dict[str, Any], descriptors: Sequence[int] = ()
    ) -> None:
        super().__init__(channel, setup, descriptors)
        if self.device.type == "cpu":
            from batchcliff.training.quick_probe import limit_host_memory

            limit_host_memory()

    def work(self, job: dict[str, Any]) -> None:
        """Send the readings of one part as they come; the last one says why it ended."""
        specs = [from_plain(TrialSpec, plain) for plain in job["specs"]]
        measured = 0
        try:
            for reading in self.readings(job["part"], specs, job["seconds"]):
                measured += isinstance(reading, Speed)
                self.tell(reading)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = specs[min(measured, len(specs) - 1)].batch_size
            words = str(error).partition("\n")[0][:300]
            self.tell(Ended(reason="memory", batch_size=size, words=words))

    def readings(self, part: str, specs: list[TrialSpec], seconds: float) -> Iterator[Reading]:
        """Of the part "speed" or "gradients" (training/quick_probe.py)."""
        from batchcliff.training.quick_probe import places, speeds

        classes, build = self.material.dataset.num_classes, self.material.build
        if part == "speed":
            return speeds(
                specs, self.resident, num_classes=classes, user_build=build, seconds=seconds
            )
        (spec,) = specs
        return places(
            spec, self.resident, num_classes=classes, user_build=build, seconds=seconds
        )

    def tell(self, reading: Reading) -> None:
        """One reading, under the name of its kind."""
        self.channel.send("reading", kind=NAMES[type(reading)], reading=to_plain(reading))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), ProbeStation))
