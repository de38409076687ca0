"""Where torch's compiler and Triton keep what they have built, looked at before a run begins.

Both have rules and variables of their own (docs/compile_cache.md); Triton's folder, unless it
is named, is put into torch's for all processes of a run. Left to themselves, those in which
torch's compiler has loaded a kernel look there, the others in ~/.triton, and build what is
built. A folder that cannot be written ends every compilation with an exception, and so every
trial as failed, which is final. Sources: torch/_inductor/runtime/cache_dir_utils.py and
triton_heuristics.py of torch 2.13; triton/knobs.py of Triton 3.4.
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from pathlib import Path

from batchcliff.errors import UsageError
from batchcliff.study.files import shown

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


def compiler_folders() -> dict[str, Path]:
    """The folders that a GPU's run writes compiled code to, by the variable that moves each."""
    named = os.environ.get(INDUCTOR)
    folder = Path(named) if named is not None else Path(tempfile.gettempdir(), _usual_name())
    triton = Path(os.environ.get(TRITON) or folder / "triton")
    return {INDUCTOR: folder.absolute(), TRITON: triton.absolute()}


def check_compiler_folders(device: str) -> None:
    """Make them where they are missing, and try that they can be written to, unless `device` is
    a CPU, for which nothing is compiled. Raises UsageError."""
    if device == "cpu":
        return
    for variable, folder in compiler_folders().items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"compiled code is kept in {shown(folder)}, which cannot be written "
                f"({error.strerror}). Name a folder that can: {variable}=FOLDER"
            ) from error


def _usual_name() -> str:
    """Of torch's folder in the one for temporary files."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid_{os.getuid()}"
    return "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user)
