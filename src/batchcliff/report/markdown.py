"""The report's Markdown twin, for pull requests and READMEs."""

from __future__ import annotations

from batchcliff.report.content import Content
from batchcliff.report.pagetables import Table
from batchcliff.report.tables import markdown_cell, markdown_table


def results_markdown(content: Content, tables: dict[str, Table]) -> str:
    """Answer, cliffs, shifts, results in the article's form, a published table, warnings."""
    parts = [f"# {markdown_cell(content.study.name) or '(no name)'}\n"]
    parts.append("".join(f"- {markdown_cell(s)}\n" for s in content.headline))
    parts.append(f"{markdown_cell(content.large.accuracy.subtitle)}.\n")
    for name in ("cliffs", "shifts", "accuracy", "tuning", "published"):
        if name in tables and tables[name].rows:
            table = tables[name]
            parts.append(f"**{markdown_cell(table.caption)}**\n")
            parts.append(markdown_table(table.header, table.rows))
    cautions = [*([content.data_note] if content.data_note else []), *content.warnings]
    if cautions:
        parts.append("**Before you believe a fall**\n")
        parts.append("".join(f"- {markdown_cell(c)}\n" for c in cautions))
    counts = ", ".join(f"{n} {name}" for name, n in content.counts.items())
    parts.append(f"Trials: {counts}.\n")
    return "\n".join(parts)
