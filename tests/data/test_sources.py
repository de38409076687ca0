"""Loading by name: one digest for the same data from any container; digits; messages."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcliff.data import cifar, sources
from batchcliff.data.sources import DATASETS, Dataset, load, load_images
from batchcliff.data.verify import content_digest
from batchcliff.errors import DataError, UsageError

AWKWARD = "stüdy 数据\n' \""


def cifar_from(location: Path, tmp_path: Path) -> Dataset:
    return load("cifar10", location, tmp_path / "cache")


def test_the_container_is_no_matter(
    tiny: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tiny.archive(tmp_path / "copy.tar.gz")
    monkeypatch.setattr(cifar, "ARCHIVE", make.pin(archive.read_bytes()))
    loaded = {
        kind: cifar_from(location, tmp_path)
        for kind, location in {
            "official binary archive": archive,
            "binary files": tiny.binary(tmp_path / "bin"),
            "Parquet": tiny.parquet(tmp_path / "pq"),
            "image files": tiny.folder(tmp_path / "png"),
            ".npz": tiny.npz(tmp_path / "data.npz"),
        }.items()
    }
    assert len({d.digest for d in loaded.values()}) == 1
    for kind, dataset in loaded.items():
        assert dataset.source == (
            f"{kind}; not the whole data set: 60 training and 12 test images"
        )
        assert np.array_equal(dataset.train_images, loaded[".npz"].train_images)
    dataset = loaded["Parquet"]
    assert dataset.class_names == cifar.CLASS_NAMES
    assert (dataset.num_classes, dataset.image_shape) == (10, (32, 32, 3))
    assert dataset.scale == 1 / 255
    # The right labels are still with the right images.
    label_of = {
        image.tobytes(): label
        for image, label in zip(tiny.train_images, tiny.train_labels, strict=True)
    }
    pairs = zip(dataset.train_images, dataset.train_labels, strict=True)
    assert all(label_of[image.tobytes()] == label for image, label in pairs)


def test_jpeg_is_noticed_and_said(tiny: Any, tmp_path: Path) -> None:
    exact = cifar_from(tiny.parquet(tmp_path / "png"), tmp_path)
    lossy = cifar_from(tiny.parquet(tmp_path / "jpeg", "JPEG"), tmp_path)
    again = cifar_from(tmp_path / "jpeg", tmp_path)  # from the cache
    assert lossy.digest != exact.digest
    assert lossy.digest == again.digest
    assert "JPEG" not in exact.source
    for dataset in (lossy, again):
        assert dataset.source.startswith(
            "Parquet, JPEG-recompressed: accuracies lie a few points under those published"
        )


@pytest.mark.parametrize("inner", ["", "data", "plain_text"])
def test_parquet_as_the_hub_lays_it_out(tiny: Any, tmp_path: Path, inner: str) -> None:
    folder = tmp_path / "hub"
    if inner:
        folder.mkdir()
    tiny.parquet(folder / inner, image="image", label="labels")
    assert len(cifar_from(folder, tmp_path).test_labels) == 12


def test_a_second_load_comes_from_the_cache(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.parquet(tmp_path / "pq")
    first = cifar_from(folder, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("batchcliff.data.decoding._decode", None)
        assert cifar_from(folder, tmp_path).digest == first.digest
    # A changed file has another key, whatever its size and time: decoded anew.
    test = folder / "test-00000-of-00001.parquet"
    test.write_bytes((folder / "train-00000-of-00001.parquet").read_bytes())
    assert cifar_from(folder, tmp_path).digest != first.digest


def test_awkward_paths(tiny: Any, tmp_path: Path) -> None:
    for name in (AWKWARD, "undecodable \udcff\udcfe"):
        place = tmp_path / name
        expected = cifar_from(tiny.parquet(place / "pq"), place).digest
        assert cifar_from(tiny.npz(place / "x.npz"), place).digest == expected
        assert cifar_from(tiny.folder(place / "png"), place).digest == expected
        with pytest.raises(DataError) as caught:
            cifar_from(place / "nothing here", place)
        assert str(caught.value).isprintable()
    with pytest.raises(DataError, match="cannot read"):
        cifar_from(tmp_path / ("x" * 5000), tmp_path)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda p: p.mkdir(), r"holds nothing\. Accepted: cifar-10-binary"),
        (lambda p: (p.mkdir(), (p / "notes.txt").touch()), r"holds 'notes\.txt'\. Accepted"),
        (lambda p: None, r"no such file or folder\. Accepted"),
        (lambda p: p.write_bytes(b"x"), r"is a file of unknown kind\. Accepted"),
    ],
)
def test_what_is_no_container_is_described(tmp_path: Path, make_it: Any, message: str) -> None:
    place = tmp_path / "place"
    make_it(place)
    with pytest.raises(DataError, match=message):
        cifar_from(place, tmp_path)


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".pth", ".npy"])
def test_pickles_are_refused_by_kind(tmp_path: Path, suffix: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"data{suffix}"
    path.write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    for name in ("cifar10", "images"):
        with pytest.raises(DataError, match="pickles, which can run any code"):
            load(name, path, tmp_path / "cache")
    assert not canary.exists()


def test_other_data_is_not_cifar10(tiny: Any, make: Any, tmp_path: Path) -> None:
    wrong_order = tmp_path / "names"
    tiny.parquet(wrong_order, names=sorted(cifar.CLASS_NAMES, reverse=True))
    with pytest.raises(DataError, match=r"not CIFAR-10: its classes are truck, ship.*`images`"):
        cifar_from(wrong_order, tmp_path)
    np.savez(
        tmp_path / "small.npz",
        x_train=tiny.train_images[:, :8, :8],
        y_train=tiny.train_labels,
        x_test=tiny.test_images[:, :8, :8],
        y_test=tiny.test_labels,
    )
    with pytest.raises(DataError, match=r"not CIFAR-10: train images are \[8, 8, 3\]"):
        cifar_from(tmp_path / "small.npz", tmp_path)
    assert load("images", tmp_path / "small.npz").image_shape == (8, 8, 3)


def test_labels_out_of_range_and_missing_classes(tiny: Any, tmp_path: Path) -> None:
    tiny.test_labels[tiny.test_labels == 7] = 6
    with pytest.raises(DataError, match="no test image of class horse"):
        cifar_from(tiny.binary(tmp_path / "missing"), tmp_path)
    tiny.train_labels[3] = 200
    with pytest.raises(DataError, match=r"train labels 200 lie outside of 0\.\.9"):
        cifar_from(tiny.binary(tmp_path / "range"), tmp_path)


def test_images_takes_any_names(tiny: Any, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    dataset = load_images(tiny.parquet(tmp_path / "pq", names=names), tmp_path, name="mine")
    assert dataset.name == "mine"
    assert dataset.class_names == tuple(names)
    assert dataset.source == "Parquet, PNG images"
    numbered = load("images", tiny.npz(tmp_path / "x.npz"))
    assert numbered.class_names == tuple("0123456789")
    assert numbered.digest != dataset.digest  # the names are part of what it is
    with pytest.raises(DataError, match="needs --data PATH"):
        load("images")


# digits


def test_digits_against_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = load("digits")
    theirs = sorted(
        zip(bunch.data.astype(np.uint8).tolist(), bunch.target.tolist(), strict=True)
    )
    images = np.concatenate([dataset.train_images, dataset.test_images]).reshape(-1, 64)
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert sorted(zip(images.tolist(), labels.tolist(), strict=True)) == theirs
    assert dataset.train_images.shape == (1024, 8, 8, 1)
    assert dataset.test_images.shape == (773, 8, 8, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_images.max() * dataset.scale == 1
    assert dataset.class_names == tuple("0123456789")
    for labels in (dataset.train_labels, dataset.test_labels):
        share = np.bincount(labels) / len(labels)
        assert share.min() > 0.08
        assert share.max() < 0.12


def test_golden_digest_of_digits() -> None:
    """It is part of the id of every trial on digits."""
    dataset = load("digits")
    arrays = (
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
    )
    assert dataset.digest == content_digest(arrays, dataset.class_names)
    expected = "7f69c762690b3635d658059482d9d4caa09219fd41d19ce25ca13a32ea70fc03"
    assert dataset.digest == expected


def test_digits_from_the_package_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file lies elsewhere, scikit-learn's own function gives the same."""
    expected = load("digits").digest
    monkeypatch.setattr(sources, "_DIGITS_MOST_BYTES", 100)
    assert load("digits").digest == expected


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="scikit-learn, which is not installed"):
        load("digits")


