"""Study files that must be refused, and what the message has to say: one table.

Every case is a good file with one thing replaced by a bad one.
"""

from __future__ import annotations

GOOD = """\
name = "mine"
workload = "article"
batch_sizes = [128, 256]
seeds = 2
budget = "10ep"
reference_arm = "none"
lr = { base = 0.1, base_batch_size = 128, scaling = "linear" }
decay = { kind = "multistep", at = ["60%", "85%"], factor = 0.1 }

[settings]
loss = "logits"

[settings.batch_norm]
momentum = 0.9
group = "B/8"

[settings.optimizer]
form = "keras"

[arms.none]

[arms.warmup]
warmup = { shape = "linear", duration = "2ep" }
"""

LR, DECAY = GOOD.split("\n")[6], GOOD.split("\n")[7]
WARMUP = 'warmup = { shape = "linear", duration = "2ep" }'


# What is replaced by what (§ marks the line that is to blame); key and value, and the hint.

BAD: dict[str, tuple[str, str, str, str]] = {
    # unknown keys, with the nearest
    "top-level typo": ("seeds = 2", "§seed = 2", "seed = 2", "Did you mean 'seeds'?"),
    "budget typo": ('budget = "10ep"', '§bugdet = "10ep"', "bugdet", "Did you mean 'budget'?"),
    "lr typo": (LR, "§lr = { bas = 0.1 }", "lr.bas = 0.1", "Did you mean 'base'?"),
    "decay typo": (DECAY, "§decay = { kinds = 1 }", "decay.kinds = 1", "Did you mean 'kind'?"),
    "settings typo": ('loss = "logits"', '§los = "logits"', "settings.los", "mean 'loss'?"),
    "norm typo": ("momentum = 0.9", "§momentom = 0.9", "batch_norm.momentom", "'momentum'?"),
    "optimizer typo": ('form = "keras"', '§from = "keras"', "optimizer.from", "mean 'form'?"),
    "table typo": ("[settings]\n", "§[setings]\n", "setings", "Did you mean 'settings'?"),
    "arms typo": ("[arms.none]", "§[arm.none]", "arm = ", "Did you mean 'arms'?"),
    "technique typo": (WARMUP, '§warmpu = { duration = "2ep" }', "arms.warmup.warmpu",
        "'warmup'?"),
    "setting typo in arm": ("[arms.none]", '[arms.none]\n§agmentation = "none"',
        "arms.none.agm",
                            "Did you mean 'augmentation'?"),
    "deep typo in arm": ("[arms.none]", "[arms.none]\n§batch_norm = { grup = 32 }",
                         "arms.none.batch_norm.grup = 32", "Did you mean 'group'?"),
    "option typo": (WARMUP, '§warmup = { duraton = "2ep" }', "warmup.duraton", "'duration'?"),
    "settings in arm": ("[arms.none]", '[arms.none]\n§settings = { loss = "x" }',
                        "arms.none.settings", "stand directly in it"),
    # unknown values, with the nearest
    "workload": ('"article"', '§"artcle"', 'workload = "artcle"', "Did you mean 'article'?"),
    "workload is code": ('"article"', '§"my_module:make"', "workload",
        "--workload my_module:make"),
    "data": ("seeds = 2", 'seeds = 2\n§data = "cifar"', 'data = "cifar"', "mean 'cifar10'?"),
    "published": ("seeds = 2", 'seeds = 2\n§published = "artikle"', "published", "'article'?"),
    "scaling": (LR, '§lr = { scaling = "liner" }', 'lr.scaling = "liner"', "mean 'linear'?"),
    "scaling for Adam": (LR, '§lr = { scaling = "malladi" }', "lr.scaling", 'Write "sqrt"'),
    "decay kind": (DECAY, '§decay = { kind = "step" }', "decay.kind", "mean 'multistep'?"),
    "loss": ('"logits"', '§"logit"', 'settings.loss = "logit"', "Did you mean 'logits'?"),
    "form": ('form = "keras"', '§form = "Keras"', "settings.optimizer.form", "mean 'keras'?"),
    "optimizer": ('form = "keras"', '§name = "sdg"', "settings.optimizer.name", "mean 'sgd'?"),
    "augmentation": ('loss = "logits"', '§augmentation = "crop"', "augmentation", "as-written"),
    "remainder": ('loss = "logits"', '§remainder = "keep"', "settings.remainder",
        "carry, drop"),
    "init": ('loss = "logits"', '§model = { init = "he" }', "settings.model.init", "glorot"),
    "model": ('loss = "logits"', '§model = { name = "conv-nett" }', "settings.model.name",
        "Did you mean 'conv-net'?"),
    "running": ("momentum = 0.9", '§running = "means"', "batch_norm.running", "mean 'mean'?"),
    "group word": ('"B/8"', '§"B/x"', 'batch_norm.group = "B/x"', 'Write e.g. "global"'),
    "group zero": ('"B/8"', '§"B/0"', 'batch_norm.group = "B/0"', "ghost size >= 2"),
    "group of one": ('"B/8"', "§1", "batch_norm.group = 1", "ghost size >= 2"),
    "per-group global": ('group = "B/8"', '§group = "global"', "settings.batch_norm",
                         'Write running = "mean" too'),
    "warmup shape": (WARMUP, '§warmup = { shape = "liner", duration = "2ep" }',
                     'warmup.shape = "liner"', "Did you mean 'linear'?"),
    "reference": ('arm = "none"', '§arm = "nonne"', "reference_arm", "Did you mean 'none'?"),
    # wrong types
    "lr as text": (LR, '§lr = { base = "1e-3" }', 'lr.base = "1e-3"',
        "1e-3, without the quotes"),
    "lr as bool": (LR, "§lr = { base = true }", "lr.base = true", "a number is needed"),
    "lr no table": (LR, "§lr = 0.1", "lr = 0.1", "a table is needed"),
    "size as text": (LR, '§lr = { base_batch_size = "128" }', "lr.base_batch_size",
        "without the"),
    "size as float": (LR, "§lr = { base_batch_size = 128.5 }", "128.5",
        "whole number is needed"),
    "seeds as text": ("seeds = 2", '§seeds = "2"', 'seeds = "2"', "Write e.g. 3"),
    "seeds as bool": ("seeds = 2", "§seeds = true", "seeds = true", "Write e.g. 3"),
    "seeds as float": ("seeds = 2", "§seeds = 2.0", "seeds = 2.0", "Write e.g. 3"),
    "name as number": ('name = "mine"', "§name = 7", "name = 7", "a text is needed"),
    "budget as number": ('"10ep"', "§10", "budget = 10", 'Write e.g. "100ep"'),
    "batch sizes as number": ("[128, 256]", "§128", "batch_sizes = 128", '"128..8192:x2"'),
    "batch size as text": ("[128, 256]", '§[128, "256"]', "batch_sizes",
        '"256" is not a whole'),
    "batch size as bool": ("[128, 256]", "§[true]", "batch_sizes", "true is not a whole"),
    "at as text": (DECAY, '§decay = { at = "60%" }', "decay.at", "a list is needed"),
    "at of numbers": (DECAY, "§decay = { at = [60, 85] }", "decay.at[0] = 60",
        "a text is needed"),
    "widths flat": ('loss = "logits"', "§model = { widths = [8, 8] }", "widths[0]", "[[64, 64"),
    "nesterov": ('form = "keras"', '§nesterov = "yes"', "nesterov", "true or false is needed"),
    "evaluate_every": ('loss = "logits"', "§evaluate_every = 1.5", "evaluate_every", "whole"),
    "arm no table": ("[arms.none]", "[arms]\n§none = 1", "arms.none = 1", "a table is needed"),
    "technique no table": (WARMUP, '§warmup = "5ep"', "arms.warmup.warmup", "table of options"),
    "duration as number": (WARMUP, "§warmup = { duration = 5 }", "duration = 5", '"5ep"'),
    "start as text": (WARMUP, '§warmup = { duration = "2ep", start = "0.1" }', "start", "0.1"),
    "no duration": (WARMUP, '§warmup = { shape = "linear" }', "arms.warmup.warmup", "duration"),
    "table as list": ("[settings.optimizer]", "§[[settings.optimizer]]", "settings.optimizer",
                      "a table is needed"),
    # numbers that are none, or out of range
    "lr NaN": (LR, "§lr = { base = nan }", "lr.base = nan", "finite number above 0"),
    "lr infinite": (LR, "§lr = { base = inf }", "lr.base = inf", "finite number above 0"),
    "lr zero": (LR, "§lr = { base = 0 }", "lr.base = 0", "finite number above 0"),
    "lr negative": (LR, "§lr = { base = -0.1 }", "lr.base = -0.1", "finite number above 0"),
    "base size zero": (LR, "§lr = { base_batch_size = 0 }", "base_batch_size = 0",
        "number >= 1"),
    "momentum one": ("momentum = 0.9", "§momentum = 1.0", "momentum = 1.0",
        "from 0 to below 1"),
    "momentum NaN": ("momentum = 0.9", "§momentum = nan", "momentum = nan",
        "from 0 to below 1"),
    "eps zero": ("momentum = 0.9", "§eps = 0.0", "batch_norm.eps = 0.0", "above 0"),
    "decay factor": (DECAY, "§decay = { factor = 10 }", "decay.factor = 10", "between 0 and 1"),
    "weight decay": ('form = "keras"', "§weight_decay = -1e-4", "weight_decay", "number >= 0"),
    "start NaN": (WARMUP, '§warmup = { duration = "2ep", start = nan }', "start = nan",
        "finite"),
    "start negative": (WARMUP, '§warmup = { duration = "2ep", start = -1 }', "warmup", "start"),
    "width zero": ('loss = "logits"', "§model = { widths = [[8, 0]] }", "widths",
        "counts >= 1"),
    "no widths": ('loss = "logits"', "§model = { widths = [] }", "widths", "counts >= 1"),
    "nesterov alone": ('form = "keras"', "form = 'keras'\n§nesterov = true\nmomentum = 0",
                       "settings.optimizer", "changes nothing"),
    # grids
    "batch size zero": ("[128, 256]", "§[0, 256]", "batch_sizes = [0, 256]",
        "0 is not a whole"),
    "batch size negative": ("[128, 256]", "§[-1]", "batch_sizes = [-1]", "whole number >= 1"),
    "no batch sizes": ("[128, 256]", "§[]", "batch_sizes = []", "at least one"),
    "batch size twice": ("[128, 256]", "§[128, 128]", "batch_sizes", "128 stands twice"),
    "range past its end": ("[128, 256]", '§"128..300:x2"', "batch_sizes", "256 or 512"),
    "range backwards": ("[128, 256]", '§"256..128:x2"', "batch_sizes", "no values"),
    "range of x1": ("[128, 256]", '§"128..256:x1"', "batch_sizes", "no values"),
    "range too long": ("[128, 256]", '§"1..999999:+1"', "batch_sizes", "more than 1000"),
    "range malformed": ("[128, 256]", '§"128-256"', "batch_sizes", '"128..8192:x2"'),
    "no seeds": ("seeds = 2", "§seeds = 0", "seeds = 0", "from 1 to"),
    "empty seeds": ("seeds = 2", "§seeds = []", "seeds = []", "at least one"),
    "seed twice": ("seeds = 2", "§seeds = [3, 3]", "seeds = [3, 3]", "3 stands twice"),
    "seed negative": ("seeds = 2", "§seeds = [-1]", "seeds = [-1]", "whole number >= 0"),
    "seed huge": ("seeds = 2", f"§seeds = [{1 << 63}]", "seeds", "whole number >= 0"),
    "too many seeds": ("seeds = 2", "§seeds = 10001", "seeds = 10001", "from 1 to 10000"),
    # durations
    "budget share": ('"10ep"', '§"50%"', 'budget = "50%"', 'Write e.g. "100ep"'),
    "budget nothing": ('"10ep"', '§"0ep"', 'budget = "0ep"', "trains nothing"),
    "budget no unit": ('"10ep"', '§"0.5"', 'budget = "0.5"', "no unit"),
    "budget bare": ('"10ep"', '§"10"', 'budget = "10"', "Write '10ep' (epochs) or '10up'"),
    "warmup bare": (WARMUP, '§warmup = { duration = "6" }', "duration = ", "'6ep' (ep"),
    "budget other unit": ('"10ep"', '§"10epochs"', "budget", "Write '10ep'"),
    "budget words": ('"10ep"', '§"long"', 'budget = "long"', "not understood"),
    "decay no points": (DECAY, "§decay = { at = [] }", "decay.at = []", 'kind = "constant"'),
    "decay descending": (DECAY, '§decay = { at = ["85%", "60%"] }', "decay.at", "ascending"),
    "decay twice": (DECAY, '§decay = { at = ["60%", "6ep"] }', "decay.at", "ascending"),
    "decay past the end": (DECAY, '§decay = { at = ["11ep"] }', "decay.at",
        "inside of the run"),
    "decay at the end": (DECAY, '§decay = { at = ["100%"] }', "decay.at", "inside of the run"),
    "decay share of 120": (DECAY, '§decay = { at = ["120%"] }', "decay.at[0]", "longer than"),
    "constant with points": (DECAY, '§decay = { kind = "constant", at = ["5ep"] }', "decay.at",
                             "Leave the key out"),
    "staircase of a share": (WARMUP, '§warmup = { duration = "5%", stepping = "epoch" }',
                             "arms.warmup.warmup", "whole number"),
    # missing
    "no name": ('name = "mine"\n', "§", "name: missing key", 'name = "my-study"'),
    "no workload": ('workload = "article"\n', "", "workload: missing key",
        'workload = "article"'),
    "no batch sizes key": ("batch_sizes = [128, 256]\n", "", "batch_sizes: missing",
        "128..8192:x2"),
    "no seeds key": ("seeds = 2\n", "", "seeds: missing key", "seeds = 3"),
    "no arms": (GOOD[GOOD.index("[arms.none]"):], "", "arms: missing key", "arms = { none"),
    "empty arms": (GOOD[GOOD.index("[arms.none]"):], "§[arms]", "arms: no arm", "[arms.none]"),
    "no reference": ('reference_arm = "none"\n', "", "reference_arm: missing key", '"alone"'),
    # names and texts
    "name with a slash": ('"mine"', '§"a/b"', 'name = "a/b"', "letters, digits"),
    "name of dots": ('"mine"', '§".."', 'name = ".."', "begin with a letter"),
    "name like an option": ('"mine"', '§"-rf"', 'name = "-rf"', "begin with a letter"),
    "name empty": ('"mine"', '§""', 'name = ""', "begin with a letter"),
    "name long": ('"mine"', f'§"{"a" * 101}"', "name = ", "up to 100"),
    "name Japanese": ('"mine"', '§"学習率"', "学習率", "letters, digits"),
    "escape in a name": ('"mine"', '§"a\\u001b[31m"', "name", "letters, digits"),
    "escape in a text": ("seeds = 2", 'seeds = 2\n§description = "a\\u001b]0;x\\u0007"',
                         "description", "U+001B"),
    "overrides of direction": ("[arms.none]", '§[arms."a\\u202eb"]', "arms", "U+202E"),
    "arm without a name": ("[arms.none]", '§[arms.""]', "arms", "is empty"),
    # the same trials twice
    "arm twice": ("[arms.none]", "[arms.none]\n§[arms.nothing]", "arms.nothing", "arm 'none'"),
    "arm twice, spelled out": (
        "[arms.none]", '[arms.none]\n[arms.b]\n§warmup = { duration = "2.0ep" }',
        "arms.warmup", "same trials as arm 'b'"),
    # techniques, optimizers and schedules, each with the nearest name
    "precision of eight bits": ('loss = "logits"', '§precision = "fp8"', "settings.precision",
                                "Did you mean"),
    "tolerance of nothing": ("seeds = 2", "seeds = 2\n§tolerance = 0", "tolerance = 0",
                             "above 0 and below 1"),
    "tolerance in percent": ("seeds = 2", "seeds = 2\n§tolerance = 2", "tolerance = 2",
                             "above 0 and below 1"),
    "tolerance as text": ("seeds = 2", 'seeds = 2\n§tolerance = "0.02"', "tolerance",
                          "0.02, without the quotes"),
    "description as list": ("seeds = 2", 'seeds = 2\n§description = ["a"]', "description",
                            "a text is needed"),
    "description long": ("seeds = 2", f'seeds = 2\n§description = "{"x" * 10_001}"',
                         "description", "longer than 10000"),
    "data as number": ("seeds = 2", "seeds = 2\n§data = 10", "data = 10", "a text is needed"),
    "workload as list": ('"article"', '§["article"]', "workload", "a text is needed"),
    "workload empty": ('"article"', '§""', 'workload = ""', "unknown workload"),
    "published as bool": ("seeds = 2", "seeds = 2\n§published = true", "published = true",
                          "a text is needed"),
    "reference as number": ('reference_arm = "none"', "§reference_arm = 1",
                            "reference_arm = 1", "a text is needed"),
    "settings as text": (GOOD[GOOD.index("[settings]"):GOOD.index("[arms.none]")],
                         '§settings = "fast"\n', "settings", "a table is needed"),
    "decay as list": (DECAY, '§decay = ["60%"]', "decay = [", "a table is needed"),
    "decay factor NaN": (DECAY, "§decay = { factor = nan }", "decay.factor = nan",
                         "between 0 and 1"),
    "decay factor as text": (DECAY, '§decay = { factor = "0.1" }', "decay.factor",
                             "0.1, without the quotes"),
    "decay with a negative point": (DECAY, '§decay = { at = ["-5ep"] }', "decay.at[0]", "-5ep"),
    "decay of nonsense": (DECAY, '§decay = { at = ["later"] }', "decay.at[0]",
                          "not understood"),
    "budget negative": ('"10ep"', '§"-1ep"', 'budget = "-1ep"', "Write e.g."),
    "budget empty": ('"10ep"', '§""', 'budget = ""', "Write e.g."),
    "budget as table": ('"10ep"', "§{ epochs = 10 }", "budget", "a text is needed"),
    "batch sizes as table": ("[128, 256]", "§{ from = 1 }", "batch_sizes", "neither a range"),
    "batch size float": ("[128, 256]", "§[128.0]", "batch_sizes", "128.0 is not a whole"),
    "batch size NaN": ("[128, 256]", "§[nan]", "batch_sizes", "nan is not a whole"),
    "batch size nested": ("[128, 256]", "§[[128]]", "batch_sizes", "[128] is not a whole"),
    "range of minus": ("[128, 256]", '§"256..128:-2"', "batch_sizes", '"128..8192:x2"'),
    "range from zero": ("[128, 256]", '§"0..128:x2"', "batch_sizes", "no values"),
    "too many batch sizes": ("[128, 256]", f"§{list(range(1, 1002))}", "batch_sizes",
                             "more than 1000"),
    "seeds as table": ("seeds = 2", "§seeds = { n = 2 }", "seeds", "Write e.g. 3"),
    "seeds of texts": ("seeds = 2", '§seeds = ["0"]', "seeds", '"0" is not a whole'),
    "seeds NaN": ("seeds = 2", "§seeds = nan", "seeds = nan", "Write e.g. 3"),
    "momentum negative": ("momentum = 0.9", "§momentum = -0.1", "momentum = -0.1",
                          "from 0 to below 1"),
    "momentum as text": ("momentum = 0.9", '§momentum = "0.9"', "momentum",
                         "0.9, without the quotes"),
    "eps infinite": ("momentum = 0.9", "§eps = inf", "batch_norm.eps = inf", "above 0"),
    "group as float": ('"B/8"', "§8.0", "batch_norm.group = 8.0", 'Write e.g. "global"'),
    "group as list": ('"B/8"', "§[8]", "batch_norm.group = [8]", 'Write e.g. "global"'),
    "evaluate never": ('loss = "logits"', "§evaluate_every = -1", "evaluate_every = -1",
                       "whole number >= 0"),
    "width as float": ('loss = "logits"', "§model = { widths = [[8.5]] }", "widths[0][0]",
                       "whole number is needed"),
    "arms as list": (GOOD[GOOD.index("[arms.none]"):], "§[[arms]]", "arms", "a table"),
    "arm with a long name": ("[arms.none]", f"§[arms.{'x' * 81}]", "arms", "longer than 80"),
    "technique as list": (WARMUP, '§warmup = [{ duration = "2ep" }]', "arms.warmup.warmup",
                          "table of options"),
    "warmup of a negative length": (WARMUP, '§warmup = { duration = "-2ep" }', "duration",
                                    "-2ep"),
    "warmup of nonsense": (WARMUP, '§warmup = { duration = "soon" }', "duration",
                           "not understood"),
    "stepping": (WARMUP, '§warmup = { duration = "2ep", stepping = "epok" }', "stepping",
                 "Did you mean 'epoch'?"),
    "start above one": (WARMUP, '§warmup = { duration = "2ep", start = 1.5 }', "warmup",
                        "start"),
    "two typos far apart": (WARMUP, '§warmup = { duration = "2ep", shap = "linear" }',
                            "warmup.shap", "Did you mean 'shape'?"),
}  # fmt: skip


# --- TOML itself: file, line and column

SYNTAX = {
    "yaml": ("seeds = 2", "seeds: 2", 4, "`key = value`"),
    "python bool": ('form = "keras"', "nesterov = True", 18, "true or false, not True"),
    "on": ('form = "keras"', "nesterov = on", 18, "true or false, not on"),
    "none": ("seeds = 2", "seeds = None", 4, "leave the key out"),
    "octal": ("seeds = 2", "seeds = 010", 4, "Write 10, without leading zeros"),
    "bare text": ('"10ep"', "10ep", 5, 'budget = "10ep"'),
    "bare word": ('"article"', "article", 2, 'workload = "article"'),
    "duplicate key": ("seeds = 2", "seeds = 2\nseeds = 3", 5, "may stand once"),
    "duplicate table": ("[arms.none]", "[arms.none]\n[arms.none]", 21, "may stand once"),
    "open string": ('"10ep"', '"10ep', 5, ""),
    "open list": ("[128, 256]", "[128, 256", 4, ""),
    "control character": ('"10ep"', '"10\x01ep"', 5, ""),
}
