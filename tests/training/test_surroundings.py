"""What bits depend on beside spec and code: what is said of it, and how two places compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from batchcliff.training.precision import (
    ISA_LIMITS,
    driver_version,
    instruction_limits,
    numerics,
)
from batchcliff.training.surroundings import difference, mixture

FREE = json.dumps([["mkl_cbwr", ""], ["threads", "1"]])
LIMITED = json.dumps([["mkl_cbwr", ""], ["onednn_isa", "AVX2"], ["threads", "1"]])


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, {}),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, {"onednn_isa": "AVX2"}),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, {"onednn_isa": "AVX2"}),
        ({"ONEDNN_MAX_CPU_ISA": "Default", "MKL_ENABLE_INSTRUCTIONS": ""}, {}),
        ({"DNNL_MAX_CPU_ISA": "ALL"}, {}),
        ({"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": "AVX"}, {"onednn_isa": "AVX"}),
        ({"ONEDNN_MAX_CPU_ISA": "default", "DNNL_MAX_CPU_ISA": "AVX"}, {}),
        ({"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, {"mkl_instructions": "AVX2"}),
    ],
)
def test_a_limit_is_said_and_none_is_not(
    environment: dict[str, str], said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*ISA_LIMITS, "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.delenv(name, raising=False)
    free = dict(numerics(torch.device("cpu"), False, "plain"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert instruction_limits() == said
    pairs = numerics(torch.device("cpu"), False, "plain")
    assert dict(pairs) == free | said and list(pairs) == sorted(pairs)


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="the instruction sets are those of other processors: NOT TESTED",
)
def test_onednn_takes_the_variables_in_this_order() -> None:
    """By its own word, which it writes for people and gives nobody who asks. That it prefers
    the first of the three is documented."""
    code = "import torch; c = torch.nn.Conv2d(16, 16, 3); c(torch.ones(64, 16, 32, 32))"
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    environment |= dict(zip(ISA_LIMITS, ("", "SSE41", "AVX"), strict=True))
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in said.stdout.splitlines() if ",cpu,isa:" in line]
    assert line.endswith("Intel SSE4.1")


def test_no_limit_is_what_older_places_do_not_say() -> None:
    """In both directions, and not beside what is no fingerprint."""
    assert difference(FREE, LIMITED) == "onednn_isa 'no limit', now 'AVX2'"
    assert difference(LIMITED, FREE) == "onednn_isa 'AVX2', now 'no limit'"
    assert mixture(FREE, None, LIMITED) == (("onednn_isa", "no limit"),)
    assert mixture(LIMITED, None, FREE) == (("onednn_isa", "AVX2"),)
    assert mixture("[]", None, FREE) == mixture("x", None, FREE) == ()


def test_what_was_mixed_before_is_not_made_up() -> None:
    """Once under a limit and once without is said; the limit of now is nothing to say."""
    before = json.dumps(mixture(FREE, None, LIMITED))
    assert mixture(LIMITED, before, FREE) == (("onednn_isa", "AVX2"),)
    threads = LIMITED.replace('["threads", "1"]', '["threads", "2"]')
    before = json.dumps(mixture(threads, None, LIMITED))
    assert mixture(LIMITED, before, LIMITED) == (("threads", "2"),)


def test_an_entry_that_one_place_alone_has_is_a_difference() -> None:
    """Whichever has it: a reason without words would be none. A stranger's is no book."""
    cut = json.dumps([*json.loads(FREE), ["micro_batch", "64"]])
    assert difference(cut, FREE) == "'micro_batch' '64', now None"
    assert difference(FREE, cut) == "micro_batch None, now '64'"
    many = json.dumps([[f"\x1b{i}" * 99, "x" * 999] for i in range(999)])
    text = difference(many, FREE)
    assert text.isprintable() and len(text) < 800


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023",
            "535.104.05",
        ),
        ("NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build", "570.124.06"),
        ("NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build", "580.65.06"),
        ("in words that nobody knows", ""),
    ],
)
def test_the_version_of_a_gpus_driver_is_in_the_line_of_the_kernel_module(
    tmp_path: Path, line: str, version: str
) -> None:
    told = tmp_path / "version"
    assert driver_version(told) == "", "a container may not tell"
    told.write_text(
        f"NVRM version: {line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    assert driver_version(told) == version
