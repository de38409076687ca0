"""Where the cliff is and how far it moved: numbers with intervals. numpy and scipy only.

Start at `batchcliff.stats.summary.summarize`. docs/statistics.md derives the methods.
"""
