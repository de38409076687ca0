"""Image data sets in general containers: Parquet, a folder of image files, `.npz`.

All of them are untrusted input. Sizes are read from headers and held against limits before
anything is unpacked, only bitmap formats are decoded, and nothing here can run code.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcliff.data.decoding import MAX_ENCODED_BYTES, Encoded, decode_images
from batchcliff.data.verify import MAX_DECODED_BYTES, Decoded, shown, some
from batchcliff.errors import BatchcliffError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("label", "labels")

# Parquet -------------------------------------------------------------------------------------


def parquet_files(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Training and test files of a Hugging Face-style folder; None if it is not one."""
    for place in (folder, folder / "data", folder / "plain_text"):
        train = sorted(p for p in place.glob("train*.parquet") if p.is_file())
        test = sorted(p for p in place.glob("test*.parquet") if p.is_file())
        test = test or sorted(p for p in place.glob("val*.parquet") if p.is_file())
        if train and test:
            return train, test
    return None


def read_parquet(train: Sequence[Path], test: Sequence[Path]) -> Decoded:
    """Decode Parquet: an image column (struct<bytes, path> or binary), integer labels."""
    train_images, train_labels, names, kinds = _parquet_split(train)
    test_images, test_labels, _, more = _parquet_split(test)
    return Decoded(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=names or _numbered(train_labels),
        encodings=tuple(sorted({*kinds, *more})),
    )


