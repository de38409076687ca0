"""Write the hashes of what constraints.txt resolves to on this platform: `make lock`.

One file for each platform, e.g. locks/cp311-linux-x86_64.txt, from pip's own resolution.
torch is left out: which build is right depends on the machine (CPU, CUDA), and each index
has its own; its version is pinned in constraints.txt.

    pip install --require-hashes --no-deps -r locks/cp311-linux-x86_64.txt
    pip install -c constraints.txt -e ".[dev]"
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = {"torch", "batchcliff"}


def tag() -> str:
    """Interpreter and platform, e.g. "cp311-linux-x86_64"."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"{version}-{sys.platform}-{platform.machine()}"


def resolved() -> dict[str, tuple[str, str]]:
    """name -> (version, SHA-256 of the file that pip would install), sorted by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run",
                   "--ignore-installed", "--report", str(report),
                   "-c", str(ROOT / "constraints.txt"), f"{ROOT}[dev]"]  # fmt: skip
        subprocess.run(command, check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    lines = {}
    for item in found:
        name = item["metadata"]["name"]
        if name.lower() not in WITHOUT:
            sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines[name] = (item["metadata"]["version"], sha256)
    return dict(sorted(lines.items(), key=lambda pair: pair[0].lower()))


def main() -> None:
    path = ROOT / "locks" / f"{tag()}.txt"
    lines = [f"{n}=={v} --hash=sha256:{sha}" for n, (v, sha) in resolved().items()]
    head = (
        "# Written by `make lock`; see locks/write_lock.py for what it is and how to use it.\n"
    )
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    main()
