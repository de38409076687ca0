"""That data is what it says: digests, checks, one order, and the cache of decoded arrays.

Two digests are kept apart. `sha256_file` names a file; `content_digest` names the decoded
arrays, so that the same images read from a binary archive, from Parquet with lossless
images, from a folder or from `.npz` have one digest, and records made from them compare.
For that, `canonical` brings the examples into an order that depends on them alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from batchcliff.canonical import canonical_json
from batchcliff.errors import DataError
from batchcliff.randomness import bits, derive

# N examples, H height, W width, C channel

MAX_DECODED_BYTES = 16 << 30
"""Decoded images of a split must fit here: everything is kept on the device at once."""

_READER_VERSION = 1  # raised when decoding changes, so that older caches are not used
_NOTE = "files-"  # what notes of files' digests are called in the cache
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TICK = 2 * 10**9  # nanoseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What a container held. Images uint8 [N, H, W, C], labels int64 [N], 0-based.

    `encodings` names the image formats met, e.g. ("JPEG",); empty for raw pixels.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    encodings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """DataError for a name that no digest can be taken of: a folder's, or a schema's."""
        for name in self.class_names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"the class name {shown(name)} is no text in UTF-8: rename the class"
                ) from error

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The four arrays in the order in which they are digested."""
        return self.train_images, self.train_labels, self.test_images, self.test_labels


def shown(path: Path | str) -> str:
    """A path as printable text, also where it cannot be decoded or holds control characters."""
    return repr(str(path))


