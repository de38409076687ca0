"""Weights to begin with, from another task; and what is left of them after fine-tuning.

The network of the old task is kept as it was prepared. Its last layer never leaves it: the
new task has one of its own, and when the old task is asked again, the rest of the fine-tuned
network is put beside the old last layer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from batchcliff.data.resident import Resident
from batchcliff.errors import DataError, UsageError
from batchcliff.record import Outcome, Transfer
from batchcliff.spec import Decay, Pretraining, TrialSpec
from batchcliff.training.arithmetic import DataFacts, ledger
from batchcliff.training.prepare import Prepared, image_shape, prepare
from batchcliff.training.records import measured
from batchcliff.training.trial import read_tests, reestimate, run_trials

HEAD = "head."  # what the names of the last layer's tensors begin with


def old_task(spec: TrialSpec, data_digest: str = "") -> TrialSpec:
    """The trial that pretrains for `spec`: its settings and seed, none of its techniques."""
    pretraining = spec.settings.pretraining
    assert pretraining is not None
    return TrialSpec(
        workload=spec.workload,
        data=pretraining.data,
        data_digest=data_digest,
        arm="pretraining",
        techniques=(),
        settings=dataclasses.replace(spec.settings, pretraining=None, evaluate_every=0),
        batch_size=pretraining.batch_size,
        lr=pretraining.lr,
        decay=Decay(kind="cosine"),
        budget=pretraining.budget,
        seed=spec.seed,
    )


class Pretrained:
    """The network of the old task, pretrained once per seed; serves all trials of that seed.

    cache: folder in which weights are kept, so that every worker of a study begins with the
    same ones; the first to finish decides. weights: a safetensors file to take instead.
    """

    def __init__(
        self,
        spec: TrialSpec,
        resident: Resident,
        *,
        num_classes: int,
        data_digest: str,
        cache: Path,
        weights: Path | None = None,
    ) -> None:
        self.spec, self.resident = old_task(spec, data_digest), resident
        self.prepared: Prepared = prepare(self.spec, resident, num_classes=num_classes, stack=1)
        pretraining = spec.settings.pretraining
        assert pretraining is not None
        data = _given(weights, pretraining) if weights else self._trained(cache, num_classes)
        self.digest = hashlib.sha256(data).hexdigest()[:16]
        self.state = self._checked(data, str(weights or cache))
        self.before = self._old_accuracy(self.state)[0]
        if self.before is None:
            raise DataError(f"{weights or cache}: these weights make no finite loss")

    def _trained(self, cache: Path, num_classes: int) -> bytes:
        """The weights as a file, from the cache or trained now and put there."""
        path = cache / f"pretrained-{self.spec.trial_id}.safetensors"
        if path.exists():
            return path.read_bytes()
        height, width, channels = image_shape(self.resident)
        facts = DataFacts(
            num_train=len(self.resident.train_labels),
            num_test=len(self.resident.test_labels),
            num_classes=num_classes,
            image_shape=(height, width, channels),
        )
        counted = ledger(self.spec, facts)
        (record,) = run_trials([self.spec], [counted], self.resident, self.prepared)
        if record.outcome is not Outcome.OK:
            raise UsageError(
                f"pretraining ended {record.outcome}: {record.reason}. Write a smaller "
                f"settings.pretraining.lr than {self.spec.lr}."
            )
        state = {n: t.cpu().contiguous() for n, t in self.prepared.model.state_dict().items()}
        return _kept(path, save_tensors(state))

    def _checked(self, data: bytes, where: str) -> dict[str, Tensor]:
        """The tensors of a file, all there and of the right shapes. Raises DataError."""
        try:
            found = load_tensors(data)
        except SafetensorError as error:
            raise DataError(f"{where} is no safetensors file: {error}") from error
        wanted = self.prepared.model.state_dict()
        for name, tensor in wanted.items():
            if name not in found:
                raise DataError(f"{where} has no tensor {name!r} {list(tensor.shape)}")
            if found[name].shape != tensor.shape:
                raise DataError(
                    f"{where}: {name} is {list(found[name].shape)}; the network of "
                    f"{self.spec.data} needs {list(tensor.shape)}"
                )
        if unknown := sorted(found.keys() - wanted.keys()):
            raise DataError(f"{where}: the network has no tensor {unknown[0]!r}")
        device = self.prepared.loop.device
        return {name: tensor.to(device) for name, tensor in found.items()}

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        """Give `model` the pretrained weights and statistics, all but the last layer."""
        for name, tensor in model.state_dict().items():
            if not name.startswith(HEAD):
                tensor.copy_(self.state[name])  # in place: captured addresses stay valid

    def measure(self, model: nn.Module) -> Transfer:
        """What is left of the old task in a fine-tuned `model`; waits for the device."""
        old_accuracy, reestimated_accuracy = self._old_accuracy(model.state_dict())
        distance = self._distance(model)
        return Transfer(
            distance=distance if math.isfinite(distance) else None,
            old_accuracy_before=self.before or 0.0,
            old_accuracy=old_accuracy,
            old_accuracy_reestimated=reestimated_accuracy,
            weights=self.digest,
        )

    @torch.no_grad()
    def _old_accuracy(self, state: dict[str, Tensor]) -> tuple[float | None, float | None]:
        """Accuracy on the old test set with `state` and the old last layer: with running and
        with re-estimated batch-norm statistics; None where the loss is not finite."""
        prepared = self.prepared
        for name, tensor in prepared.model.state_dict().items():
            tensor.copy_(self.state[name] if name.startswith(HEAD) else state[name])
        prepared.evaluation.count.zero_()
        prepared.model.eval()
        prepared.evaluate()
        reestimate(prepared, [self.spec], self.resident)
        running, again = read_tests(prepared, len(self.resident.test_labels))[0]
        return measured(*running), measured(*again)

    @torch.no_grad()
    def _distance(self, model: nn.Module) -> float:
        """|w - w0| / |w0| over all parameters but the last layer's, in float64."""
        moved = norm = 0.0
        for name, parameter in model.named_parameters():
            if not name.startswith(HEAD):
                old = self.state[name].double()
                moved += float((parameter.double() - old).square().sum())
                norm += float(old.square().sum())
        return math.sqrt(moved / norm)


def _given(path: Path, pretraining: Pretraining) -> bytes:
    """The file that the study names by its digest. DataError if it is another one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"--weights {path}: {error.strerror or error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != pretraining.weights:
        raise DataError(
            f"--weights {path}: its SHA-256 is {found}, and the study's weights have "
            f"{pretraining.weights}"
        )
    return data


def _kept(path: Path, data: bytes) -> bytes:
    """Put `data` at `path` unless somebody was faster, whose bytes are then taken."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(file.name, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        Path(file.name).unlink()
    return data
