"""GPUs are counted by asking the driver, and torch where it says nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchcliff.study import devices
from batchcliff.study.placement import is_alone

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return %(status)d; }
int cuDeviceGetCount(int *count) { *count = 5; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int *answer, int attribute, int device) {
    if (attribute != 133 || device != 3) return 1;
    *answer = %(served)d; return %(unknown)d; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0xab, 16); uuid[15] = device; return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *name, void **handle) {
    const char *known = "GPU-abababab-abab-abab-abab-ababababab0";
    if (strncmp(name, known, strlen(known)) || strlen(name) != 40) return 6;
    *handle = (void *)(long)(name[39] - '0' + 1); return %(refused)d; }
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) {
    memory[0] = 80; memory[1] = (long)handle == 4 ? 7 : 70; memory[2] = 10; return 0; }
"""


def library(folder: Path, status: int = 0, **said: int) -> str:
    """Both parts of a driver of five GPUs, the fourth of them full: its start says `status`,
    its watcher knows a GPU by name, unless `refused`, and of the fourth it says whether it is
    `served` by MPS, unless that is `unknown` to it."""
    source, made = folder / "driver.c", folder / "libcuda.so"
    answers = {"status": status, "refused": 0, "served": 0, "unknown": 0, **said}
    source.write_text(DRIVER % answers)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source], check=True)
    return str(made)


def test_the_fullest_gpu_counts(tmp_path: Path) -> None:
    driver = library(tmp_path)
    assert devices.free_bytes(driver, driver) == 7


@pytest.mark.parametrize(("status", "refused"), [(100, 0), (0, 6)])
def test_a_driver_that_does_not_say(tmp_path: Path, status: int, refused: int) -> None:
    driver = library(tmp_path, status, refused=refused)
    assert devices.free_bytes(driver, driver) is None
    assert devices.free_bytes(driver, "libm.so.6") is None
    assert devices.free_bytes("libthere-is-none.so.1", driver) is None


@pytest.mark.parametrize(
    ("said", "served"),
    [
        ({"served": 1}, True),
        ({"served": 0}, False),
        ({"served": 1, "unknown": 1}, False),  # by an older driver
        ({"served": 1, "status": 100}, False),
    ],
)
def test_whether_kernels_of_several_processes_run_side_by_side(
    tmp_path: Path, said: dict[str, int], served: bool
) -> None:
    driver = library(tmp_path, **said)
    assert devices.is_served_by_mps(3, driver) is served
    assert devices.is_served_by_mps(2, driver) is False, "the control: it is asked of that GPU"


@pytest.mark.parametrize("named", ["libthere-is-none.so.1", "libm.so.6"])
def test_without_a_driver_no_gpu_is_served_by_mps(named: str) -> None:
    assert devices.is_served_by_mps(0, named) is False


GIGABYTES = 1 << 30


@pytest.mark.parametrize(
    ("gpus", "cores", "free", "workers"),
    [
        (1, 16, 80 * GIGABYTES, 3),
        (1, 16, None, 3),
        (8, 128, 139 * GIGABYTES, 24),
        (1, 2, 80 * GIGABYTES, 2),  # a core each
        (2, 4, None, 4),
        (4, 2, None, 4),  # one on each, whatever there is
        (1, 16, 12 * GIGABYTES, 2),  # room
        (1, 16, 4 * GIGABYTES, 1),
    ],
)
def test_how_many_train_side_by_side(
    gpus: int, cores: int, free: int | None, workers: int
) -> None:
    assert devices.workers_on(gpus, cores, free) == workers


@pytest.mark.parametrize(
    ("gpus", "cores", "workers", "free", "host", "builders"),
    [
        (1, 16, 3, 80 * GIGABYTES, 128 * GIGABYTES, 11),
        (1, 16, 3, None, None, 11),
        (1, 8, 3, 80 * GIGABYTES, None, 5),  # a core each
        (1, 2, 2, None, None, 1),
        (1, 16, 3, 24 * GIGABYTES, None, 3),  # room, beside the workers'
        (1, 16, 3, 80 * GIGABYTES, 30 * GIGABYTES, 6),  # the same of the host's
        (1, 16, 3, 80 * GIGABYTES, 8 * GIGABYTES, 1),
        (1, 16, 1, 6 * GIGABYTES, None, 1),
        (8, 128, 24, 80 * GIGABYTES, 500 * GIGABYTES, 11),
        (8, 24, 24, 80 * GIGABYTES, None, 1),
    ],
)
def test_how_many_build_kernels(
    gpus: int, cores: int, workers: int, free: int | None, host: int | None, builders: int
) -> None:
    assert devices.builders_on(gpus, cores, workers, free, host) == builders


@pytest.mark.parametrize(("status", "found"), [(0, 5), (100, None)])
def test_what_the_driver_says(tmp_path: Path, status: int, found: int | None) -> None:
    assert devices.driver_count(library(tmp_path, status)) == found


@pytest.mark.parametrize("named", ["libthere-is-none.so.1", "libm.so.6"])
def test_no_driver(named: str) -> None:
    assert devices.driver_count(named) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True),
        ('__version__ = "2.11.0+cu128"\ncuda = "12.8"\n', True),
        ("cuda: Optional[str] = None\nrocm = '6.1'\n", False),
        ("debug = False\n", False),
    ],
)
def test_what_torch_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fits: bool
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    (package / "version.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert devices.is_built_for_cuda() is fits


def test_torch_is_asked_only_where_the_driver_says_nothing() -> None:
    code = """
import sys
from batchcliff.study import devices
devices.is_built_for_cuda = lambda: True
devices.driver_count = lambda: {count}
print(devices.gpus(), "torch" in sys.modules)
"""
    for count, said in ((2, "2 False"), (0, "0 True"), (None, "0 True")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(count=count)], check=True, capture_output=True,
            text=True, env={"CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.stdout.strip() == said


@pytest.mark.parametrize(
    ("workers", "gpus", "ranks", "alone"),
    [(1, 1, 1, True), (3, 1, 1, False), (2, 2, 1, True), (3, 2, 1, False), (2, 2, 2, True)],
)
def test_who_has_a_gpu_to_himself(workers: int, gpus: int, ranks: int, alone: bool) -> None:
    assert is_alone(workers, gpus, ranks) is alone
