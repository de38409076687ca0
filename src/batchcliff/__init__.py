"""batchcliff: where is the batch-size cliff of your workload, and how far can it be moved?

Importing this package imports neither torch nor numpy; the public names load on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"
