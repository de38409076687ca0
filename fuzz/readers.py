"""Everything that reads bytes which others wrote, as functions for a fuzzer.

Each takes any bytes and returns, or raises one of the errors that people are shown. Any
other exception is a finding, and so is anything that `watch` sees: a reader that starts a
process, opens a socket, unpickles, or writes outside of the scratch folder.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seeds
from seeds import RECORDS
from watch import scratch

from batchcliff.canonical import parse_json
from batchcliff.data import cifar, decoding, images, verify
from batchcliff.errors import DataError, UsageError
from batchcliff.study import claims, identity
from batchcliff.study.plan import Plan
from batchcliff.study.sealed import Damaged, seal, unseal
from batchcliff.study.store import Store
from batchcliff.studyfile import parse_study, recipe_text

MOST_BYTES = 1 << 16  # of one input: larger ones find nothing that smaller ones do not
cifar.RECORDS_PER_FILE = RECORDS


@dataclass(frozen=True)
class Reader:
    """`read` takes any bytes; `seeds` are inputs that it accepts, or nearly does."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()


# --- study files ----------------------------------------------------------------------------


def study_file(data: bytes) -> object:
    """A TOML text."""
    with contextlib.suppress(UsageError):
        return parse_study(data.decode("utf-8", "replace"))
    return None


def override(data: bytes) -> object:
    """`--set KEY=VALUE` on a good study file."""
    with contextlib.suppress(UsageError):
        return parse_study(recipe_text("digits"), overrides=[data.decode("utf-8", "replace")])
    return None


# --- what a study's folder holds ------------------------------------------------------------


class OneFile:
    """Stands for a folder that holds the same bytes under every name."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path = data, path

    def read(self, _: str) -> bytes:
        return self.data

    def names(self) -> list[str]:
        return ["1.json", "a.jsonl"]


def sealed(data: bytes) -> object:
    """Any sealed file, as bytes."""
    with contextlib.suppress(Damaged):
        return unseal(data)
    return None


def table(data: bytes) -> object:
    """A table of trials from elsewhere: CSV."""
    from batchcliff.published.imported import describe

    with contextlib.suppress(UsageError):
        return describe(
            data, name="x", source="x.csv", unit="share", num_classes=10,
            reference_arm=None, tolerance=0.02,
        )  # fmt: skip
    return None


def weights(data: bytes) -> object:
    """Weights to begin with: safetensors."""
    from types import SimpleNamespace

    import torch

    from batchcliff.training.pretrained import Pretrained

    model = torch.nn.Linear(2, 3)
    prepared = SimpleNamespace(model=model, loop=SimpleNamespace(device=torch.device("cpu")))
    owner: Any = SimpleNamespace(prepared=prepared, spec=SimpleNamespace(data="x"))
    with contextlib.suppress(DataError):
        return Pretrained._checked(owner, data, "x")
    return None


def checkpoint(data: bytes) -> object:
    """The state of a run that was ended: safetensors, and what it says of itself."""
    from batchcliff.training.checkpoint import Elsewhere, Unusable, decode

    with contextlib.suppress(Unusable, Elsewhere):
        return decode(data, seeds.run_state(), seeds.RUN, {3: 1, 6: 2})
    return None


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 0.5, float("nan"), float("inf"), "", "ok", "oom", "\ud800",
    "=1+1", "x" * 3000, [], [[]], {}, {"$float": "0"}, {"a": 1}, [None] * 20, "128", "5ep",
)  # fmt: skip


def edited(data: bytes, tree: Any) -> Any:
    """`tree` with a few places changed, each as the next bytes say: so JSON stays JSON."""
    choices = iter(data[:64])
    with contextlib.suppress(StopIteration):
        while True:
            parent: Any = tree
            key: Any = "body"
            while isinstance(parent[key], (dict, list)) and parent[key]:
                which = next(choices)
                if which >= 240:
                    break
                parent = parent[key]
                keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
                key = keys[which % len(keys)]
            how = next(choices)
            if how % 8 == 0 and key != "body":
                del parent[key]
            elif how % 8 == 1 and isinstance(parent, dict):
                parent[f"key{how}"] = ODD[how % len(ODD)]
            else:
                parent[key] = ODD[next(choices) % len(ODD)]
            if not isinstance(parent, (dict, list)) or not tree["body"]:
                break
    return tree


def _resealed(data: bytes, good: Callable[[], list[bytes]]) -> bytes | None:
    """A valid seal around odd content, since no fuzzer guesses a SHA-256.

    The bytes are the content, if they are JSON; otherwise they say what to change in a seed.
    """
    try:
        whole = parse_json(data)
        return seal(whole["body"], whole["provenance"])
    except (ValueError, TypeError, KeyError, RecursionError):
        if not data or data[:1] in b"{[":
            return None
    whole = edited(data[1:], json.loads(_cached(good)[data[0] % len(_cached(good))]))
    try:
        return seal(whole["body"], whole.get("provenance"))
    except (ValueError, RecursionError):
        return None


_seeds: dict[Any, list[bytes]] = {}


def _cached(good: Callable[[], list[bytes]]) -> list[bytes]:
    if good not in _seeds:
        _seeds[good] = good()
    return _seeds[good]


_stores: list[Store] = []


def _store() -> Store:
    if not _stores:
        source = Path(__file__).parents[1] / "results" / "digits"
        folder = scratch() / "study"
        (folder / "plan").mkdir(parents=True, mode=0o700)
        for name in ("STUDY.json", "plan/0001.json"):
            (folder / name).write_bytes((source / name).read_bytes())
        _stores.append(Store.open(folder, any_owner=True))
    return _stores[0]


def record(data: bytes) -> object:
    """A record whose seal is right and whose content is anything."""
    text = _resealed(data, seeds.records)
    if text is None:
        return None
    store = _store()
    store._parts.read = lambda _part, _name: text  # type: ignore[method-assign]
    with contextlib.suppress(Damaged):
        return store._read_record("0" * 20 + ".json")
    return None


def plan(data: bytes) -> object:
    """A generation of the plan whose seal is right."""
    text = _resealed(data, seeds.plans)
    if text is None:
        return None
    store = _store()
    store._parts.read = lambda _part, _name: text  # type: ignore[method-assign]
    with contextlib.suppress(Damaged, UsageError):
        return Plan._read(store._plan, "0001.json")
    return None


def head(data: bytes) -> object:
    """STUDY.json whose seal is right, and what a plan makes of it."""
    text = _resealed(data, seeds.heads)
    if text is None:
        return None
    folder: Any = OneFile(text, scratch())
    store = _store()
    with contextlib.suppress(Damaged, UsageError):
        found = identity.read_head(folder)
        store._parts.read = lambda _part, _name: None  # type: ignore[method-assign]
        store._parts.names = lambda _part: []  # type: ignore[method-assign]
        return Plan(store._parts, found).study
    return None


def attempts(data: bytes) -> object:
    """Claims, ends and logs: never an error, whatever they hold."""
    folder: Any = OneFile(data, scratch())
    claims.read_attempts(folder)
    events, torn = claims.read_events(folder)
    assert len(events) + torn <= data.count(b"\n") + data.count(b"\r") + 1 + data.count(b"\x0b")
    text = _resealed(data, seeds.claimed)
    if text is not None:
        resealed: Any = OneFile(text, scratch())
        claims.read_attempts(resealed)
    return events


# --- data sets ------------------------------------------------------------------------------


def _file(name: str, data: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(data)
    return path


def _used(decoded: verify.Decoded) -> str:
    """What a data set goes through before it is trained on."""
    verify.check(decoded, "fuzz")
    ordered = verify.canonical(decoded)
    return verify.content_digest(ordered.arrays(), ordered.class_names)


def npz(data: bytes) -> object:
    """A Keras-style `.npz`."""
    with contextlib.suppress(DataError):
        return _used(images.read_npz(_file("x.npz", data)))
    return None


def npy(data: bytes) -> object:
    """One member of an `.npz` whose zip container is right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in images.NPZ_KEYS:
            archive.writestr(f"{key}.npy", data)
    return npz(buffer.getvalue())


