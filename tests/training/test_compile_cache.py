"""What docs/compile_cache.md says of the folder of compiled code, of which torch has the rules.

With torch's compiler for CPUs, which keeps its graphs as the one for GPUs does; a run compiles
nothing on a CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchcliff.study.compile_cache import INDUCTOR
from batchcliff.study.placement import environment

# Compiles a function, and once more where it is told what to write into all kept graphs.
PROGRAM = """
import json, pathlib, sys
import torch
from torch._dynamo.utils import counters

folder, told = pathlib.Path(sys.argv[1]), []
for damage in ["", *sys.argv[2:]]:
    for graph in folder.glob("*/??*/*/*") if damage else ():
        graph.write_bytes(damage.encode())
    torch.compiler.reset()
    counters.clear()
    x = torch.linspace(-1, 1, 64)
    y = torch.compile(lambda x: x.relu() * 2 + x)(x)
    assert torch.equal(y, torch.where(x > 0, x * 2, 0) + x)
    found = counters["inductor"]
    told.append([found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]])
print(json.dumps(told))
"""

# The optimizer compiled ahead, then an update of a trial, whose optimizer is compiled too; told
# "set", as if something else of the process had set what it was anyway.
AHEAD = """
import dataclasses, json, sys
import torch
from torch._dynamo.utils import counters
from bench_training import random_data, trial
from batchcliff.training import prepare, rehearsal
from batchcliff.workloads import DIGITS

data = random_data((8, 8, 3), 64, 16, "cpu")  # as many channels as a rehearsal takes
model = dataclasses.replace(DIGITS.settings.model, widths=((4,),))
settings = dataclasses.replace(DIGITS.settings, model=model)
spec = dataclasses.replace(trial(DIGITS, 16, 1, 0), settings=settings)
rehearsal.compiles = lambda _: True
rehearsal.rehearse(settings, torch.device("cpu"), ["optimizer"])
torch._dynamo.reset()
counters.clear()
if sys.argv[1:]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
loop = prepare.prepare(spec, data, num_classes=10, stack=1).loop
loop.apply_function = torch.compile(loop.apply_function, dynamic=False)
loop.update()
found = counters["inductor"]
print(json.dumps([found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]]))
"""

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for CPUs with g++: NOT TESTED"
)


def counts(folder: Path, *damages: str) -> Any:
    """[hits, misses] of each compilation; every result was right."""
    return said(PROGRAM, folder, str(folder), *damages)


def said(program: str, folder: Path, *arguments: str) -> Any:
    """What a process says that has the environment of a GPU's workers."""
    ours = environment("cuda", 3) | {
        INDUCTOR: str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    fewer = {"TORCHINDUCTOR_VEC_ISA_OK": "0", "OMP_NUM_THREADS": "1"}  # trial compilations
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | ours | fewer,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_one_process_has_built_another_uses_and_damaged_graphs_are_built_anew(
    tmp_path: Path,
) -> None:
    assert counts(tmp_path / "kept") == [[0, 1]]
    found, (hits, misses) = counts(tmp_path / "kept", "nonsense")
    assert found == [1, 0], "the control: it is used where it is whole"
    assert hits == 0 and misses > 0


def test_the_optimizer_that_is_compiled_ahead_is_found_by_a_trial(tmp_path: Path) -> None:
    """Torch's name for compiled code says whether TF32 was ever set, if only to what it was."""
    assert said(AHEAD, tmp_path / "kept") == [1, 0]
    assert said(AHEAD, tmp_path / "again", "set") == [0, 1], "the control"
