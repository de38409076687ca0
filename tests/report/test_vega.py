"""Vega's engine is started early and draws in any order; the bytes do not tell."""

from __future__ import annotations

from pathlib import Path

from synthetic import Synthetic

from batchcliff.report import write_report
from batchcliff.report.vega import Engine, bundle, svg_and_png


def test_an_engine_that_was_started_before_gives_the_same_report(
    synthetic: Synthetic, report: Path, tmp_path: Path
) -> None:
    with Engine() as engine:
        files = (synthetic.study, synthetic.records(), synthetic.planned())
        write_report(*files, tmp_path / "first", engine=engine)
        write_report(*files, tmp_path / "second", engine=engine)
    names = sorted(path.name for path in report.iterdir())
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            assert (folder / name).read_bytes() == (report / name).read_bytes(), name


def test_figures_drawn_side_by_side_are_those_drawn_alone() -> None:
    def spec(size: int) -> dict[str, object]:
        rows = [{"x": x, "y": x % size} for x in range(50)]
        encoding = {axis: {"field": axis, "type": "quantitative"} for axis in "xy"}
        mark = {"type": "line", "clip": True}
        return {"data": {"values": rows}, "mark": mark, "encoding": encoding}

    with Engine() as engine:
        drawn = [engine.draw(spec(size)) for size in range(2, 10)]
        assert [one.result() for one in drawn] == [svg_and_png(spec(s)) for s in range(2, 10)]
        assert engine.bundle() == bundle()
    assert len({one.result()[0] for one in drawn}) == len(drawn)
