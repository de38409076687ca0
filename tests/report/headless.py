"""A headless Chromium for the tests: open a page, say what it drew, logged and asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Visit:
    """What one visit of a page left behind."""

    console: tuple[str, ...]  # every message, policy violations among them
    requests: tuple[str, ...]  # URLs that the page asked for
    dom: str  # the document after its scripts have run


def find() -> str:
    """The browser's path; the test is skipped, with a reason, where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"BROWSER TEST NOT RUN: none of {', '.join(NAMES)} is installed")
    return found


def visit(
    page: Path,
    scratch: Path,
    *,
    width: int = 1100,
    height: int = 2400,
    shot: Path | None = None,
) -> Visit:
    """Open `page`; all names resolve to nothing, so that no request could be answered."""
    log = scratch / "net.json"
    command = [
        find(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--no-first-run", "--disable-extensions", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=15000", f"--window-size={width},{height}",
        f"--screenshot={shot}" if shot else "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    out, err = _run(command)
    console = re.findall(r":CONSOLE[:(]\d+[^\]]*\] (.*)", err)
    return Visit(tuple(console), _requests(log), out)


def _run(command: list[str]) -> tuple[str, str]:
    """Its own process group, so that a hung browser leaves no helper behind."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the browser hung: {err.decode(errors='replace')[-2000:]}")
    assert process.returncode == 0, err.decode(errors="replace")[-2000:]
    return out.decode(errors="replace"), err.decode(errors="replace")


def _requests(log: Path) -> tuple[str, ...]:
    """URLs that the page asked for; the browser's own requests have no origin."""
    text = log.read_text(errors="replace").rstrip().rstrip(",")
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the log of a killed browser is not closed
        events = json.loads(text + "]}")["events"]
    found = [event.get("params", {}) for event in events]
    own = (None, "not an origin")
    return tuple(dict.fromkeys(p["url"] for p in found if p.get("initiator") not in own))
