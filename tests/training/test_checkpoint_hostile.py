"""Checkpoints that are not what they should be: refused with a reason, never half believed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from resumed_trials import CASES, Ended, Shelf, gone_on, trained
from safetensors.torch import load, save
from small_trials import small_data
from torch import Tensor

from batchcliff.training.checkpoint import METADATA, Elsewhere, Unusable, decode

DATA = small_data()
CASE = CASES["rule sgd"]


def made() -> tuple[Ended, bytes]:
    """A run that nobody disturbed, and a checkpoint of its middle; with one thread, as the
    tests of this folder, which this precedes."""
    shelf, before = Shelf(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = trained(CASE, DATA, shelf.checkpoints())
    finally:
        torch.set_num_threads(before)
    return whole, shelf.kept[5]


WHOLE, GOOD = made()


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and what follows."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: Any, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def said(**changes: str | None) -> bytes:
    """The good checkpoint with other words about it; None: without them."""
    header, rest = parts(GOOD)
    words = {**header[METADATA], **changes}
    header[METADATA] = {k: v for k, v in words.items() if v is not None}
    return joined(header, rest)


def holding(changes: dict[str, Callable[[Tensor], Tensor] | None]) -> bytes:
    """With other tensors, as a well-formed file; None: without it."""
    tensors = load(GOOD)
    for name, change in changes.items():
        old = tensors.pop(name, torch.zeros(1))
        if change is not None:
            tensors[name] = change(old)
    return save(tensors, parts(GOOD)[0][METADATA])


def entry(name: str, **changes: Any) -> bytes:
    """With other claims on one tensor in the header."""
    header, rest = parts(GOOD)
    header[name] = {**header[name], **changes}
    return joined(header, rest)


class Gadget:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


HUGE = 2**62
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "cut in the header": GOOD[:100],
    "cut in the tensors": GOOD[:-1],
    "longer": GOOD + b"\0",
    "longer than any": GOOD + b"\0" * 10**6,
    "a pickle": pickle.dumps(Gadget()),
    "a pickle behind a header": joined({}, pickle.dumps(Gadget())),
    "a zip": b"PK\x03\x04" + b"\0" * 400,
    "a header of zero bytes": (0).to_bytes(8, "little") + GOOD[8:],
    "a huge header": HUGE.to_bytes(8, "little") + GOOD[8:],
    "a header of nests": joined(b"[" * 20_000, b""),
    "a header of digits": joined(b'{"__metadata__": ' + b"9" * 10_000 + b"}", b""),
    "a header that is a list": joined([1], b""),
    "a header that is no text": joined(b"\xff\xfe{}", b""),
    "nothing said": joined({k: v for k, v in parts(GOOD)[0].items() if k != METADATA}, b""),
    "words that are a list": joined({**parts(GOOD)[0], METADATA: ["x"]}, parts(GOOD)[1]),
    "another format": said(format="batchcliff checkpoint 2"),
    "another trial": said(trials="0123456789abcdef0123"),
    "two trials": said(trials=f"{CASE.specs[0].trial_id}+0123456789abcdef0123"),
    "no update": said(update=None),
    "update 0": said(update="0"),
    "an update that its counter is not at": said(update="4"),
    "the last update": said(update="10"),
    "an update of many digits": said(update="9" * 10_000),
    "a negative update": said(update="-5"),
    "the update of another epoch": said(update="3"),
    "no seconds": said(seconds=None),
    "seconds that are no number": said(seconds="nan"),
    "seconds without end": said(seconds="inf"),
    "negative seconds": said(seconds="-1"),
    "a tensor missing": holding({"optimizer.velocity.0": None}),
    "a tensor too many": holding({"extra": lambda t: t}),
    "another shape": holding({"losses": lambda t: t.repeat(2, 1)}),
    "a transposed shape": holding({"losses": lambda t: t.t().contiguous()}),
    "another type": holding({"losses": lambda t: t.double()}),
    "another type of equal size": holding({"losses": lambda t: t.view(torch.int32)}),
    "a counter beyond the log": holding({"count": lambda t: t + 10**6}),
    "a negative counter": holding({"count": lambda t: t - 100}),
    "evaluations beyond the log": holding({"evaluation.count": lambda t: t + 10**6}),
    "a generator of zeros": holding({"random.cpu": torch.zeros_like}),
    "a generator of ones": holding({"random.cpu": lambda t: torch.full_like(t, 255)}),
    "a shape of exabytes": entry("losses", shape=[HUGE, HUGE]),
    "exabytes of nothing": entry("losses", shape=[0, HUGE], data_offsets=[0, 0]),
    "offsets beyond the end": entry("losses", data_offsets=[HUGE, HUGE + 40]),
    "offsets backwards": entry("losses", data_offsets=[40, 0]),
    "offsets of another tensor": entry("losses", data_offsets=[0, 40]),
    "a type of nobody": entry("losses", dtype="F1024"),
    "an entry that is a list": joined({**parts(GOOD)[0], "losses": [1]}, parts(GOOD)[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_gate_hostile_checkpoints_are_refused(name: str) -> None:
    """Nothing is run, and no memory is asked for that is not in the file."""
    assert HOSTILE[name] != GOOD
    tracemalloc.start()
    try:
        with pytest.raises(Unusable) as caught:
            gone_on(CASE, DATA, HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    reason = str(caught.value)
    assert 10 < len(reason) < 300
    assert reason.isascii()
    assert reason.isprintable()


def test_control_the_good_one_is_taken() -> None:
    """Also after a detour over the functions that make the bad ones."""
    for data in (GOOD, said(), holding({"losses": lambda t: t})):
        assert gone_on(CASE, DATA, data).digest == WHOLE.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": "batchcliff 9"}, "made by other code: 'batchcliff 9', now 'code'"),
        ({"weights": "abc"}, "made from other pretrained weights: 'abc', now ''"),
        ({"numerics": "x"}, "made under numerics that are not said"),
        ({"numerics": "[]"}, "made under numerics that are not said"),
        ({"numerics": '[["threads","8"]]'}, r"other numerics: .*threads '8', now '1'"),
        ({"mixed": "[]"}, "made in parts, under several numerics"),
    ],
)
def test_a_checkpoint_of_other_surroundings_is_not_used(
    changes: dict[str, str], words: str
) -> None:
    with pytest.raises(Elsewhere, match=words):
        gone_on(CASE, DATA, said(**changes))


def test_other_threads_are_other_numerics() -> None:
    """The difference is named; the first words of a fingerprint are not."""
    torch.set_num_threads(2)
    try:
        with pytest.raises(Elsewhere, match=r"numerics: threads '1', now '2'$"):
            gone_on(CASE, DATA, GOOD)
    finally:
        torch.set_num_threads(1)


def test_a_checkpoint_of_another_trial_is_not_used() -> None:
    """Of another seed, which has the same shapes."""
    other = dataclasses.replace(
        CASE, specs=tuple(dataclasses.replace(spec, seed=99) for spec in CASE.specs)
    )
    shelf = Shelf()
    trained(other, DATA, shelf.checkpoints())
    with pytest.raises(Unusable, match=f"holds trials '{other.specs[0].trial_id}'"):
        gone_on(CASE, DATA, shelf.kept[5])


def test_law_a_mutated_file_is_refused_or_says_the_same_of_itself() -> None:
    """Where a place does not look at digests, bits of tensors are all that can pass unseen."""
    rng = random.Random(0)
    wanted = {name: torch.empty_like(t) for name, t in load(GOOD).items()}
    expected, ends = parts(GOOD)[0][METADATA], {3: 1, 5: 1, 8: 1}
    ends[5] = int(load(GOOD)["evaluation.count"])
    passed = 0
    for _ in range(400):
        data = bytearray(GOOD)
        for _ in range(rng.randrange(1, 4)):
            # in the header as often as behind it
            data[rng.randrange(rng.choice([1500, len(data)]))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(Unusable, Elsewhere):
            saved = decode(bytes(data), wanted, expected, ends)
            assert saved.begun.update == 5
            assert {n: t.shape for n, t in saved.tensors.items()} == {
                n: t.shape for n, t in wanted.items()
            }
            passed += 1
    assert 0 < passed < 400
