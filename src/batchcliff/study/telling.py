"""What people are told of the trials under way, from what workers say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from batchcliff.spec import TrialSpec
from batchcliff.study.fingerprints import Fingerprints
from batchcliff.study.jobs import Busy
from batchcliff.study.progress import Progress, trial_text


class Telling:
    """One run's. `specs`: its trials by id, as they become known."""

    def __init__(
        self, progress: Progress, specs: Mapping[str, TrialSpec], fingerprints: Fingerprints
    ) -> None:
        self._progress, self._specs, self._fingerprints = progress, specs, fingerprints
        self._slower: set[str] = set()

    def began(self, message: Mapping[str, Any]) -> None:
        """A worker has prepared some trials, and says under which numerics they run."""
        for text in self._fingerprints.news(message["numerics"]):
            self._progress.note(text)
        said = slower(message["numerics"])
        if said and said not in self._slower:
            self._slower.add(said)
            self._progress.note(said)

    def advanced(self, state: Busy, message: Mapping[str, Any]) -> None:
        """How far the trials of a stack are; the rate counts all of them.

        Never backwards: a worker reports updates as they are queued, then epochs as they end.
        """
        done, seconds = message["done"], message["seconds"]
        for trial_id in message["ids"]:
            before, at = state.reported.get(trial_id, (0, 0.0))
            if done <= before or seconds <= at:
                continue
            state.reported[trial_id] = (done, seconds)
            rate = (done - before) * self._specs[trial_id].batch_size / (seconds - at)
            self._progress.advanced(trial_id, done, message["updates"], rate)

    def saved(self, state: Busy, message: Mapping[str, Any]) -> None:
        """What is to be said of checkpoints. The updates of one are nobody's speed."""
        first, *others = message["ids"]
        if message["update"]:
            state.reported |= dict.fromkeys(message["ids"], (message["update"], 0.0))
        more = f" and {len(others)} more" if others else ""
        self._progress.note(f"{trial_text(self._specs[first])}{more}: {message['text']}")


def slower(numerics: Iterable[tuple[str, str]]) -> str:
    """Why a GPU runs plain operations where kernels of ours could be; "" where it does not, or
    where that was asked for. The record has the same words."""
    pairs = dict(numerics)
    plain, _, why = pairs.get("kernels", "").partition(": ")
    if "cuda" not in pairs or plain != "plain" or "BATCHCLIFF_KERNELS=off" in why:
        return ""
    return f"plain operations in place of the hand-written kernels, on this GPU: {why}"
