"""Which data sets exist, where they come from, and how to load them.

No torch here. A data set is loaded from the containers that `containers` knows, checked,
and brought into an order of its own (`verify.canonical`), so that neither the container nor
the order of its files is any part of an experiment: `digest` says whether two are the same.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batchcliff.data import cifar, containers
from batchcliff.data.verify import (
    Decoded,
    canonical,
    check,
    content_digest,
    forget,
    shown,
    some,
)
from batchcliff.errors import DataError, UsageError, did_you_mean
from batchcliff.randomness import derive, permutation

# N examples, H height, W width, C channel

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """A data set in memory.

    Images uint8 [N, H, W, C], labels int64 [N] in 0..num_classes-1. `digest` is the SHA-256
    of the decoded arrays (verify.content_digest). `source` tells people what was read, and
    what to bear in mind about it. Pixels times `scale` lie in 0..1.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    source: str
    scale: float = 1 / 255

    @property
    def num_classes(self) -> int:
        """As many as there are names."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def described(self) -> str:
        """`source`, and how many images of each class there are."""
        train, test = map(self._counts, (self.train_labels, self.test_labels))
        if len({*train}) == len({*test}) == 1:
            each = f"{train[0]:,} training and {test[0]:,} test images"
            return f"{self.source}; each of {self.num_classes} classes has {each}"
        counts = zip(self.class_names, train, test, strict=True)
        listed = some([f"{name} {a:,}/{b:,}" for name, a, b in counts], 12)
        return f"{self.source}; training/test images by class: {listed}"

    def _counts(self, labels: NDArray[np.int64]) -> list[int]:
        found = dict(zip(*(part.tolist() for part in np.unique_counts(labels)), strict=True))
        return [found.get(number, 0) for number in range(self.num_classes)]


class Loader(Protocol):
    def __call__(self, location: Path | None, cache: Path, report: Report) -> Dataset: ...


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of DATASETS: what it is, and the function that loads it."""

    description: str
    load: Loader


