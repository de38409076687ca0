"""The process of `batchcliff.report.vega.Artist`: requests in, drawings out.

It ends with its input. A request is a line of JSON; the answer, a line of JSON with the sizes
of its parts, and the parts. Who asks finds out why there is none by doing it himself.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from batchcliff.report.vega import NOTHING, answered, svg_and_png


def main() -> None:
    """Serve standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's, meant for who asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    svg_and_png(NOTHING)  # loads Vega-Lite
    for line in sys.stdin.buffer:
        parts = answered(json.loads(line))
        sizes = [len(part) for part in parts]
        answers.write(json.dumps({"sizes": sizes}).encode() + b"\n" + b"".join(parts))
        answers.flush()


if __name__ == "__main__":
    main()
