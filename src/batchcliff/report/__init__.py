"""Reports: what a study says, as figures, tables and one HTML page.

Start at `write_report`. `batchcliff.report.tables` has the rows that `export` prints; it
needs neither charts nor templates, so those are imported only when a report is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchcliff.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from batchcliff.report import write

        return getattr(write, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