def some(names: Sequence[object], most: int = 8) -> str:
    """The first few of a list, and how many more there are."""
    listed = ", ".join(str(n) for n in names[:most])
    return listed + (f" and {len(names) - most:,} more" if len(names) > most else "")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits, read in pieces. OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(arrays: Iterable[NDArray[Any]], class_names: Sequence[str]) -> str:
    """SHA-256 over type, shape and bytes of the arrays, and the class names; 64 hex digits.

    Arrays go in as little-endian, C-contiguous bytes, each after its own header.
    """
    state = hashlib.sha256(canonical_json({"class_names": list(class_names)}))
    for array in arrays:
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        state.update(canonical_json({"dtype": plain.dtype.str, "shape": list(plain.shape)}))
        state.update(plain.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def canonical(decoded: Decoded) -> Decoded:
    """The same examples in an order that their pixels and labels alone decide.

    Sorted by a 64-bit hash, so classes are mixed and any stretch is a fair sample.
    """
    train = _hash_order(decoded.train_images, decoded.train_labels)
    test = _hash_order(decoded.test_images, decoded.test_labels)
    return dataclasses.replace(
        decoded,
        train_images=decoded.train_images[train],
        train_labels=decoded.train_labels[train],
        test_images=decoded.test_images[test],
        test_labels=decoded.test_labels[test],
    )


def _hash_order(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    count = len(images)
    flat = images.reshape(count, -1)
    if pad := -flat.shape[1] % 8:
        flat = np.pad(flat, ((0, 0), (0, pad)))
    words = np.ascontiguousarray(flat).view("<u8").astype(np.uint64, copy=False)
    weights = bits(derive("canonical-order"), words.shape[1] + 1) | np.uint64(1)
    hashes = np.einsum("nw,w->n", words, weights[1:])  # wraps modulo 2**64, as it should
    hashes = hashes + labels.astype(np.uint64) * weights[0]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.argsort(hashes ^ (hashes >> np.uint64(32)), kind="stable")


def check(decoded: Decoded, what: str) -> None:
    """Raise DataError unless `decoded` can be trained on; `what` begins the message.

    Images uint8 [N, H, W, C] of one shape in both splits, an integer label for each, within
    the classes, and every class present in both splits.
    """
    known = len(decoded.class_names)
    for split, images, labels in (
        ("train", decoded.train_images, decoded.train_labels),
        ("test", decoded.test_images, decoded.test_labels),
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise DataError(
                f"{what}: {split} images are {images.dtype} {list(images.shape)}; expected "
                "uint8 [N, H, W, C] with at least one image"
            )
        if labels.dtype != np.int64 or labels.shape != (len(images),):
            raise DataError(
                f"{what}: {split} labels are {labels.dtype} {list(labels.shape)}; expected "
                f"one integer for each of the {len(images):,} images"
            )
        outside = sorted(set(labels[(labels < 0) | (labels >= known)].tolist()))
        if outside:
            raise DataError(
                f"{what}: {split} labels {some(outside)} lie outside of 0..{known - 1} "
                f"({known} classes: {some(decoded.class_names)})"
            )
    if decoded.train_images.shape[1:] != decoded.test_images.shape[1:]:
        raise DataError(
            f"{what}: training images are {list(decoded.train_images.shape[1:])}, test images "
            f"{list(decoded.test_images.shape[1:])} (height, width, channels)"
        )
    if known < 2:
        raise DataError(f"{what}: a single class ({some(decoded.class_names)}); need two")
    _check_classes(decoded, what)


def _check_classes(decoded: Decoded, what: str) -> None:
    names = decoded.class_names
    counts = [
        np.bincount(labels, minlength=len(names))
        for labels in (decoded.train_labels, decoded.test_labels)
    ]
    without = [
        [name for name, n in zip(names, count, strict=True) if n == 0] for count in counts
    ]
    if any(without):
        said = [
            f"no {split} image of class {some(missing)}"
            for split, missing in zip(("training", "test"), without, strict=True)
            if missing
        ]
        raise DataError(
            f"{what}: {'; '.join(said)}. Every class must be in both splits; "
            f"{len(names)} classes: {some(names, 20)}"
        )


# The cache of decoded arrays ---------------------------------------------------------------


def files_digest(files: Sequence[Path], root: Path) -> str:
    """One SHA-256 for a list of files: their names under `root` and their contents."""
    parts = [[os.fsencode(f.relative_to(root)).hex(), sha256_file(f)] for f in files]
    return hashlib.sha256(canonical_json([_READER_VERSION, parts])).hexdigest()


def read_files(
    files: Sequence[Path], root: Path, cache: Path, read: Callable[[], Decoded]
) -> Decoded:
    """What `read` makes of `files`, or made of them when they were read last.

    To read gigabytes only to learn that nobody has written to them takes a minute, so files
    that have the size, the times of change (of content, mtime, and at all, ctime) and the
    place on the disk that they had are taken for unchanged. A change that leaves all of that
    as it was is not seen (`forget` has everything read again): what is returned is then what
    the cache holds, whose content is hashed in any case. Raises OSError, and what `read` does.
    """
    note, state = cache / _note_of(files, root), _state_of(files)
    noted = _noted(note, state)
    kept = _read_cache(_cache_path(cache, noted)) if noted else None
    if kept is not None:
        return kept
    digest = files_digest(files, root)
    if _state_of(files) == state:
        with contextlib.suppress(OSError, _TooYoung):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(note, lambda file: _write_note(file, files, state, digest))
    return through_cache(cache, digest, read)


def forget(cache: Path) -> None:
    """Have `read_files` read all files again, once. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for note in cache.glob(f"{_NOTE}*"):
            note.unlink(missing_ok=True)


class _TooYoung(Exception):
    """A file has changed so lately that it may change again within the same tick."""


def _note_of(files: Sequence[Path], root: Path) -> str:
    """Where it is noted what the digest of these files was: a name in the cache."""
    names = [os.fsencode(path.absolute()).hex() for path in (root, *files)]
    key = hashlib.sha256(canonical_json([_READER_VERSION, names])).hexdigest()
    return f"{_NOTE}{key[:32]}"


def _noted(note: Path, state: str) -> str:
    """The digest of files in this state, "" if it is not known."""
    with contextlib.suppress(OSError), note.open("rb") as file:
        known, _, digest = file.read(200).decode("ascii", "replace").partition(" ")
        if known == state and _DIGEST.fullmatch(digest):
            return digest
    return ""


def _state_of(files: Sequence[Path]) -> str:
    """Of what a write to one of the files would change, a digest. OSError."""
    states = [path.stat() for path in files]
    told = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_dev, s.st_ino] for s in states]
    return hashlib.sha256(canonical_json(told)).hexdigest()


def _write_note(file: IO[bytes], files: Sequence[Path], state: str, digest: str) -> None:
    file.write(f"{state} {digest}".encode())
    file.flush()
    # The clock of a file system ticks a few times a second, and no other clock is asked.
    now = os.fstat(file.fileno()).st_mtime_ns
    if any(now - path.stat().st_ctime_ns < _TICK for path in files):
        raise _TooYoung


def through_cache(cache: Path, key: str, read: Callable[[], Decoded]) -> Decoded:
    """`read()`, or what an earlier call with this key returned.

    The file is written to a temporary name and renamed, and what is read is held against the
    digest stored with it. A cache that is damaged, unreadable or cannot be written costs time
    and is never an error.
    """
    path = _cache_path(cache, key)
    kept = _read_cache(path)
    if kept is not None:
        return kept
    decoded = read()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: _write_cache(file, decoded))
    return decoded


def _cache_path(cache: Path, key: str) -> Path:
    return cache / f"decoded-{key[:32]}.npz"


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under a temporary name in the same folder, then rename it. OSError."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_cache(file: IO[bytes], decoded: Decoded) -> None:
    np.savez(
        file,
        train_images=decoded.train_images,
        train_labels=decoded.train_labels,
        test_images=decoded.test_images,
        test_labels=decoded.test_labels,
        class_names=np.array(decoded.class_names, dtype=np.str_),
        encodings=np.array(decoded.encodings, dtype=np.str_),
        digest=np.array(_cache_digest(decoded)),
    )


def _cache_digest(decoded: Decoded) -> str:
    return content_digest(decoded.arrays(), [*decoded.class_names, "", *decoded.encodings])


def _read_cache(path: Path) -> Decoded | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            decoded = Decoded(
                train_images=kept["train_images"],
                train_labels=kept["train_labels"],
                test_images=kept["test_images"],
                test_labels=kept["test_labels"],
                class_names=tuple(kept["class_names"].tolist()),
                encodings=tuple(kept["encodings"].tolist()),
            )
            return decoded if str(kept["digest"]) == _cache_digest(decoded) else None
    except Exception:
        # Whatever a damaged file makes NumPy raise, the answer is to decode again.
        return None