def default_folder() -> Path:
    """Where downloads and decoded copies go: $BATCHCLIFF_DATA, or ~/.cache/batchcliff."""
    named = os.environ.get("BATCHCLIFF_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "batchcliff"


def load(
    name: str,
    location: Path | None = None,
    cache: Path | None = None,
    report: Report | None = None,
) -> Dataset:
    """Load the data set `name`.

    `location`: a local copy, in any accepted container; None for the embedded or downloaded
    one. `cache`: folder for decoded copies, by default `default_folder() / "decoded"`.
    `report` is told, in plain words, about a download that begins or is tried again.

    Raises UsageError for an unknown name, DataError for data that are missing, damaged or not
    what they should be, StorageError if a download cannot be written.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}.{did_you_mean(name, DATASETS)}")
    folder = cache if cache is not None else default_folder() / "decoded"
    return DATASETS[name].load(location, folder, report or _silent)


def load_images(location: Path, cache: Path | None = None, name: str = "images") -> Dataset:
    """Load any image data set from a container, under a name of your own.

    Classes are the folders' names, the names in the Parquet schema, or the labels. DataError
    as for `load`.
    """
    folder = cache if cache is not None else default_folder() / "decoded"
    container = containers.find(location)
    decoded = containers.read(container, folder)
    return _dataset(name, decoded, f"{container.kind}{_formats(decoded)}", shown(location))


def forget_files() -> None:
    """Have whoever loads a data set next read all of its files, though they look unchanged."""
    forget(default_folder() / "decoded")


def _silent(message: str) -> None:
    del message


def _dataset(
    name: str, decoded: Decoded, source: str, what: str, scale: float = 1 / 255
) -> Dataset:
    check(decoded, what)
    ordered = canonical(decoded)
    return Dataset(
        name=name,
        train_images=ordered.train_images,
        train_labels=ordered.train_labels,
        test_images=ordered.test_images,
        test_labels=ordered.test_labels,
        class_names=ordered.class_names,
        digest=content_digest(ordered.arrays(), ordered.class_names),
        source=source,
        scale=scale,
    )


def _formats(decoded: Decoded) -> str:
    return f", {' and '.join(decoded.encodings)} images" if decoded.encodings else ""


# cifar10 -------------------------------------------------------------------------------------


def _load_cifar10(location: Path | None, cache: Path, report: Report) -> Dataset:
    place = location if location is not None else _official_archive(report)
    container = containers.find(place)
    decoded = _as_cifar10(containers.read(container, cache), shown(place))
    said = container.kind
    if "JPEG" in decoded.encodings:
        said += (
            ", JPEG-recompressed: accuracies lie a few points under those published for the "
            "original images"
        )
    counts = len(decoded.train_labels), len(decoded.test_labels)
    if counts != (cifar.NUM_TRAIN, cifar.NUM_TEST):
        said += (
            f"; not the whole data set: {counts[0]:,} training and {counts[1]:,} test images"
        )
    return _dataset("cifar10", decoded, said, shown(place))


def _official_archive(report: Report) -> Path:
    """The verified archive in the data folder; downloaded if it is not there."""
    # Imported here: TLS takes a tenth of a second that local data need not spend.
    from batchcliff.data import download

    path = default_folder() / cifar.ARCHIVE.name
    advice = (
        f"Put {cifar.ARCHIVE.name} ({cifar.ARCHIVE.size:,} bytes, SHA-256 "
        f"{cifar.ARCHIVE.sha256}) into {shown(path.parent)}, or give a local copy with "
        f"--data PATH. Accepted: {containers.ACCEPTED}."
    )
    if not path.is_file():
        report(f"downloading {cifar.ARCHIVE.url} ({cifar.ARCHIVE.size:,} bytes)")
        download.fetch(cifar.ARCHIVE, path, advice=advice, report=report)
    elif wrong := cifar.differences(path, cifar.ARCHIVE):
        rejected = download.reject(path, path)
        raise DataError(
            f"{shown(path)} is not {cifar.ARCHIVE.name}: {wrong}. It is kept as "
            f"{shown(rejected)}. {advice}"
        )
    return path


def _as_cifar10(decoded: Decoded, what: str) -> Decoded:
    """`decoded` under CIFAR-10's class names. DataError if it cannot be CIFAR-10."""
    numbered = tuple(str(i) for i in range(len(cifar.CLASS_NAMES)))
    if decoded.class_names not in (cifar.CLASS_NAMES, numbered):
        raise DataError(
            f"{what} is not CIFAR-10: its classes are {some(decoded.class_names, 12)}; "
            f"expected {', '.join(cifar.CLASS_NAMES)}, or labels 0 to 9. Load other "
            "images as `images`."
        )
    for split, pixels in (("train", decoded.train_images), ("test", decoded.test_images)):
        if pixels.shape[1:] != cifar.IMAGE_SHAPE:
            raise DataError(
                f"{what} is not CIFAR-10: {split} images are {list(pixels.shape[1:])}; "
                f"expected {list(cifar.IMAGE_SHAPE)}. Load other images as `images`."
            )
    return replace(decoded, class_names=cifar.CLASS_NAMES)


# digits --------------------------------------------------------------------------------------

DIGITS_TRAIN = 1024
_DIGITS, _DIGITS_COLUMNS = 1797, 65  # rows; 64 pixels and the label
_DIGITS_MOST_BYTES = 4 << 20  # 500 kB unpacked


def _load_digits(location: Path | None, cache: Path, report: Report) -> Dataset:
    """Scikit-learn's digits: 1,797 grey 8x8 images, values 0..16 (UCI, Alpaydin and Kaynak).

    The first 1,024 entries of a fixed permutation are the training images, the other 773 the
    test images: the file is sorted by writer, so a cut of the file would test other hands.
    """
    del cache, report
    if location is not None:
        raise DataError("the data set digits comes with scikit-learn and takes no --data")
    table = _digits_table()
    if table.shape != (_DIGITS, _DIGITS_COLUMNS):
        raise DataError(
            f"scikit-learn's digits are {list(table.shape)}; expected {_DIGITS} rows of "
            f"{_DIGITS_COLUMNS}"
        )
    images = table[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int64)
    order = permutation(derive("digits", "split"), _DIGITS)
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    decoded = Decoded(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        class_names=tuple(str(i) for i in range(10)),
    )
    source = "scikit-learn's digits, 8x8, fixed split of 1,024 training and 773 test images"
    return _dataset("digits", decoded, source, "digits", scale=1 / 16)


def _digits_table() -> NDArray[np.int64]:
    """The 1,797 rows, int64 [N, 65]. Read from the package's file: importing it takes 1 s."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise DataError("the data set digits is part of scikit-learn, which is not installed")
    for root in spec.submodule_search_locations or ():
        path = Path(root) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path) as file:
                text = file.read(_DIGITS_MOST_BYTES)
            values = text.replace(b"\n", b",").rstrip(b",").split(b",")
            if len(values) == _DIGITS * _DIGITS_COLUMNS:
                return np.array(values).astype(np.int64).reshape(_DIGITS, _DIGITS_COLUMNS)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.int64)


def _load_named_images(location: Path | None, cache: Path, report: Report) -> Dataset:
    del report
    if location is None:
        raise DataError(
            f"the data set images needs --data PATH. Accepted: {containers.ACCEPTED}."
        )
    return load_images(location, cache)


def _half_of(load: Loader, which: str) -> Loader:
    def load_half(location: Path | None, cache: Path, report: Report) -> Dataset:
        from batchcliff.data.halves import half  # which needs Dataset from here

        return half(load(location, cache, report), which)

    return load_half


def _halves(name: str, load: Loader) -> dict[str, Source]:
    return {
        f"{name}-{which}-half": Source(
            f"{name}, the {which} half of its classes only", _half_of(load, f"{which}-half")
        )
        for which in ("first", "second")
    }


DATASETS: dict[str, Source] = {
    "cifar10": Source("60,000 colour images of 32x32 in 10 classes, downloaded", _load_cifar10),
    **_halves("cifar10", _load_cifar10),
    "digits": Source("1,797 grey images of 8x8 in 10 classes, embedded", _load_digits),
    **_halves("digits", _load_digits),
    "images": Source("your own images, from --data PATH", _load_named_images),
}
