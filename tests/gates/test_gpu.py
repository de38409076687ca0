"""G16: on a GPU, runs repeat their bits, out of memory is an outcome, and a kill frees all.

On one H100: `pytest -m gpu tests/gates/test_gpu.py`. What can be had without a GPU runs by
the same code on a CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import PATIENCE
from study_runs import Told, attempts, driver, outcomes, run, study_of

from batchcliff.training.deterministic import ENVIRONMENT

HERE = Path(__file__).resolve().parent
GPU = pytest.mark.gpu
FREED_SECONDS = 10.0  # from a kill until the memory is free: RELIABILITY.md, G16


def needs_gpu() -> None:
    """Skips where there is none; torch is not asked where the kernel shows no GPU."""
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("needs a CUDA device")


def repeat(device: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    """A process of its own, with nothing compiled before."""
    own = folder / ("second" if more else "first")
    command = [sys.executable, str(HERE / "repeat.py"), device, str(folder / "save"), *more]
    caches = {"TORCHINDUCTOR_CACHE_DIR": f"{own}-inductor", "TRITON_CACHE_DIR": f"{own}-triton"}
    places = (str(HERE.parent / "training"), os.environ.get("PYTHONPATH"))
    path = os.pathsep.join(filter(None, places))
    environment = {**os.environ, **ENVIRONMENT, **caches, "PYTHONPATH": path}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


Said = tuple[str, dict[str, str], dict[str, str]]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """The device, and what two processes say that run side by side on it."""
    device, folder = str(request.param), tmp_path_factory.mktemp("repeat")
    if device == "cuda":
        needs_gpu()
    runs = [repeat(device, folder), repeat(device, folder, "gone")]
    told = []
    for process in runs:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        told.append(json.loads(out.splitlines()[-1]))
    return device, told[0], told[1]


def test_two_runs_and_a_resumed_one_are_bit_equal(said: Said) -> None:
    """Weights, optimizer, logs and record, in the deterministic mode."""
    device, first, second = said
    assert second["from"] == "8", "a third of the way"
    assert first["whole"] == second["whole"] == second["resumed"]
    if device == "cuda":
        assert first["compiled"] == "True" and first["kernels"].startswith("fused"), first


def test_control_one_bit_of_a_weight_is_noticed(said: Said) -> None:
    """The same checkpoint with its lowest bit changed ends elsewhere."""
    _, _, second = said
    assert second["disturbed"] != second["whole"]


@GPU
def test_out_of_memory_on_the_device_is_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that takes all of the device's memory: `oom`, and the next one works."""
    needs_gpu()
    monkeypatch.setenv("FAULTS", json.dumps({"0": "fill"}))
    told = Told()
    summary = run(
        study_of(seeds=2, batch_sizes=(16,)),
        tmp_path / "s",
        told,
        workers=1,
        device="cuda",
        micro_batch=16,
    )
    assert (summary.exit_code, outcomes(tmp_path / "s")) == (0, {0: "oom", 1: "ok"})
    reasons = [event[2].reason for event in told.of("finished")]
    (reason,) = [reason for reason in reasons if reason]
    assert "CUDA out of memory" in reason and "GiB" in reason, reason
    assert attempts(tmp_path / "s")[0] == ["interrupted"], "it uses no attempt up"


@GPU
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_kill_9_frees_the_memory_of_the_device(tmp_path: Path, victim: str) -> None:
    needs_gpu()
    import torch

    def free() -> float:
        return torch.cuda.mem_get_info()[0] / 2**30

    before, holds = free(), tmp_path / "holds"
    code = (
        "import sys\nfrom pathlib import Path\nfrom study_runs import run, study_of\n"
        "run(study_of(seeds=1, batch_sizes=(16,)), Path(sys.argv[1]), workers=1, device='cuda')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    with driver(command, tmp_path / "o", FAULTS=json.dumps({"0": f"hold {holds}"})) as one:
        one.meets(holds.exists)
        assert free() < before - 1.9, "the control: it holds two gigabytes"
        if victim == "worker":
            os.kill(one.process.pid, signal.SIGSTOP)  # else it would start another one
            for pid in one.workers():
                os.kill(pid, signal.SIGKILL)
        else:
            os.kill(one.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        while free() < before - 0.3:
            assert time.monotonic() - killed < FREED_SECONDS, (before, free())
            time.sleep(0.05)
