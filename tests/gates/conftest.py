"""Lets the gates import their helpers, those of the store's tests, fuzzer, locks."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
for place in (HERE, HERE.parent, HERE.parent / "study", ROOT / "fuzz", ROOT / "locks"):
    sys.path.insert(0, str(place))
