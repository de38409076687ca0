"""What a run tells: the arithmetic of the time left, and each rendering."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from rich.console import Console

from batchcliff.record import Outcome, Provenance, TrialRecord
from batchcliff.spec import TrialSpec
from batchcliff.study.grid import trials
from batchcliff.study.live import LiveProgress
from batchcliff.study.printable import hidden_character, printable
from batchcliff.study.progress import (
    SOON,
    Foreseeing,
    JsonProgress,
    PlainProgress,
    Progress,
    SilentProgress,
    Tracker,
    duration_text,
    make_progress,
    rate_text,
    record_text,
)
from batchcliff.studyfile import load_study, parse_study, recipe_text

NASTY = "a\x1b]0;owned\x07\x1b[2J\u202eb\r\n[red]c[/red]"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def specs(*sizes: int) -> list[TrialSpec]:
    study = load_study("article", batch_sizes=",".join(map(str, sizes)))
    return [t for t in trials(study, "d" * 64) if t.arm == "none"]


def ended(spec: TrialSpec, outcome: Outcome = Outcome.OK, updates: int = 100) -> TrialRecord:
    return TrialRecord(
        spec=spec,
        outcome=outcome,
        accuracy=0.9175 if outcome is Outcome.OK else None,
        first_bad_update=updates if outcome is Outcome.DIVERGED else None,
        reason="" if outcome is Outcome.OK else "loss not finite",
        updates=updates,
        provenance=Provenance(
            seconds=12.5,
            compile_seconds=0.0,
            examples_per_second=1e5,
            started="2026-01-01T00:00:00Z",
            stacked=1,
            device="test",
        ),
    )


# --- the arithmetic


def test_time_left_comes_from_examples_not_from_trials() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    large, small = specs(1024, 128)  # the grid's order: the largest first
    work = 100 * 1024 + 900 * 128
    tracker.started(2, 0, work, 0)
    assert tracker.seconds_left is None  # no rate yet, and none invented
    tracker.trial_started(large, 100)
    clock.now += 10
    tracker.advanced(large.trial_id, 50, 100, 5120.0)
    assert tracker.examples_per_second == pytest.approx(50 * 1024 / 10)
    assert tracker.seconds_left == pytest.approx((work - 50 * 1024) / 5120)
    clock.now += 10
    tracker.finished(ended(large))
    assert tracker.share == pytest.approx(100 * 1024 / work)
    assert tracker.seconds_left == pytest.approx(900 * 128 / 5120)  # not "half of the trials"
    tracker.trial_started(small, 900)
    tracker.finished(ended(small, updates=900))
    assert (tracker.share, tracker.seconds_left, tracker.done) == (1.0, 0.0, 2)


def test_an_early_divergence_takes_its_whole_plan_off_the_work_but_not_into_the_rate() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    one, two = specs(1024, 512)
    tracker.started(2, 0, 100 * 1024 + 200 * 512, 0)
    tracker.trial_started(one, 100)
    clock.now += 4
    tracker.advanced(one.trial_id, 10, 100, 0.0)
    tracker.finished(ended(one, Outcome.DIVERGED, updates=10))
    assert tracker.share == pytest.approx(0.5)
    assert tracker.examples_per_second == pytest.approx(10 * 1024 / 4)
    del two


def test_a_resumed_study_counts_what_was_done_before_as_work_but_not_as_speed() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    (one,) = specs(128)
    tracker.started(2, 1, 2 * 12800, 12800)
    assert tracker.share == pytest.approx(0.5)
    tracker.trial_started(one, 100)
    clock.now += 1
    tracker.advanced(one.trial_id, 10, 100, 1280.0)
    assert tracker.seconds_left == pytest.approx(90 * 128 / 1280)


def test_a_trial_that_crashed_begins_once_more() -> None:
    tracker = Tracker(Clock())
    (one,) = specs(128)
    tracker.started(1, 0, 12800, 0)
    tracker.trial_started(one, 100)
    tracker.advanced(one.trial_id, 50, 100, 0.0)
    tracker.trial_started(one, 100)
    assert tracker.share == 0.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "advance", "finish", "tick"]),
            st.integers(0, 2),
            st.integers(0, 120),
        ),
        max_size=30,
    )
)
def test_law_share_and_time_left_are_sane_whatever_comes(
    events: list[tuple[str, int, int]],
) -> None:
    clock, tracker = Clock(), None
    tracker = Tracker(clock)
    three = specs(1024, 512, 128)
    tracker.started(3, 0, sum(100 * s.batch_size for s in three), 0)
    gone: set[int] = set()
    for event, which, number in events:
        spec = three[which]
        if event == "tick":
            clock.now += number
        elif event == "start" and which not in gone:
            tracker.trial_started(spec, 100)
        elif event == "advance":
            tracker.advanced(spec.trial_id, min(number, 100), 100, math.nan)
        elif event == "finish" and which not in gone:
            gone.add(which)
            tracker.finished(ended(spec, updates=100))
        assert 0.0 <= tracker.share <= 1.0
        assert tracker.seconds_left is None or tracker.seconds_left >= 0
        assert tracker.done == len(gone)


def test_texts() -> None:
    found = [duration_text(s) for s in (None, math.nan, 0.2, 75, 99.6, 720, 12000)]
    assert found == ["unknown", "unknown", "0 s", "75 s", "2 min", "12 min", "3 h 20 min"]
    assert rate_text(140_000.4) == "140,000 examples/s"
    assert [rate_text(r) for r in (None, 0.0, math.nan)] == ["", "", ""]
    assert record_text(ended(specs(4096)[0])) == (
        "none, batch 4096, seed 0, ok, accuracy 0.9175, 12.5 s"
    )
    bad = record_text(ended(specs(4096)[0], Outcome.DIVERGED, 7))
    assert bad == "none, batch 4096, seed 0, diverged, at update 7, 12.5 s"


# --- strings of others


@given(st.text())
def test_law_printable_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or shown == ""
    assert len(shown) <= 500
    if text.isprintable() and len(text) <= 500 and "\xa0" not in text:
        assert shown == text


def test_hidden_characters_are_found_unless_allowed() -> None:
    assert hidden_character("ok 学習率") is None
    assert hidden_character("a\x1bb") == "\x1b"
    assert hidden_character("a\nb", "\n") is None


def drive(progress: Progress) -> None:
    """Everything that can be told, with hostile strings."""
    text = recipe_text("article").replace("[arms.none]", "[arms.placeholder]")
    study = parse_study(text, overrides=["reference_arm=warmup", "batch_sizes=[128]"])
    first, second = trials(study, "d" * 64)
    nasty = dataclasses.replace(first, arm=NASTY)
    progress.started(total=3, done=1, examples=3 * 12800, examples_done=12800)
    progress.trial_started(nasty, updates=100)
    progress.advanced(nasty.trial_id, 50, 100, math.nan)
    progress.advanced(nasty.trial_id, 100, 100, 1e5)
    progress.advanced("unknown", 1, 100, 1.0)
    progress.finished(ended(nasty))
    failed = dataclasses.replace(ended(second, Outcome.FAILED), reason=NASTY, provenance=None)
    progress.finished(failed)
    progress.note(NASTY)
    progress.ended(exit_code=3, text=NASTY)
    progress.ended(exit_code=3, text="twice")


def test_plain_lines_have_the_time_left_and_no_control_characters() -> None:
    stream = io.StringIO()
    drive(PlainProgress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "3 trials, 1 of them done before"
    assert lines[1].startswith("[2/3] a]0;owned[2Jb [red]c[/red], batch 128, seed 0, ok, ")
    assert " left)" in lines[1]
    assert lines[2].startswith("[3/3] warmup, batch 128, seed 0, failed, a]0;owned")
    assert "left" not in lines[2]
    assert lines[3].startswith("note: a]0")
    assert len(lines) == 5  # "twice" is not told
    assert all(line.isprintable() for line in lines)


def test_json_lines_are_json_without_nan() -> None:
    stream = io.StringIO()
    drive(JsonProgress(stream))

    def refuse(text: str) -> None:
        raise AssertionError(text)

    events = [json.loads(t, parse_constant=refuse) for t in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == [
        "started", "trial_started", "advanced", "advanced", "finished", "finished", "note",
        "ended",
    ]  # fmt: skip
    assert stream.getvalue().isascii()
    assert events[2]["examples_per_second"] is None
    assert events[4]["arm"] == NASTY  # scripts get what there is, escaped
    assert events[4]["accuracy"] == 0.9175
    assert events[-1]["exit_code"] == 3


def test_json_tells_of_advances_once_a_second_and_of_the_last_always() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = JsonProgress(stream, clock)
    (one,) = specs(128)
    progress.started(total=1, done=0, examples=12800, examples_done=0)
    progress.trial_started(one, updates=100)
    for update in range(1, 101):
        clock.now += 0.1
        progress.advanced(one.trial_id, update, 100, 1.0)
    advanced = [e for e in map(json.loads, stream.getvalue().splitlines()) if "update" in e]
    assert 9 <= len(advanced) <= 12
    assert advanced[-1]["update"] == 100


def live(monkeypatch: pytest.MonkeyPatch, **settings: bool) -> str:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = io.StringIO()
    drive(LiveProgress(stream, console=Console(file=stream, force_terminal=True, **settings)))
    return stream.getvalue()


def test_the_live_display_shows_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = live(monkeypatch)
    assert "[red]c[/red]" in shown  # no markup of others is obeyed
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "\x1b[32m" in shown
    assert "1/3 trials" in shown


def test_a_running_trial_is_a_line_with_its_name_as_text() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    progress = LiveProgress(stream, console=console)
    nasty = dataclasses.replace(specs(128)[0], arm="[red]c[/red]")
    progress.started(total=1, done=0, examples=12800, examples_done=0)
    progress.trial_started(nasty, updates=100)
    progress.advanced(nasty.trial_id, 25, 100, 5000.0)
    progress.ended(exit_code=130)
    shown = stream.getvalue()
    assert "[red]c[/red], batch 128, seed 0" in shown
    assert "25/100 updates, 5,000 examples/s" in shown


def test_the_live_display_respects_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = live(monkeypatch)
    assert "accuracy 0.9175" in shown
    assert "\x1b[32m" not in shown
    assert "\x1b[31m" not in shown


def test_a_live_display_that_never_started_can_end() -> None:
    stream = io.StringIO()
    progress = LiveProgress(stream, console=Console(file=stream, force_terminal=True))
    progress.note("before the start")
    progress.ended(exit_code=2, text="over")
    assert "over" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_rendering_follows_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(io.StringIO()), PlainProgress)
    assert isinstance(make_progress(Terminal()), LiveProgress)
    assert isinstance(make_progress(Terminal(), as_json=True), JsonProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Terminal()), PlainProgress)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    drive(SilentProgress())
    assert capsys.readouterr() == ("", "")


def test_foreseeing_passes_everything_on() -> None:
    plain, passed = io.StringIO(), io.StringIO()
    drive(PlainProgress(plain, Clock()))
    drive(Foreseeing(PlainProgress(passed, Clock()), lambda: None, Clock()))
    assert passed.getvalue() == plain.getvalue() != ""


def test_what_follows_a_run_is_begun_once_when_it_is_about_to_end() -> None:
    clock, begun = Clock(), threading.Semaphore(0)
    (spec,) = specs(128)
    examples = 100 * 128
    progress = Foreseeing(SilentProgress(), begun.release, clock)
    progress.started(total=1, done=0, examples=examples, examples_done=0)
    progress.trial_started(spec, updates=100)
    clock.now += 100  # seconds for half of the work: as many are left
    progress.advanced(spec.trial_id, 50, 100, 64.0)
    assert SOON < 100 and not begun.acquire(timeout=0.2)
    clock.now += 90
    progress.advanced(spec.trial_id, 95, 100, 64.0)
    assert begun.acquire(timeout=PATIENCE)
    progress.advanced(spec.trial_id, 96, 100, 64.0)
    progress.finished(ended(spec))
    assert not begun.acquire(timeout=0.2)
