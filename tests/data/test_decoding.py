"""Many small images are decoded by helpers: the same pixels and the same errors as by one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchcliff.data import decoding
from batchcliff.data.decoding import decode_images
from batchcliff.errors import DataError
from batchcliff.helper import Helper

COUNT, PORTION = 50, 7  # the last portion is not whole


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """Has so few images be enough for helpers; those that are started."""
    monkeypatch.setattr(decoding, "_WORTH_HELPER", 10)
    monkeypatch.setattr(decoding, "_PORTION", PORTION)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    made: list[Helper] = []

    def helper(module: str) -> Helper:
        made.append(Helper(module))
        return made[-1]

    monkeypatch.setattr(decoding, "Helper", helper)
    return made


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """Random images in two formats."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
    return [saved(image, "BMP" if i == 33 else "PNG") for i, image in enumerate(pixels)]


def saved(pixels: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def encoded(files: list[bytes]) -> Iterator[tuple[str, Any]]:
    for number, data in enumerate(files):
        yield f"image {number}", lambda data=data: data


def alone(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_WORTH_HELPER", len(files) + 1)
        return decode_images(encoded(files), len(files))


@pytest.mark.parametrize("most", [decoding._PORTION_BYTES, 500, 1])
def test_helpers_give_what_one_process_gives(
    files: list[bytes], started: list[Helper], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(decoding, "_PORTION_BYTES", most)
    expected, kinds = alone(files, monkeypatch)
    assert not started and kinds == ("BMP", "PNG")
    found, met = decode_images(encoded(files), COUNT)
    assert np.array_equal(found, expected) and met == kinds
    assert 1 <= len(started) <= 4  # a thread that finds nothing to do starts none
    assert [helper.process.returncode for helper in started] == [0] * len(started)


@pytest.mark.parametrize(
    "bad", [b"no image", saved(np.zeros((5, 6, 3), np.uint8), "PNG")], ids=["damaged", "shape"]
)
@pytest.mark.parametrize("place", [1, PORTION + 1, COUNT - 1])
def test_a_bad_image_is_named_as_by_one_process(
    files: list[bytes],
    started: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
    bad: bytes,
    place: int,
) -> None:
    files = [*files[:place], bad, *files[place + 1 :]]
    with pytest.raises(DataError, match=f"^image {place} is ") as expected:
        alone(files, monkeypatch)
    with pytest.raises(DataError) as found:
        decode_images(encoded(files), COUNT)
    assert str(found.value) == str(expected.value)
    assert started and all(helper.process.returncode == 0 for helper in started)


def test_what_helpers_do_not_answer_is_decoded_here(
    files: list[bytes], started: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = alone(files, monkeypatch)
    ask = Helper.ask

    def killed(self: Helper, request: Any) -> Any:
        self.process.kill()
        self.process.wait()
        return ask(self, request)

    monkeypatch.setattr(Helper, "ask", killed)
    assert np.array_equal(decode_images(encoded(files), COUNT)[0], expected)
    assert started
    monkeypatch.setattr(Helper, "command", ("/nonexistent",))
    assert np.array_equal(decode_images(encoded(files), COUNT)[0], expected)


@pytest.mark.parametrize(("cores", "count"), [(2, COUNT), (4, 29)])
def test_few_cores_or_images_are_not_worth_helpers(
    files: list[bytes],
    started: list[Helper],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    count: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    decode_images(encoded(files[:count]), count)
    assert not started
