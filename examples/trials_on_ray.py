"""The trials of a study on a Ray cluster, each a task of its own.

python examples/trials_on_ray.py STUDY FOLDER [DATA]    # e.g. digits /shared/digits

FOLDER, and DATA that are not built in, lie on a disk that every host of the cluster sees.
Started again, it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from batchcliff import StudySpec, api, load_study

OUTCOME = (0, 3)  # exit codes of a trial that has one; 75: another process is at it


@ray.remote(num_cpus=1, max_retries=3)  # of a host that dies; on GPUs: num_gpus=1 as well
def train(study: StudySpec, folder: str, data: str | None, trial_id: str) -> int:
    return api.run(study, out=folder, data=data, workers=1, only=[trial_id]).exit_code


if len(sys.argv) not in (3, 4):
    sys.exit("usage: python examples/trials_on_ray.py STUDY FOLDER [DATA]")
study = load_study(sys.argv[1])
folder = str(Path(sys.argv[2]).resolve())
data = str(Path(sys.argv[3]).resolve()) if len(sys.argv) == 4 else None
ray.init()
while ids := api.plan(study, out=folder, data=data).missing_ids:  # more may follow from them
    codes = ray.get([train.remote(study, folder, data, trial_id) for trial_id in ids])
    ended = sum(code in OUTCOME for code in codes)
    print(f"{ended} of {len(ids)} trials ended")
    if not ended:
        sys.exit(75)
print(api.report(folder).page)