def parquet(data: bytes) -> object:
    """A Parquet file as training and as test set."""
    path = _file("train.parquet", data)
    with contextlib.suppress(DataError):
        return _used(images.read_parquet([path], [path]))
    return None


def image(data: bytes) -> object:
    """One encoded image."""
    with contextlib.suppress(DataError):
        return decoding.decode_images([("image", lambda: data)], 1)
    return None


def cifar_archive(data: bytes) -> object:
    """The official archive, were its pin wrong: a .tar.gz of anything."""
    return _cifar(gzip.compress(data, 1, mtime=0))


def cifar_gzip(data: bytes) -> object:
    """The same, compressed bytes of anything."""
    return _cifar(data)


def _cifar(data: bytes) -> object:
    path = _file("cifar.tar.gz", data)
    pin = cifar.Archive(
        url="https://x.invalid/", name=path.name, size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    with contextlib.suppress(DataError):
        return cifar.read_archive(path, pin)
    return None


def cifar_folder(data: bytes) -> object:
    """The binary files."""
    for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE):
        _file(name, data)
    with contextlib.suppress(DataError):
        return _used(cifar.read_binary_folder(scratch()))
    return None


def cache(data: bytes) -> object:
    """A cache of decoded arrays: damaged or not, never an error."""
    return verify._read_cache(_file("decoded.npz", data))


READERS = {
    "study-file": Reader(study_file, seeds.study_files, seeds.TOML),
    "override": Reader(override, lambda: seeds.OVERRIDES, seeds.TOML),
    "sealed": Reader(sealed, seeds.records, seeds.JSON),
    "record": Reader(record, seeds.records, seeds.JSON),
    "plan": Reader(plan, seeds.plans, seeds.JSON),
    "head": Reader(head, seeds.heads, seeds.JSON),
    "attempts": Reader(attempts, seeds.logs, seeds.JSON),
    "table": Reader(table, seeds.tables, seeds.CSV),
    "weights": Reader(weights, seeds.small_weights, seeds.SAFETENSORS),
    "checkpoint": Reader(checkpoint, seeds.small_checkpoints, seeds.SAFETENSORS),
    "npz": Reader(npz, seeds.small_npz, (*seeds.NPY, *seeds.ZIP)),
    "npy": Reader(npy, seeds.small_npy, seeds.NPY),
    "parquet": Reader(parquet, seeds.small_parquet, (b"PAR1", b"\x15", b"\xff\xff\xff\x7f")),
    "image": Reader(
        image, seeds.small_images, (b"IHDR", b"\xff\xd8", b"RIFF", b"\xff\xff\xff\x7f")
    ),
    "cifar-archive": Reader(cifar_archive, seeds.small_archives, seeds.TAR),
    "cifar-gzip": Reader(cifar_gzip, seeds.small_gzips, (b"\x1f\x8b\x08",)),
    "cifar-folder": Reader(cifar_folder, seeds.small_folders, (b"\xff",)),
    "cache": Reader(cache, seeds.small_caches, (*seeds.NPY, *seeds.ZIP)),
}


def ready(name: str) -> tuple[Reader, list[bytes]]:
    """A reader and its seeds, once all that it imports and keeps is there."""
    reader = READERS[name]
    found = reader.seeds()
    scratch()
    for seed in (*found, b"", b"\x00"):
        reader.read(seed)
    return reader, found
