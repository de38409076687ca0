"""How much of the sharpness Lanczos finds after so many iterations: what the choice rests on.

    python benchmarks/bench_sharpness.py --json FILE

Trials of `digits` without warmup and with, at four batch sizes with three seeds. Before updates
0 and 16 and at a quarter of the run the sharpness is measured with 20 iterations. The first k
of them are what k iterations do, so one run gives the largest eigenvalue after any number, as a
share of that after 20.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from batchcliff.data.resident import Resident
from batchcliff.provenance import code_name, utc_now
from batchcliff.spec import TrialSpec
from batchcliff.study.grid import trials
from batchcliff.study.material import load_material
from batchcliff.studyfile import load_study
from batchcliff.training import probes_plan
from batchcliff.training.epochs import train
from batchcliff.training.precision import device_name
from batchcliff.training.prepare import prepare
from batchcliff.training.probes_measure import ritz
from batchcliff.training.trial import rates

MOST = 20
SHOWN = (4, 5, 6, 8, 10, 12)
PLACES = probes_plan.USUAL.sharpness_at


def measured(spec: TrialSpec, data: Resident) -> list[dict[str, Any]]:
    """The share that is found after each number of SHOWN, at each place of a trial."""
    settings = dataclasses.replace(spec.settings, probes=("sharpness",), probe_at=PLACES)
    probed = [dataclasses.replace(spec, settings=settings)]
    prepared = prepare(probed[0], data, num_classes=10, stack=1)
    prepared.restart(probed, rates(probed, data))
    train(prepared, probed, data, None)
    rows = []
    for place, matrix_2k in zip(PLACES, prepared.loop.logs[probes_plan.LANCZOS], strict=True):
        matrix = matrix_2k[0].double().numpy()
        whole = ritz(matrix)
        assert whole is not None, "a sharpness that is not finite"
        found = {str(count): ritz(matrix[:, :count]) for count in SHOWN}
        rows.append(
            {
                "arm": spec.arm,
                "batch_size": spec.batch_size,
                "seed": spec.seed,
                "place": place,
                "sharpness": round(whole[0], 4),
                "shares": {
                    k: round(pair[0] / whole[0], 4) for k, pair in found.items() if pair
                },
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    probes_plan.USUAL = dataclasses.replace(probes_plan.USUAL, iterations=MOST)
    study = load_study("digits", seeds="3", batch_sizes="64,128,256,512")
    dataset = load_material(None, study.data, None).dataset
    data, rows = Resident.of(dataset, torch.device("cpu")), []
    for spec in trials(study, dataset.digest):
        rows += measured(spec, data)
    for count in map(str, SHOWN):
        shares = sorted(row["shares"][count] for row in rows)
        near = sum(share >= 0.98 for share in shares)
        print(
            f"{count:>2} iterations: least {shares[0]:.3f}, {near} of {len(shares)} from 0.98"
        )
    common = {
        "device": device_name(torch.device("cpu")), "torch": torch.__version__,
        "code": code_name(), "date": utc_now()[:10], "what": f"digits, of {MOST} iterations",
    }  # fmt: skip
    if chosen.json:
        rows = [row | common for row in rows]
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
