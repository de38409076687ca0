"""Images as they lie in files to pixels: one, or many of one shape.

Untrusted input: only bitmap formats are decoded, and sizes are read from headers and held
against limits before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.verify import MAX_DECODED_BYTES
from batchcliff.errors import BatchcliffError, DataError
from batchcliff.helper import Helper
from batchcliff.host import cores

# N images, H height, W width, C channel

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")

_MAX_PIXELS = 1 << 24  # of one image
MAX_ENCODED_BYTES = 64 << 20  # of one image
# Below this, opening an image costs more than decoding it, and threads only take turns:
# measured on CIFAR-10's 32x32 JPEG files, two threads took twice as long as one. So small ones
# go to processes, as many as take longer to decode their share than to start.
_WORTH_THREADS = 16 << 10
_WORTH_HELPER = 2048  # images
_HELPERS = (3, 8)  # fewer gain nothing, since their images are read and told by one process
_PORTION = 512  # images that a helper gets at a time,
_PORTION_BYTES = 32 << 20  # and not many more bytes

Encoded = tuple[str, Callable[[], bytes]]
"""Where an image comes from, for messages, and how to get its bytes."""


def decode_images(
    encoded: Iterable[Encoded], count: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode `count` images of one shape: uint8 [N, H, W, C] and the formats met.

    C is 3 for RGB and palette images, 1 for grey ones. DataError, with the place, for an
    image that is damaged, too large, of another format, mode or shape.
    """
    source = iter(encoded)
    first = next(source, None)
    if first is None:
        return np.zeros((0, 0, 0, 0), np.uint8), ()
    name, data = first[0], first[1]()
    pixels, kind = _decode(name, data)
    if count * pixels.nbytes > MAX_DECODED_BYTES:
        raise DataError(
            f"{count:,} images of {list(pixels.shape)} need {count * pixels.nbytes:,} bytes "
            f"when decoded; at most {MAX_DECODED_BYTES:,} are accepted"
        )
    images, kinds = np.empty((count, *pixels.shape), np.uint8), {kind}
    images[0] = pixels

    def put(numbered: tuple[int, Encoded]) -> None:
        place, (name, read) = numbered
        pixels, kind = _decode(name, read())
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{name} is {list(pixels.shape)}, the first image {list(images.shape[1:])} "
                "(height, width, channels); all images must have one shape"
            )
        images[place] = pixels
        kinds.add(kind)

    rest = enumerate(source, start=1)
    small = len(data) < _WORTH_THREADS
    fewest, most = _HELPERS
    helpers = min(most, cores(), count // _WORTH_HELPER)
    if small and helpers >= fewest:
        kinds |= _decode_beside(images, (name, data), source, helpers)
    elif small:
        for numbered in rest:
            put(numbered)
    else:
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            # In portions, since `map` takes all of its input at once.
            while portion := list(itertools.islice(rest, 1024)):
                for _ in pool.map(put, portion):
                    pass
    return images, tuple(sorted(kinds))


def _decode_beside(
    images_NHWC: NDArray[np.uint8],
    first: tuple[str, bytes],
    rest: Iterator[Encoded],
    count: int,
) -> set[str]:
    """Put `rest` behind the first image, by `count` helpers; the formats met. DataError as
    for `decode_images`."""
    beside = _Beside(first)

    def put(numbered: tuple[int, list[Encoded]]) -> set[str]:
        number, portion = numbered
        at, kinds = 1 + number * _PORTION, set[str]()
        for part in _in_parts((name, read()) for name, read in portion):
            images_NHWC[at : at + len(part)], met = beside.decode(part)
            at += len(part)
            kinds |= met
        return kinds

    portions = enumerate(iter(lambda: list(itertools.islice(rest, _PORTION)), []))
    pool = ThreadPoolExecutor(count, initializer=beside.begin)
    try:
        return set[str]().union(*pool.map(put, portions))
    finally:
        pool.shutdown(cancel_futures=True)
        beside.end()


def _in_parts(named: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """All of them, in lists that are cut where they have `_PORTION_BYTES`."""
    part, size = list[tuple[str, bytes]](), 0
    for one in named:
        part.append(one)
        size += len(one[1])
        if size >= _PORTION_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


class _Beside:
    """Decodes portions of images of one shape, each thread by a helper of its own."""

    def __init__(self, first: tuple[str, bytes]) -> None:
        self.first, self.helpers = first, list[Helper]()
        self._own = threading.local()  # .helper

    def begin(self) -> None:
        """Start the thread's helper."""
        self._own.helper = None
        with contextlib.suppress(OSError):  # no more processes: then it is done in this one
            self._own.helper = Helper("batchcliff.data.decoder")
            self.helpers.append(self._own.helper)

    def decode(self, portion: list[tuple[str, bytes]]) -> tuple[NDArray[np.uint8], set[str]]:
        """The pixels and the formats. Raises DataError, also for a shape that is not the first
        image's, which goes along to be compared with."""
        named = [self.first, *portion]
        if self._own.helper is not None:
            with contextlib.suppress(OSError, EOFError, ValueError):
                return self._asked(self._own.helper, named)
            self._own.helper = None  # killed, or something was wrong, which is said here
        decoded, kinds = decode_images(_here(named), len(named))
        return decoded[1:], set(kinds)

    def _asked(
        self, helper: Helper, named: list[tuple[str, bytes]]
    ) -> tuple[NDArray[np.uint8], set[str]]:
        names = json.dumps([name for name, _ in named]).encode()
        told, pixels = helper.ask([names, *(data for _, data in named)])
        said = json.loads(told)
        if said["error"]:
            raise DataError(said["error"])
        decoded = np.frombuffer(pixels, np.uint8).reshape(said["shape"])
        return decoded[1:], set(said["kinds"])

    def end(self) -> None:
        """End all helpers."""
        for helper in self.helpers:
            helper.end()


def _here(named: Iterable[tuple[str, bytes]]) -> Iterator[Encoded]:
    for name, data in named:
        yield name, functools.partial(bytes, data)


def answered(request: Sequence[bytes]) -> list[bytes]:
    """In a helper: names in JSON and each image's bytes, to what is told of them in JSON and
    the pixels."""
    names, *images = json.loads(request[0]), *request[1:]
    told = {"error": "", "shape": [0], "kinds": []}
    try:
        pixels, kinds = decode_images(_here(zip(names, images, strict=True)), len(names))
    except DataError as error:
        return [json.dumps(told | {"error": str(error)}).encode(), b""]
    told |= {"shape": pixels.shape, "kinds": kinds}
    return [json.dumps(told).encode(), pixels.tobytes()]


def _decode(name: str, data: bytes) -> tuple[NDArray[np.uint8], str]:
    from PIL import Image, UnidentifiedImageError

    if len(data) > MAX_ENCODED_BYTES:
        raise DataError(f"{name} has more than {MAX_ENCODED_BYTES:,} bytes: refused")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind = str(image.format)
            # Only the header has been read so far.
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(
                    f"{name} is {image.width}x{image.height}: more than {_MAX_PIXELS:,} "
                    "pixels, refused"
                )
            mode = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}.get(image.mode)
            if mode is None:
                raise DataError(f"{name} has mode {image.mode}; convert it to RGB or grey (L)")
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
            return pixels.reshape(image.height, image.width, -1), kind
    except BatchcliffError:
        raise
    except UnidentifiedImageError:  # whose text names a place in our memory
        raise DataError(f"{name} is no readable image ({', '.join(FORMATS)} are)") from None
    except Exception as error:  # decoders raise anything over bytes made to confuse them
        raise DataError(
            f"{name} is no readable image ({', '.join(FORMATS)} are): {error}"
        ) from error
