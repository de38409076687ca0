"""How an arm of a study file writes each technique: what messages and the README show."""

from __future__ import annotations

EXAMPLES: dict[str, str] = {
    "warmup": '{ shape = "linear", duration = "5ep" }',
    "batch-growth": '{ at = ["60%", "85%"], factor = 5 }',
    "batch-warmup": '{ duration = "10%", start = 32 }',
    "longer-training": "{ reference_batch_size = 128 }",
    "ghost-batch-norm": "{ group = 32 }",
    "reestimated-batch-norm": "{}",
    "zero-gamma": "{}",
    "precision": '{ format = "bf16" }',
    "label-smoothing": "{ smoothing = 0.1 }",
    "mixup": "{ alpha = 0.2 }",
    "cutout": "{ size = 8 }",
    "random-erasing": "{ probability = 0.5 }",
    "lars": '{ exclude = "norms-and-biases" }',
    "larc": '{ exclude = "norms-and-biases" }',
    "lamb": '{ exclude = "norms-and-biases" }',
    "radam": "{}",
    "gi-adam": "{}",
    "nesterov": "{}",
    "momentum-correction": "{}",
    "gradient-clipping": "{ max_norm = 1.0 }",
    "weight-decay": "{ weight_decay = 5e-4 }",
    "no-decay": "{}",
}


def written(name: str) -> str:
    """The line of an arm, such as `warmup = { shape = "linear", duration = "5ep" }`."""
    return f"{name} = {EXAMPLES[name]}"
