"""What this machine has and lacks for running studies, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchcliff.errors import BatchcliffError
from batchcliff.host import cores
from batchcliff.study.printable import printable

GIGABYTE = 1e9
OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 10)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` is empty where nothing is to be done."""

    what: str
    found: str
    fine: bool = True
    advice: str = ""


def checks(data: Path | None = None) -> tuple[Check, ...]:
    """Every check, in the order in which they matter. `data`: a local copy to look at."""
    found: list[Check] = []
    for look in (_batchcliff, _python, _torch, _devices, _threads, _memory, _disk, _digits):
        found.append(_safely(look))
    found.append(_safely(lambda: _cifar10(data)))
    return tuple(found)


def _safely(look: Callable[[], Check]) -> Check:
    """A check that fails is a finding, since the doctor is called when things are broken."""
    try:
        return look()
    except Exception as error:  # a broken driver may raise anything
        name = getattr(look, "__name__", "check").strip("_<>")
        return Check(name, f"{type(error).__name__}: {printable(error, 200)}", fine=False)


def _batchcliff() -> Check:
    from batchcliff import __version__

    return Check("batchcliff", __version__)


def _python() -> Check:
    fine = sys.version_info >= OLDEST_PYTHON
    advice = "" if fine else "Python 3.11 or newer is needed."
    return Check("python", f"{platform.python_version()} on {platform.system()}", fine, advice)


def _torch() -> Check:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        advice = (
            "Training needs it: pip install torch. Plans, reports and exports do without it."
        )
        return Check("torch", "not installed", False, advice)
    numbers = [int(n) for n in version.split("+")[0].split(".")[:2] if n.isdigit()]
    fine = tuple(numbers) >= OLDEST_TORCH
    return Check("torch", version, fine, "" if fine else "torch 2.10 or newer is needed.")


def _devices() -> Check:
    import torch

    if not torch.cuda.is_available():
        advice = "The recipe digits runs on the CPU; for article use a machine with a GPU."
        if shutil.which("nvidia-smi"):
            advice = (
                "There is an NVIDIA driver, but this torch cannot use it: install one for CUDA."
            )
        return Check("device", "cpu only", True, advice)
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / GIGABYTE
        names.append(f"cuda:{index} {properties.name}, {memory:.0f} GB")
    return Check("device", "; ".join(names))


def _threads() -> Check:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return Check("threads", f"{cores()} CPUs" + (f", OMP_NUM_THREADS={limit}" if limit else ""))


def _memory() -> Check:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total = pages * size / GIGABYTE
    fine = total >= 2
    advice = "" if fine else "Run with --workers 1: each worker needs about 1 GB."
    return Check("memory", f"{total:.1f} GB", fine, advice)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIGABYTE
    writable = os.access(Path.cwd(), os.W_OK)
    advice = "" if free >= 0.5 else "Less than 0.5 GB free: name a roomier folder with --out."
    if not writable:
        advice = "This folder cannot be written to: name another with --out."
    found = f"{free:.1f} GB free in {printable(Path.cwd(), 200)}"
    return Check("disk", found, not advice, advice)


def _digits() -> Check:
    from batchcliff.data import sources

    try:
        dataset = sources.load("digits")
    except BatchcliffError as error:
        return Check("data: digits", "missing", False, printable(error))
    return Check("data: digits", printable(dataset.source))


def _cifar10(data: Path | None) -> Check:
    from batchcliff.data import cifar, sources

    if data is not None:
        try:
            dataset = sources.load("cifar10", data)
        except BatchcliffError as error:
            return Check("data: cifar10", "not usable", False, printable(error))
        return Check("data: cifar10", printable(dataset.source))
    path = sources.default_folder() / cifar.ARCHIVE.name
    if path.is_file():
        return Check("data: cifar10", f"{printable(path, 200)}")
    advice = (
        f"The first run downloads it ({cifar.ARCHIVE.size / 1e6:.0f} MB); without a network "
        "give a local copy with --data PATH."
    )
    return Check("data: cifar10", "not here yet", True, advice)
