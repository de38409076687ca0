"""Figures are drawn by other processes, in any order; the bytes do not tell."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from synthetic import Synthetic

from batchcliff import helper
from batchcliff.helper import Helper
from batchcliff.report import vega, write_report
from batchcliff.report.content import make_content
from batchcliff.report.vega import DIGESTS, NOTHING, SCRIPT, bundle, draw, svg_and_png


def test_a_report_written_again_is_the_same(
    synthetic: Synthetic, report: Path, tmp_path: Path
) -> None:
    files = (synthetic.study, synthetic.records(), synthetic.planned())
    write_report(*files, tmp_path / "first")
    write_report(*files, tmp_path / "second")
    names = sorted(path.name for path in report.iterdir())
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            assert (folder / name).read_bytes() == (report / name).read_bytes(), name


@pytest.mark.parametrize(("broken", "known"), [("summarize", 1), ("diagnose", 2)])
def test_charts_are_told_of_before_the_rest_is_computed(
    synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch, broken: str, known: int
) -> None:
    told: list[Any] = []
    files = (synthetic.study, synthetic.records(), synthetic.planned())
    content = make_content(*files, begin=told.append)
    assert told == [content.small, content.large] and content.small.named
    monkeypatch.setattr(f"batchcliff.report.content.{broken}", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_content(*files, begin=told.append)
    assert told[2:] == told[:known]


def test_figures_drawn_side_by_side_are_those_drawn_alone() -> None:
    def spec(size: int) -> dict[str, object]:
        rows = [{"x": x, "y": x % size} for x in range(50)]
        encoding = {axis: {"field": axis, "type": "quantitative"} for axis in "xy"}
        mark = {"type": "line", "clip": True}
        return {"data": {"values": rows}, "mark": mark, "encoding": encoding}

    drawn = [draw(spec(size)) for size in range(2, 10)]
    assert [one.result() for one in drawn] == [svg_and_png(spec(s)) for s in range(2, 10)]
    assert len({one.result()[0] for one in drawn}) == len(drawn)


@pytest.fixture
def artist() -> Any:
    """An artist of the test's own."""
    made = Helper("batchcliff.report.artist")
    yield made
    made.end()


def test_an_artist_ends_with_its_input(artist: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "PATIENCE", PATIENCE)
    assert artist.ask([json.dumps(NOTHING).encode()]) == list(svg_and_png(NOTHING))
    artist.end()
    assert artist.process.returncode == 0


def test_without_its_artist_a_figure_is_drawn_here(
    artist: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    artist.process.send_signal(signal.SIGKILL)
    artist.process.wait()
    monkeypatch.setattr(vega._own, "artist", artist, raising=False)
    assert vega._drawn(NOTHING) == svg_and_png(NOTHING)
    assert vega._own.artist is None  # nor is it asked again


def test_an_artist_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Helper, "command", ("/nonexistent",))
    monkeypatch.setattr(vega._own, "artist", None, raising=False)
    vega._begin()
    assert vega._drawn(NOTHING) == svg_and_png(NOTHING)


# The page's script, and its copy -------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every time that the script was made, nothing being known of it before."""
    made: list[object] = []
    text = bundle().encode()
    monkeypatch.setattr(vega, "_written", list[Future[bytes]]())
    monkeypatch.setattr(vega, "_asked", lambda what: made.append(what) or [text])
    return made


def test_the_digest_is_that_of_the_script() -> None:
    version = importlib.metadata.version("vl-convert-python")
    assert DIGESTS[version] == hashlib.sha256(bundle().encode()).hexdigest()


def test_a_copy_is_made_once_and_taken_from_then_on(
    written: list[object], tmp_path: Path
) -> None:
    cache = tmp_path / "new"
    first = vega._script(cache).result()
    vega._written.clear()
    assert vega._script(cache).result() == first and written == [SCRIPT]
    assert [path.read_bytes() for path in cache.iterdir()] == [first]


def test_two_that_want_the_script_at_once_get_the_same(
    written: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends sooner than it was expected to, while its artists are being started."""
    asked = []

    def slowly(copy: Path) -> bytes:
        asked.append(copy)
        time.sleep(0.05)
        return b"a copy"

    monkeypatch.setattr(vega, "kept", slowly)
    with ThreadPoolExecutor(4) as four:
        found = [four.submit(vega._script, tmp_path) for _ in range(4)]
    assert {future.result().result() for future in found} == {b"a copy"}
    assert len(asked) == len(vega._written) == 1


@pytest.mark.parametrize("planted", [b"", b"alert(1)"])
def test_a_copy_that_is_another_is_not_used_and_is_replaced(
    written: list[object], tmp_path: Path, planted: bytes
) -> None:
    copy = tmp_path / f"vega-{DIGESTS[importlib.metadata.version('vl-convert-python')]}.js"
    copy.write_bytes(planted)
    text = vega._script(tmp_path).result()
    assert text != planted and written == [SCRIPT] and copy.read_bytes() == text


def test_no_copy_of_a_version_that_is_not_known(
    written: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vega, "DIGESTS", {})
    vega._script(tmp_path).result()
    assert written == [SCRIPT] and not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_to_is_done_without(
    written: list[object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert vega._script(tmp_path / "file" / "cache").result() and written == [SCRIPT]


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / f"vega-{next(iter(DIGESTS.values()))}.js"
    os.mkfifo(pipe)
    assert vega.kept(pipe) is None  # and does not wait for a writer


def test_a_renderer_without_metadata_has_no_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert vega._copy(tmp_path) is None