def _numbered(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names "0", "1", ... for labels without names. DataError for absurdly large ones."""
    most = int(labels.max(initial=-1))
    if most >= 1_000_000:
        raise DataError(f"a label of {most:,}: labels must be 0, 1, ... without gaps")
    return tuple(str(i) for i in range(most + 1))


def _parquet_split(
    paths: Sequence[Path],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    import pyarrow.parquet as pq

    encoded: list[Encoded] = []
    labels: list[NDArray[np.int64]] = []
    names: tuple[str, ...] = ()
    for path in paths:
        try:
            # Opened by Python, so that every path works that the system knows.
            with path.open("rb") as stream, pq.ParquetFile(stream) as file:
                _check_parquet(path, file)
                names = names or _names_in(file.schema_arrow.metadata or {})
                for more, numbers in _parquet_batches(path, file):
                    encoded.extend(more)
                    labels.append(numbers)
        except BatchcliffError:
            raise
        except Exception as error:  # as above
            raise DataError(f"{shown(path)} is no readable Parquet file: {error}") from error
    images, kinds = decode_images(encoded, len(encoded))
    return images, np.concatenate([np.zeros(0, np.int64), *labels]), names, kinds


def _column(names: Sequence[str], wanted: Sequence[str], path: Path) -> str:
    found = [name for name in wanted if name in names]
    if not found:
        raise DataError(
            f"{shown(path)}: no column {' or '.join(wanted)}; it has {some(list(names))}"
        )
    return found[0]


def _check_parquet(path: Path, file: Any) -> None:
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > MAX_DECODED_BYTES:
        raise DataError(f"{shown(path)} unpacks to {unpacked:,} bytes: refused")


def _parquet_batches(
    path: Path, file: Any
) -> Iterator[tuple[list[Encoded], NDArray[np.int64]]]:
    import pyarrow as pa

    schema = file.schema_arrow
    image = _column(schema.names, IMAGE_COLUMNS, path)
    label = _column(schema.names, LABEL_COLUMNS, path)
    kind = schema.field(image).type
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not nested and not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise DataError(
            f"{shown(path)}: column {image} is {kind}; expected struct<bytes, path>"
        )
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(
            f"{shown(path)}: column {label} is {schema.field(label).type}; expected an integer"
        )
    row = 0
    for batch in file.iter_batches(batch_size=4096, columns=[image, label]):
        column, numbers = batch.column(image), batch.column(label)
        if nested:
            column = column.field("bytes")
        if column.null_count or numbers.null_count:
            raise DataError(
                f"{shown(path)}: a row between {row} and {row + len(column) - 1} has no image "
                "bytes or no label"
            )
        yield (
            [(f"{shown(path)} row {row + i}", data.as_py) for i, data in enumerate(column)],
            numbers.cast(pa.int64()).to_numpy(zero_copy_only=False),
        )
        row += len(column)


def _names_in(metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Class names that Hugging Face keeps in the schema; () if there are none."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        label = next(features[name] for name in LABEL_COLUMNS if name in features)
        names = label["names"]
    except (KeyError, TypeError, ValueError, StopIteration, RecursionError):
        return ()
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


# A folder of image files -------------------------------------------------------------------


def image_files(folder: Path) -> dict[str, dict[str, list[Path]]] | None:
    """{"train": {class: files}, "test": {...}}, sorted; None if `folder` is not of this kind.

    Names that begin with a dot are passed over. DataError for any other file that is no
    image, since a file that is passed over in silence is missing in silence.
    """
    splits = {"train": folder / "train", "test": folder / "test"}
    if not all(place.is_dir() for place in splits.values()):
        return None
    found: dict[str, dict[str, list[Path]]] = {}
    for split, place in splits.items():
        found[split] = {}
        for inner in sorted(place.iterdir(), key=lambda p: os.fsencode(p.name)):
            if inner.name.startswith("."):
                continue
            if not inner.is_dir():
                raise DataError(f"{shown(inner)}: expected {split}/<class>/<image>")
            found[split][inner.name] = _images_of(inner)
    return found


def _images_of(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in files:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise DataError(f"{shown(path)} is no image file ({', '.join(SUFFIXES)} are)")
    return sorted(files, key=lambda p: os.fsencode(p.name))


def read_image_folder(files: dict[str, dict[str, list[Path]]]) -> Decoded:
    """Decode what `image_files` found; classes are the folder names, sorted.

    DataError, with both lists, if training and test have other classes, or one is empty.
    """
    train, test = files["train"], files["test"]
    if train.keys() != test.keys() or not all((*train.values(), *test.values())):
        empty = [
            f"{split}/{name}" for split in files for name, f in files[split].items() if not f
        ]
        raise DataError(
            f"training classes: {some(sorted(train), 20)}; test classes: "
            f"{some(sorted(test), 20)}; empty: {some(empty) or 'none'}. Both splits must have "
            "the same classes, with at least one image each"
        )
    names = list(train)
    kinds: set[str] = set()
    images, labels = {}, {}
    for split, by_class in files.items():
        paths = [path for name in names for path in by_class[name]]
        images[split], met = decode_images(map(_from_file, paths), len(paths))
        labels[split] = np.repeat(np.arange(len(names)), [len(by_class[n]) for n in names])
        kinds.update(met)
    return Decoded(
        train_images=images["train"],
        train_labels=labels["train"].astype(np.int64),
        test_images=images["test"],
        test_labels=labels["test"].astype(np.int64),
        class_names=tuple(names),
        encodings=tuple(sorted(kinds)),
    )


def _from_file(path: Path) -> Encoded:
    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(MAX_ENCODED_BYTES + 1)

    return shown(path), read


# .npz ----------------------------------------------------------------------------------------


def read_npz(path: Path) -> Decoded:
    """Keras-style `.npz`: x uint8 [N, H, W, C] or [N, H, W], y integers [N] or [N, 1]."""
    try:
        with zipfile.ZipFile(path) as archive:
            present = {n.removesuffix(".npy") for n in archive.namelist()}
            if missing := [key for key in NPZ_KEYS if key not in present]:
                raise DataError(
                    f"{shown(path)}: no {', '.join(missing)}; it has {some(sorted(present))}"
                )
            x_train, y_train, x_test, y_test = (_npz_array(archive, key) for key in NPZ_KEYS)
    except BatchcliffError:
        raise
    except Exception as error:  # as above: whatever a damaged file makes them raise
        raise DataError(f"{shown(path)} is no readable .npz file: {error}") from error
    labels = _npz_labels(path, y_train, "y_train")
    return Decoded(
        train_images=_npz_images(path, x_train, "x_train"),
        train_labels=labels,
        test_images=_npz_images(path, x_test, "x_test"),
        test_labels=_npz_labels(path, y_test, "y_test"),
        class_names=_numbered(labels),
    )


def _npz_array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """One array, after its header has been held against the size of its member."""
    member = archive.getinfo(f"{key}.npy")
    if member.file_size > MAX_DECODED_BYTES:
        raise DataError(f"{key} unpacks to {member.file_size:,} bytes: refused")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise DataError(f"{key}: .npy version {version} is not accepted")
        shape, _, dtype = read_header(file)
    if dtype.kind not in "ui":
        raise DataError(
            f"{key} holds {'Python objects' if dtype.hasobject else dtype}; expected integers "
            "(uint8 pixels, integer labels)"
        )
    # A header may promise any shape: never allocate more than the member can fill.
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
        raise DataError(f"{key}: its header says {list(shape)}, more than the file holds")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npz_images(path: Path, images: NDArray[Any], key: str) -> NDArray[np.uint8]:
    if images.dtype == np.uint8 and images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] > 4:
        raise DataError(
            f"{shown(path)}: {key} is {images.dtype} {list(images.shape)}; expected uint8 "
            "[N, H, W, C] with the channels last, or [N, H, W]"
        )
    return np.ascontiguousarray(images)


def _npz_labels(path: Path, labels: NDArray[Any], key: str) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or (labels.dtype == np.uint64 and labels.max(initial=0) >> 63):
        raise DataError(
            f"{shown(path)}: {key} is {list(labels.shape)}; expected one class each"
        )
    return labels.astype(np.int64)
