"""The helper of `batchcliff.report.vega`: requests in JSON, drawings out."""

from __future__ import annotations

import json

from batchcliff.helper import serve
from batchcliff.report.vega import NOTHING, answered, svg_and_png

if __name__ == "__main__":
    svg_and_png(NOTHING)  # loads Vega-Lite
    serve(lambda request: answered(json.loads(request[0])))
