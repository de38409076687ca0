"""Vega and its renderer (vl-convert): the page's script, and figures as SVG and PNG.

It takes a second to start, as long again to write the page's script, and lets no other thread
of its process run meanwhile. So it runs in helpers (batchcliff.report.artist), which `start`
begins before there is anything to draw.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from batchcliff.helper import Helper
from batchcliff.report.scales import SCHEMA, Spec

CLIP = re.compile(r"(?<=[\"#])clip(\d+)(?=[\")])")  # in id="clip7" and url(#clip7)
PNG_SCALE = 1.5  # pixels of the picture for each of the drawing
NOTHING: Spec = {"$schema": SCHEMA, "data": {"values": [{}]}, "mark": "point"}
SCRIPT = "script"  # what an artist is asked for, if not for a figure
ARTISTS = 2  # a report has a handful of figures

DIGESTS = {
    "1.9.0.post1": "373b1f84072b31010f15ceb787be6b415c53936411aae267c8c2b2b6ccde46e7",
}
"""SHA-256 of `script` by the version of vl-convert: a kept copy is that one, or is not used."""

MOST_BYTES = 1 << 24  # of a kept copy; the script has 0.9 million

_own = threading.local()  # .artist: each thread of the pool speaks with its own helper
# A run starts the artists in a thread, and may want them in another before that is done.
_one_at_a_time = threading.RLock()


def start(cache: Path | None = None) -> None:
    """Start the artists, and have the page's script written unless a copy of it lies in the
    folder `cache`, which gets one."""
    _pool()
    _script(cache)


def draw(spec: Spec) -> Future[tuple[bytes, bytes]]:
    """`svg_and_png` of a figure, later."""
    return _pool().submit(_drawn, spec)


def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one inline script."""
    return _script(None).result().decode()


def _pool() -> ThreadPoolExecutor:
    with _one_at_a_time:
        return _new_pool()


@functools.cache
def _new_pool() -> ThreadPoolExecutor:
    count = min(ARTISTS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(count, initializer=_begin)
    for _ in range(count):  # threads, and with them processes, are made for what is to be done
        pool.submit(int)
    return pool


_written: list[Future[bytes]] = []  # the page's script, once somebody wanted it


def _script(cache: Path | None) -> Future[bytes]:
    with _one_at_a_time:
        if not _written:
            copy = _copy(cache)
            known = None if copy is None else kept(copy)
            if known is not None:
                _written.append(Future())
                _written[0].set_result(known)
            else:
                _written.append(_pool().submit(_write_script, copy))
        return _written[0]


def _copy(cache: Path | None) -> Path | None:
    """Where a copy of the script would lie; None for a version whose script is not known."""
    digest = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        digest = DIGESTS.get(importlib.metadata.version("vl-convert-python"))
    return None if cache is None or digest is None else cache / f"vega-{digest}.js"


def kept(copy: Path) -> bytes | None:
    """The script in a file that is named by its digest; None if it is not there, or another.

    The folder may be shared with others: what lies there is not believed, and what is no
    plain file is not opened.
    """
    with contextlib.suppress(OSError):
        if copy.is_file() and copy.stat().st_size < MOST_BYTES:
            text = copy.read_bytes()
            return text if _is_named(copy, text) else None
    return None


def _is_named(copy: Path, text: bytes) -> bool:
    return copy.name == f"vega-{hashlib.sha256(text).hexdigest()}.js"


def _write_script(copy: Path | None) -> bytes:
    text = _asked(SCRIPT)[0]
    if copy is not None and _is_named(copy, text):
        with contextlib.suppress(OSError):  # a folder that cannot be written to: no copy
            copy.parent.mkdir(parents=True, exist_ok=True)
            temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
            with temporary.open("xb") as file:  # nor through a link that somebody laid there
                file.write(text)
            temporary.replace(copy)
    return text


def _begin() -> None:
    _own.artist = None
    with contextlib.suppress(OSError):  # no more processes: then it is done in this one
        _own.artist = Helper("batchcliff.report.artist")


def _drawn(spec: Spec) -> tuple[bytes, bytes]:
    svg, png = _asked(spec)
    return svg, png


def _asked(request: Spec | str) -> list[bytes]:
    if _own.artist is not None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            parts: list[bytes] = _own.artist.ask([json.dumps(request).encode()])
            return parts
        _own.artist = None  # killed, or something was wrong, which is said here
    return answered(request)


def answered(request: Spec | str) -> list[bytes]:
    """The script, or the SVG and the PNG of a figure, in this process."""
    if request == SCRIPT:
        return [script().encode()]
    assert not isinstance(request, str)
    return list(svg_and_png(request))


def script() -> str:
    """`bundle`, in this process."""
    import vl_convert

    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    text = text.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # as an HTML parser would, for the hash
    assert "</script" not in text.lower() and "<!--" not in text
    return text


def svg_and_png(spec: Spec) -> tuple[bytes, bytes]:
    """(SVG, PNG) of one figure, in this process; of small charts, a PNG pixel by pixel."""
    import vl_convert

    svg = _renumber(vl_convert.vegalite_to_svg(spec))
    png = vl_convert.svg_to_png(svg, scale=1.0 if "concat" in spec else PNG_SCALE)
    return svg.encode(), png


def _renumber(svg: str) -> str:
    """Vega numbers clip paths over the life of the process; the same picture must be the
    same bytes, so they are numbered anew from 0.
    """
    numbers = {n: i for i, n in enumerate(dict.fromkeys(CLIP.findall(svg)))}
    return CLIP.sub(lambda found: f"clip{numbers[found[1]]}", svg)