def test_digits_takes_no_location(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="digits comes with scikit-learn and takes no --data"):
        load("digits", tmp_path)


def test_loading_needs_neither_torch_nor_scikit_learn() -> None:
    program = (
        "import sys; from batchcliff.data.sources import load; load('digits');"
        "print(*sorted({'torch', 'sklearn', 'pyarrow', 'PIL', 'ssl'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ""


# names


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"'cifar-10'\. Did you mean 'cifar10'\? Known: cifar10,"
    ):
        load("cifar-10")


def test_every_data_set_is_described() -> None:
    assert list(DATASETS) == sorted(DATASETS)
    assert all(source.description for source in DATASETS.values())


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHCLIFF_DATA", "~/here")
    assert sources.default_folder() == Path.home() / "here"
    monkeypatch.delenv("BATCHCLIFF_DATA")
    assert sources.default_folder() == Path.home() / ".cache" / "batchcliff"


def test_a_data_set_says_how_many_images_of_each_class_there_are() -> None:
    """F34: as the report shows it, of a data set that is not even, and of one that is."""
    digits = sources.load("digits")
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    listed = ", ".join(f"{i} {train[i]}/{test[i]}" for i in range(10))
    assert digits.described == f"{digits.source}; training/test images by class: {listed}"
    keep, kept = (np.arange(len(x)) % 10 for x in (digits.train_labels[:60], range(20)))
    even = dataclasses.replace(
        digits,
        train_images=digits.train_images[:60],
        train_labels=keep,
        test_images=digits.test_images[:20],
        test_labels=kept,
    )
    assert even.described.endswith("; each of 10 classes has 6 training and 2 test images")
    many = dataclasses.replace(digits, class_names=tuple(map(str, range(20))))
    assert many.described.endswith(" and 8 more"), "a thousand classes are no page of text"
    assert "11 0/0" in many.described
