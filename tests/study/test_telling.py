"""What a run says of trials that run slower than they could, once for each reason."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.telling import Telling, slower

GPU = [("cuda", "13.0"), ("device", "H100")]
FUSED = "fused batch norm, ReLU and pooling: 9 layers; plain convolutions: not all"


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ("plain: 24 channels are no power of two from 8 up", "24 channels are no power of two"),
        ("plain: kernels fail their check: output off by 0.3", "kernels fail their check"),
        ("plain: a network of the user's own; not captured (why)", r"own; not captured \(why"),
        (FUSED, ""),
        ("plain: BATCHCLIFF_KERNELS=off", ""),
    ],
)
def test_why_no_kernels_run(kernels: str, said: str) -> None:
    notes: list[str] = []
    progress: Any = SimpleNamespace(note=notes.append)
    telling = Telling(progress, {}, Fingerprints([]))
    for _ in range(2):
        telling.began({"numerics": [*GPU, ("kernels", kernels)]})
    if not said:
        assert notes == []
        return
    (note,) = notes
    assert note.startswith("plain operations in place of the hand-written kernels, on this GPU")
    assert re.search(said, note)


def test_a_cpu_has_none_and_nothing_is_said() -> None:
    assert slower([("device", "EPYC"), ("kernels", "plain: no kernels for cpu")]) == ""
    assert slower([]) == ""
