"""What lies at a place on disk: an accepted container, or a message that says why not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchcliff.data import cifar, images
from batchcliff.data.verify import Decoded, read_files, shown, some
from batchcliff.errors import BatchcliffError, DataError

ACCEPTED = (
    f"{cifar.ARCHIVE.name} (the official archive), a folder with its data_batch_1.bin ... "
    "test_batch.bin, a folder with train*.parquet and test*.parquet (columns img or image: "
    "struct<bytes, path>, and label), a folder with train/<class>/ and test/<class>/ full of "
    "PNG or JPEG files, or an .npz file with x_train, y_train, x_test, y_test"
)
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy")


@dataclass(frozen=True, slots=True)
class Container:
    """`kind` for people; `files` that hold the data; `read` decodes them.

    `root` is the folder to which the names of `files` are relative. `slow`: decoding is
    worth keeping in the cache.
    """

    kind: str
    root: Path
    files: tuple[Path, ...]
    read: Callable[[], Decoded]
    slow: bool


def find(location: Path, archive: cifar.Archive | None = None) -> Container:
    """The container at `location`. DataError with what was found and what is accepted.

    `archive` is what a `.tar.gz` must be (default: `cifar.ARCHIVE`).
    """
    try:
        return _find(location, archive or cifar.ARCHIVE)
    except OSError as error:  # no permission, a name that is too long
        raise DataError(f"cannot read {shown(location)}: {error.strerror}") from error


def _find(location: Path, pinned: cifar.Archive) -> Container:
    if location.is_dir():
        if container := _folder(location, pinned):
            return container
        if cifar.is_pickled_folder(location):
            raise DataError(f"{shown(location)}: {cifar.PICKLED}.")
        entries = sorted(p.name for p in location.iterdir())
        found = some([repr(name) for name in entries]) or "nothing"
        raise DataError(f"{shown(location)} holds {found}. Accepted: {ACCEPTED}.")
    if not location.is_file():
        raise DataError(f"{shown(location)}: no such file or folder. Accepted: {ACCEPTED}.")
    if location.name.endswith((".tar.gz", ".tgz")):
        return _archive(location, pinned)
    if location.suffix == ".npz":
        read = functools.partial(images.read_npz, location)
        return Container(".npz", location.parent, (location,), read, slow=False)
    if location.suffix in _PICKLES:
        raise DataError(
            f"{shown(location)}: {location.suffix} files can hold pickles, which can run any "
            f"code when they are read: refused. Accepted: {ACCEPTED}."
        )
    raise DataError(f"{shown(location)} is a file of unknown kind. Accepted: {ACCEPTED}.")


def _archive(path: Path, pinned: cifar.Archive) -> Container:
    read = functools.partial(cifar.read_archive, path, pinned)
    return Container("official binary archive", path.parent, (path,), read, slow=True)


def _folder(folder: Path, pinned: cifar.Archive) -> Container | None:
    for place in (folder, folder / cifar.FOLDER):
        if (place / cifar.TRAIN_FILES[0]).is_file():
            files = tuple(place / name for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE))
            read = functools.partial(cifar.read_binary_folder, place)
            return Container("binary files", place, files, read, slow=False)
    if parquet := images.parquet_files(folder):
        train, test = parquet
        read = functools.partial(images.read_parquet, train, test)
        return Container("Parquet", folder, (*train, *test), read, slow=True)
    if by_class := images.image_files(folder):
        paths = [p for split in by_class.values() for files in split.values() for p in files]
        read = functools.partial(images.read_image_folder, by_class)
        return Container("image files", folder, tuple(paths), read, slow=True)
    if (folder / pinned.name).is_file():
        return _archive(folder / pinned.name, pinned)
    return None


def read(container: Container, cache: Path) -> Decoded:
    """Decode `container`, or take it from the cache folder. DataError if it cannot be read."""
    try:
        if not container.slow:
            return container.read()
        return read_files(container.files, container.root, cache, container.read)
    except BatchcliffError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {shown(container.root)}: {error}") from error
