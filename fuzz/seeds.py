"""Inputs that the readers accept, and words of their languages, for a fuzzer to begin with."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batchcliff.data import cifar, decoding, verify
from batchcliff.study.sealed import seal
from batchcliff.studyfile import recipe_names, recipe_text

if TYPE_CHECKING:
    from torch import Tensor

RECORDS = 2  # in each file of the tiny CIFAR-10


def study_files() -> list[bytes]:
    return [recipe_text(name).encode() for name in recipe_names()]


OVERRIDES = [b"lr.base=0.2", b'arms."a b".warmup.duration="5ep"', b"seeds=[0, 1]",
             b"arms.warmup+lars.x=1e-3", b"batch_sizes=32..512:x2"]  # fmt: skip
TOML = (b"[arms.", b"]\n", b" = ", b'"""', b"'''", b"{ ", b" }", b"[[", b"1e-3", b"nan", b"inf",
        b"-0", b"0x1F", b"1_000", b"1979-05-27T07:32:00Z", b"\\u0000", b"\\", b"#", b"\r\n",
        b"5%", b"100ep", b"128..8192:x2", b"\xef\xbb\xbf", b"warmup", b"duration", b"lr.base",
        b"seeds", b"\xed\xa0\x80", b"true", b"99999999999999999999")  # fmt: skip


def _files_of_results(part: str, most: int) -> list[bytes]:
    folder = Path(__file__).parents[1] / "results" / "digits"
    return [path.read_bytes() for path in sorted(folder.glob(part))[:most]]


def records() -> list[bytes]:
    found = _files_of_results("results/*.json", 3)
    small = {"body": {"spec": {}, "outcome": "ok"}, "provenance": None}
    return [*found, json.dumps(small).encode()]


def plans() -> list[bytes]:
    return _files_of_results("plan/*.json", 1)


def heads() -> list[bytes]:
    return _files_of_results("STUDY.json", 1)


def claimed() -> list[bytes]:
    return [seal({"why": "hung"}), seal({"host": "h", "pid": 7, "started": "x"}, {"a": 1})]


def logs() -> list[bytes]:
    return [b'{"at":"2026-01-01T00:00:00Z","event":"done"}\n' * 3, *claimed()]


JSON = (b'"$float"', b'{"$float":"nan"}', b"null", b"true", b"1e999", b"-1", b"[]", b"{}",
        b"0.5", b'"body":', b'"v":2', b'"provenance":', b"\\ud800", b"NaN", b"9" * 20,
        b'"outcome":"oom"', b'""', b"[[]]")  # fmt: skip


def small_archives() -> list[bytes]:
    size = RECORDS * cifar._RECORD
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE):
            info = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    whole = buffer.getvalue()
    return [whole, whole[: 512 * 3]]


def small_gzips() -> list[bytes]:
    return [gzip.compress(data, mtime=0) for data in small_archives()]


def small_folders() -> list[bytes]:
    return [bytes(RECORDS * cifar._RECORD), b"\x0b" + bytes(RECORDS * cifar._RECORD - 1)]


def small_npz() -> list[bytes]:
    buffer = io.BytesIO()
    pixels, labels = np.zeros((2, 3, 3, 3), np.uint8), np.array([0, 1])
    np.savez(buffer, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return [buffer.getvalue()]


def small_npy() -> list[bytes]:
    found = []
    for array in (np.zeros((2, 3, 3, 3), np.uint8), np.array([0, 1])):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(buffer.getvalue())
    return found


def small_images() -> list[bytes]:
    from PIL import Image

    found = []
    for kind in decoding.FORMATS:
        for mode in ("RGB", "L"):
            buffer = io.BytesIO()
            Image.new(mode, (5, 4), 7).save(buffer, kind)
            found.append(buffer.getvalue())
    return found


def small_parquet() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": data, "path": None} for data in small_images()[:2]]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = []
    for compression in ("none", "snappy"):
        table = pa.table({"img": pa.array(rows, kind), "label": pa.array([0, 1])})
        names = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression=compression)
        found.append(buffer.getvalue())
    return found


def small_caches() -> list[bytes]:
    pixels, labels = np.zeros((2, 3, 3, 3), np.uint8), np.array([0, 1])
    decoded = verify.Decoded(
        train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels,
        class_names=("a", "b"),
    )  # fmt: skip
    buffer = io.BytesIO()
    verify._write_cache(buffer, decoded)
    return [buffer.getvalue()]


def tables() -> list[bytes]:
    return [
        b"arm,batch_size,seed,accuracy\nnone,128,0,0.9\nnone,256,0,0.8\nw,128,0,0.91\n",
        b"batch,acc,outcome\r\n64,0.5,ok\r\n128,,diverged\r\n",
    ]


def small_weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [save(dict(torch.nn.Linear(2, 3).state_dict()))]


RUN = {"format": "batchcliff checkpoint 1", "trials": "0" * 20, "code": "c",
       "numerics": '[["threads","1"]]', "weights": ""}  # fmt: skip


@functools.cache
def run_state() -> Mapping[str, Tensor]:
    """The tensors of a run of six updates and two evaluations, after the first three."""
    import torch

    return {
        "model.weight": torch.ones(3, 2),
        "losses": torch.zeros(6, 1),
        "row": torch.tensor(0),
        "count": torch.tensor(3),
        "evaluation.count": torch.tensor(1),
        "random.cpu": torch.get_rng_state(),
    }


def small_checkpoints() -> list[bytes]:
    from batchcliff.training.checkpoint import encode

    said = {"update": "3", "seconds": "0.5"}
    others = {"code": "d", "numerics": "[]"}
    whole = [
        encode(run_state(), {**RUN, **said, name: value}) for name, value in others.items()
    ]
    return [encode(run_state(), RUN | said), *whole]


CSV = (b",", b"\n", b'"', b"nan", b"inf", b"-1", b"1e999", b"diverged", b"batch_size", b"\x00",
       b"\xef\xbb\xbf", b";", b"\t", b"none", b"9" * 5000)  # fmt: skip
SAFETENSORS = (b'"dtype":"F64"', b'"dtype":"BOOL"', b'"shape":[3,2]', b'"shape":[-1]',
               b'"data_offsets":[0,24]', b'"weight"', b'"__metadata__"', b"\xff" * 8,
               b'"dtype":"F8_E4M3"', b'"dtype":"I64"', b"[" * 200)  # fmt: skip
NPY = (b"'descr': '|O'", b"'descr': '<i8'", b"'fortran_order': True", b"'shape': (-1,)",
       b"'shape': (9999999999,)", b"(((((((", b"cos\nsystem\n", b"\x93NUMPY")  # fmt: skip
ZIP = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"x_train.npy",
    b"../x",
    b"\xff\xff\xff\xff",
)
TAR = (b"ustar\x0000", b"../../x", b"L", b"x", b"g", b"77777777777", b"data_batch_1.bin")
