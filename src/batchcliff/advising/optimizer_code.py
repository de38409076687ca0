"""A trial's update rule as Python: `make_optimizer(model)`, for PyTorch and what builds on it.

PyTorch has no LARS, LARC and LAMB: those come from batchcliff. Keras' form of SGD is written
out, since torch's moves at once when the rate changes and keras' does not.
"""

from __future__ import annotations

from batchcliff.advising.settings import TrainingSettings, sgd_form

KERAS_SGD = '''
class KerasSGD(torch.optim.Optimizer):
    """SGD with the rate inside of the velocity: v = momentum v - lr g; w = w + v."""

    def __init__(self, params, lr, momentum, weight_decay=0.0, nesterov=False):
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                step = (w.grad + group["weight_decay"] * w) * group["lr"]
                state = self.state[w]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(w)
                velocity = state["velocity"].mul_(group["momentum"]).sub_(step)
                if group["nesterov"]:
                    w.add_(velocity, alpha=group["momentum"]).sub_(step)
                else:
                    w.add_(velocity)
        return loss
'''.strip().splitlines()

_LAYERWISE = {"lars": "Lars", "larc": "Larc", "lamb": "Lamb"}
_TORCH = {"adam": "Adam", "gi-adam": "Adam", "adamw": "AdamW", "radam": "RAdam"}


def optimizer_lines(settings: TrainingSettings) -> tuple[list[str], list[str]]:
    """(lines of imports, the definitions); needs `import torch` and LEARNING_RATE."""
    rule = settings.optimizer
    imports: list[str] = []
    before: list[str] = []
    form = sgd_form(settings)
    options = {"lr": "LEARNING_RATE"}
    if rule.name in _LAYERWISE:
        name = _LAYERWISE[rule.name]
        imports = [f"from batchcliff import {name}  # pip install batchcliff; torch has none"]
        options["exclude"] = repr(rule.exclude)
        options["weight_decay"] = repr(rule.weight_decay)
        options["eps"] = repr(rule.eps)
        if rule.name == "lamb":
            options["betas"] = repr(rule.betas)
        else:
            options["momentum"] = repr(rule.momentum)
            options["nesterov"] = repr(rule.nesterov)
            options["trust"] = repr(rule.trust)
            options["denominator"] = repr(rule.denominator)
            options["form"] = repr(form)
    elif rule.name == "sgd":
        name = "KerasSGD" if form == "keras" else "torch.optim.SGD"
        before = KERAS_SGD if form == "keras" else []
        options["momentum"] = repr(rule.momentum)
        options["weight_decay"] = repr(rule.weight_decay)
        options["nesterov"] = repr(rule.nesterov)
    else:
        name = f"torch.optim.{_TORCH[rule.name]}"
        options["betas"] = repr(rule.betas)
        options["eps"] = repr(rule.eps)
        options["weight_decay"] = repr(rule.weight_decay)
    groups = rule.name not in _LAYERWISE and rule.exclude != "nothing" and rule.weight_decay > 0
    parameters = ["parameters = [p for p in model.parameters() if p.requires_grad]"]
    if groups:
        parameters += [
            "groups = [",
            '    {"params": [p for p in parameters if p.ndim > 1]},',
            "    # scales, shifts and biases have no weight decay",
            '    {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},',
            "]",
        ]
    arguments = ", ".join(f"{key}={value}" for key, value in options.items())
    function = [
        "def make_optimizer(model):",
        *(f"    {line}" for line in parameters),
        f"    return {name}({'groups' if groups else 'parameters'}, {arguments})",
    ]
    return imports, [*before, *(["", ""] if before else []), *function]
