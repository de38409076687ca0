"""What is to be run, as frozen values: a study, its arms, and one trial.

Stdlib only. Lengths are durations (`"5ep"`, `"200up"`, `"64000ex"`, `"5%"`), kept as the
text that the user wrote and converted once, exactly, by `batchcliff.schedules.duration`.
`batch_size` is always the number of examples per optimizer update.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

from batchcliff.canonical import ADDED, digest, to_plain

# Raised when a change of code changes what a trial computes, so that old records are not
# taken for new ones. 1: first release.
SEMANTICS = 1

# Names that a study file may use for a field, where more than one place must know them all.
INITS = ("glorot-uniform", "torch", "he-normal")
OPTIMIZERS = ("adam", "adamw", "gi-adam", "lamb", "larc", "lars", "radam", "sgd")
EXCLUDE = ("nothing", "norms-and-biases")
PRECISIONS = ("bf16", "fp16", "fp16-unscaled", "fp32", "tf32")
EVALUATIONS = ("running", "reestimated")
PROBES = ("first-losses", "noise-scale", "sharpness", "update-ratio")

Options = tuple[tuple[str, Any], ...]
"""Options of a technique as a sorted tuple of (name, plain value): hashable, comparable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Architecture by name.

    `widths`: of "conv-net" the channels per convolution, a tuple per block; of "resnet" the
    channels per residual block, a tuple per stage. `zero_gamma`: the last batch norm of every
    residual block starts at 0, so that the block starts as the identity.
    """

    name: str = "conv-net"
    widths: tuple[tuple[int, ...], ...] = ((64, 64, 64), (128, 128, 128), (256, 256, 256))
    # "torch": kaiming_uniform(a=sqrt 5) and uniform bias; "he-normal": Goyal et al. 2017
    init: str = "glorot-uniform"
    zero_gamma: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchNorm:
    """Which examples share statistics, and how running statistics follow them.

    `group`: "global", "B/8" (eight groups of B/8 examples, as on an 8-core TPU), or an
    integer ghost size. `momentum` is Keras': running = momentum * running + (1 - momentum)
    * batch, once an update (PyTorch's momentum is one minus this). `running`: "mean" keeps
    one running average fed by the mean over groups; "per-group" keeps one per group and
    evaluates each shard of the evaluation batch with its own, as the TPU did.
    """

    eps: float = 1e-3
    momentum: float = 0.99
    group: str | int = "B/8"
    running: str = "per-group"


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """The rule of an update, by name (batchcliff.optimizers); fields that it has no use for
    keep their defaults.

    form: of SGD, LARS and LARC. "keras": v = m v - lr g, w += v; "torch": v = m v + g,
        w -= lr v. momentum_correction: "keras" with v scaled by the ratio of rates.
    exclude: which parameters have no weight decay and, in LARS, LARC and LAMB, a trust ratio
        of 1: "nothing" or "norms-and-biases" (every tensor of one dimension).
    clip_norm: longest gradient of a network; 0: no clipping.
    trust: coefficient of the trust ratio of LARS and LARC. denominator: of that ratio,
        "separate", |g| + weight_decay |w|, or "joint", |g + weight_decay w|.
    betas, eps: of Adam's family and LAMB; eps of LARS and LARC too.
    """

    name: str = "sgd"
    form: str = "keras"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    momentum_correction: bool = field(default=False, metadata=ADDED)
    exclude: str = field(default="nothing", metadata=ADDED)
    clip_norm: float = field(default=0.0, metadata=ADDED)
    trust: float = field(default=0.001, metadata=ADDED)
    betas: tuple[float, float] = field(default=(0.9, 0.999), metadata=ADDED)
    eps: float = field(default=1e-8, metadata=ADDED)
    denominator: str = field(default="separate", metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Where the weights come from that a trial begins with, all but the last layer.

    The trial's network is first trained on `data` for `budget` at `batch_size` with a rate
    that falls from `lr` to 0 along a cosine, by the trial's other settings and its seed. With
    `weights`, the SHA-256 of a safetensors file, the file's are taken instead.
    """

    data: str
    budget: str = "30ep"
    batch_size: int = 256
    lr: float = 0.1
    weights: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explosion:
    """A finite training loss that counts as divergence: more than `factor` times that of
    update 0, for `updates` in a row. factor 0: none does."""

    factor: float = 0.0
    updates: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """When a trial ends before its budget does (training/stopping.py).

    stalled: duration by which the loss must have left chance; "": it may take all of the run.
    accuracy: test accuracy, a share, that the trial ends with once it is reached; 0: none.
    """

    stalled: str = ""
    accuracy: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything about a trial that is neither an axis of the grid nor a technique."""

    model: Model = field(default_factory=Model)
    batch_norm: BatchNorm = field(default_factory=BatchNorm)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: str = "clipped-softmax"  # or "logits"
    augmentation: str = "as-written"  # or "as-coded", "none"
    precision: str = "bf16"  # or "fp32", "tf32", "fp16" (scaled loss), "fp16-unscaled"
    remainder: str = "drop"  # floor(N/B) updates an epoch; or "carry" across its end
    evaluate_every: int = 1  # epochs; 0: only at the end
    label_smoothing: float = field(default=0.0, metadata=ADDED)  # share spread over all classes
    mixup: float = field(default=0.0, metadata=ADDED)  # alpha of Beta(alpha, alpha); 0: none
    cutout: int = field(default=0, metadata=ADDED)  # side of the square, pixels; 0: none
    random_erasing: float = field(default=0.0, metadata=ADDED)  # probability; 0: none
    # "reestimated": the trial is judged by batch-norm statistics of the final weights
    evaluation: str = field(default="running", metadata=ADDED)
    gradient_norms: bool = field(default=False, metadata=ADDED)  # recorded for every update
    pretraining: Pretraining | None = field(default=None, metadata=ADDED)
    # measured on the way (training/probes.py), before the updates of `probe_at`; (): usual ones
    probes: tuple[str, ...] = field(default=(), metadata=ADDED)
    probe_at: tuple[str, ...] = field(default=(), metadata=ADDED)
    explosion: Explosion = field(default=Explosion(), metadata=ADDED)
    stop: Stop = field(default=Stop(), metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class LrRule:
    """lr(B) = base * scaling(B / base_batch_size); `scaling` is a name in schedules.scaling.

    tune: base rates that are tried at every batch size, instead of `base`, which is then only
        the one that stands for them before the choice. (): the rule alone.
    tuning_seeds: trials of each of them. validation: share of the training set that those are
        judged by, and not trained on.
    """

    base: float
    base_batch_size: int
    scaling: str = "linear"
    tune: tuple[float, ...] = field(default=(), metadata=ADDED)
    tuning_seeds: int = field(default=1, metadata=ADDED)
    validation: float = field(default=0.1, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decay:
    """Decay of the lr over the run: a kind of `batchcliff.schedules.decays`, and its options.

    Each kind has some of the options and leaves the others at their defaults.

    at: milestones, durations; factor: what each of them multiplies the rate by.
    power: of (1 - t/T) in a polynomial. floor: factor of the peak that the decay falls to.
    timescale: duration, after which an inverse square root falls; "": that of the warmup.
    duration: of the fall at the end of a warmup-stable-decay.
    rise: share of the run before the peak of a one-cycle; start, end: its first and its last
        factor of the peak.
    """

    kind: str = "multistep"
    at: tuple[str, ...] = ()
    factor: float = 0.1
    power: float = field(default=1.0, metadata=ADDED)
    floor: float = field(default=0.0, metadata=ADDED)
    timescale: str = field(default="", metadata=ADDED)
    duration: str = field(default="", metadata=ADDED)
    rise: float = field(default=0.3, metadata=ADDED)
    start: float = field(default=0.04, metadata=ADDED)
    end: float = field(default=4e-6, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A named line of the plot: techniques with options, and settings that it overrides.

    `lr` and `decay` replace the study's for this arm: LARS, say, has rates of another size.
    """

    name: str
    techniques: tuple[tuple[str, Options], ...] = ()
    settings: Options = ()  # dotted names of Settings fields, e.g. ("batch_norm.group", 32)
    lr: LrRule | None = field(default=None, metadata=ADDED)
    decay: Decay | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How an adaptive study looks for its cliffs (study/adaptive.py).

    precision: factor of batch size between the largest size that holds and the smallest that
        falls at which an arm's cliff is found. trials, examples: most that are planned; 0: no
        limit. at_once: trials that are asked for at a time, at least.
    """

    precision: float = 2**0.5
    trials: int = 0
    examples: int = 0
    at_once: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySpec:
    """A set of trials: every arm at every batch size with every seed.

    With `search` only as many of them as it takes to find the cliffs, and at batch sizes
    between those that are listed.
    """

    name: str
    workload: str
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: str
    lr: LrRule
    decay: Decay
    arms: tuple[Arm, ...]
    settings: Settings
    data: str  # the name of a data set; where its files lie is no part of the study
    reference_arm: str = "none"
    tolerance: float = 0.02  # loss of accuracy, a share, that counts as the tolerance cliff
    description: str = ""
    published: str = ""  # name of a published curve to compare with, or ""
    search: Search | None = field(default=None, metadata=ADDED)  # None: the whole grid


@dataclass(frozen=True, kw_only=True)  # no slots: `trial_id` is kept once it is known
class TrialSpec:
    """One training run, resolved. `trial_id` names it; equal ids promise equal numbers.

    `arm` is a label: it is not part of the id, since it cannot change the number.
    """

    workload: str
    data: str
    data_digest: str  # of the decoded arrays (data/verify.py), so the container is no matter
    arm: str = dataclasses.field(metadata={"label": True})
    techniques: tuple[tuple[str, Options], ...]
    settings: Settings
    batch_size: int
    lr: float  # peak, after scaling
    decay: Decay
    budget: str
    seed: int
    semantics: int = SEMANTICS
    # share of the training set that is held out and takes the place of the test set, which
    # the trial then never meets: its accuracies are of those examples. 0: the test set
    validation: float = dataclasses.field(default=0.0, metadata=ADDED)

    def key(self) -> dict[str, Any]:
        """Everything that may change the number, as plain JSON values."""
        plain: dict[str, Any] = to_plain(self)
        for f in dataclasses.fields(self):
            if f.metadata.get("label"):
                del plain[f.name]
        return plain

    @functools.cached_property
    def trial_id(self) -> str:
        """First 20 hex digits of the SHA-256 of the canonical key."""
        return digest(self.key())[:20]
