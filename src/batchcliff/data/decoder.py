"""The helper of `batchcliff.data.decoding`: images as they lie in files in, pixels out."""

from __future__ import annotations

from batchcliff.data.decoding import answered
from batchcliff.helper import serve

if __name__ == "__main__":
    serve(answered)
