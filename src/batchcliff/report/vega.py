"""Vega and its renderer (vl-convert): the page's script, and figures as SVG and PNG.

Its engine takes a second to start and runs outside of the GIL, in threads of its own, so it
is started before anything is there to draw: `Engine`.
"""

from __future__ import annotations

import functools
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import vl_convert

from batchcliff.report.scales import SCHEMA, Spec

CLIP = re.compile(r"(?<=[\"#])clip(\d+)(?=[\")])")  # in id="clip7" and url(#clip7)
PNG_SCALE = 1.5  # pixels of the picture for each of the drawing
NOTHING: Spec = {"$schema": SCHEMA, "data": {"values": [{}]}, "mark": "point"}


class Engine:
    """Draws figures while the caller goes on. A context: what is begun is waited for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=4)
        self._bundle = self._pool.submit(bundle)
        self._pool.submit(vl_convert.vegalite_to_svg, NOTHING)  # loads Vega-Lite

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def draw(self, spec: Spec) -> Future[tuple[bytes, bytes]]:
        """`svg_and_png` of a figure, later."""
        return self._pool.submit(svg_and_png, spec)

    def bundle(self) -> str:
        """`bundle()`, once it is there."""
        return self._bundle.result()


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one inline script."""
    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    text = text.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # as an HTML parser would, for the hash
    assert "</script" not in text.lower() and "<!--" not in text
    return text


def svg_and_png(spec: Spec) -> tuple[bytes, bytes]:
    """(SVG, PNG) of one figure; of small charts, a PNG pixel by pixel."""
    svg = _renumber(vl_convert.vegalite_to_svg(spec))
    png = vl_convert.svg_to_png(svg, scale=1.0 if "concat" in spec else PNG_SCALE)
    return svg.encode(), png


def _renumber(svg: str) -> str:
    """Vega numbers clip paths over the life of the process; the same picture must be the
    same bytes, so they are numbered anew from 0.
    """
    numbers = {n: i for i, n in enumerate(dict.fromkeys(CLIP.findall(svg)))}
    return CLIP.sub(lambda found: f"clip{numbers[found[1]]}", svg)
