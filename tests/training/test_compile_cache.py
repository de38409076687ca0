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

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for CPUs with g++: NOT TESTED"
)


def counts(folder: Path, *damages: str) -> Any:
    """[hits, misses] of each compilation of a process that has the environment of a GPU's
    workers; every result was right."""
    ours = environment("cuda", 3) | {INDUCTOR: str(folder)}
    fewer = {"TORCHINDUCTOR_VEC_ISA_OK": "0", "OMP_NUM_THREADS": "1"}  # trial compilations
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *damages],
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
