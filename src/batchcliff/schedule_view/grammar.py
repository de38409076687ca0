"""Options of the command line as values: `linear:5ep,start=0.1`, or a study file's own table.

`--warmup '{ shape = "linear", duration = "5ep" }'` and `--warmup linear:5ep` are the same.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.schedules.decays import DECAYS, LENGTHS
from batchcliff.schedules.duration import Duration, as_duration, parse_duration
from batchcliff.schedules.scaling import provenance, scale_lr
from batchcliff.spec import Decay
from batchcliff.study.printable import printable
from batchcliff.studyfile.decay import decay_of
from batchcliff.studyfile.document import Document
from batchcliff.studyfile.reading import raise_all, read
from batchcliff.studyfile.schema import DecayTable
from batchcliff.techniques import technique
from batchcliff.techniques.warmup import Warmup

GROWTH = "growth"  # of the batch, where a rate would decay: asked for as the decays are
GROWTH_KEYS = {"at": str, "factor": float, "max_batch_size": int}


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """A batch that is divided by `factor` at each of `at`, up to `max_batch_size`."""

    at: tuple[str, ...]
    factor: float = 0.1
    max_batch_size: int | None = None


def _number_or_text(text: str) -> Any:
    """`0.1` and `5` as numbers, anything else as it is."""
    try:
        return int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        return text


def _table(option: str, text: str) -> dict[str, Any]:
    """`text` as the value of a TOML key."""
    try:
        table = tomllib.loads(f"it = {text}")["it"]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{option} {printable(text)}: {error}") from error
    assert isinstance(table, dict)
    return table


def read_options(option: str, text: str, head: str, rest: str) -> dict[str, Any]:
    """The table that `text` stands for: `HEAD:REST,...,key=value,...`, or one in braces.

    head: key of the word before the colon; rest: key of what has no "=" after it (a list if
    there are several). Without a colon, a first word that begins with a letter is the head.
    Raises UsageError, with `option` in front.
    """
    if text.lstrip().startswith("{"):
        return _table(option, text)
    found: dict[str, Any] = {}
    plain: list[str] = []
    for index, item in enumerate(part.strip() for part in text.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        word, colon, tail = (part.strip() for part in item.partition(":"))
        if equals:
            if key in found or not value:
                raise UsageError(
                    f"{option} {printable(text)}: {printable(item)!r} is not key=value."
                )
            found[key] = _number_or_text(value)
        elif index == 0 and (colon or word[:1].isalpha()):
            found[head] = word
            plain += [tail] if colon else []
        else:
            plain.append(item)
    if plain:
        if rest in found:
            raise UsageError(f"{option} {printable(text)}: {rest} stands twice.")
        found[rest] = plain if len(plain) > 1 else plain[0]
    return found


def read_warmup(text: str) -> Warmup | None:
    """`[SHAPE:]DURATION[,start=S][,stepping=epoch]` as a warmup; None for a length of 0.

    Raises UsageError.
    """
    options = read_options("--warmup", text, "shape", "duration")
    if isinstance(options.get("duration"), list):
        raise UsageError(f"--warmup {printable(text)}: one duration, e.g. linear:5ep.")
    if "duration" in options:
        options["duration"] = str(options["duration"])
    try:
        made = technique("warmup", options)
    except UsageError as error:
        raise UsageError(f"--warmup {printable(text)}: {error}") from error
    assert isinstance(made, Warmup)
    return made if parse_duration(str(made.duration)).value else None


def read_decay(text: str, budget: str | None) -> Decay | Growth:
    """`KIND[:LENGTH,...][,key=value...]`, by the rules of a study file's `decay`.

    Plain numbers are lengths in updates. Raises UsageError.
    """
    options = read_options("--decay", text, "kind", "")
    lengths = options.pop("", None)
    kind = options.get("kind")
    if not isinstance(kind, str) or not kind:
        raise UsageError(f"--decay {printable(text)}: the kind is missing. Write e.g. cosine.")
    if kind not in (known := (*DECAYS, GROWTH)):
        raise UsageError(f"--decay {printable(kind)}: no such kind.{did_you_mean(kind, known)}")
    if kind == GROWTH:
        del options["kind"]
        return _growth(text, options, lengths)
    if lengths is not None:
        takes = [option for option in DECAYS[kind].options if option in LENGTHS]
        if not takes:
            raise UsageError(f"--decay {printable(text)}: {kind} takes no length.")
        if takes[0] in options:
            raise UsageError(f"--decay {printable(text)}: {takes[0]} stands twice.")
        options[takes[0]] = lengths
    for key in options.keys() & set(LENGTHS):
        options[key] = _in_updates(options[key])
    if isinstance(options.get("at"), str):
        options["at"] = [options["at"]]
    document = Document("--decay", {}, options={("decay",): f"--decay {text}"})
    found, problems = read(DecayTable, options, document, ("decay",))
    raise_all(problems, document)
    return decay_of(document, found, Decay(kind=kind), budget)


def _in_updates(length: Any) -> Any:
    """`200` as "200up", which is what a plain number means outside of study files."""
    if isinstance(length, list):
        return [_in_updates(item) for item in length]
    plain = isinstance(length, int) or (isinstance(length, str) and length.isdecimal())
    return f"{length}up" if plain and not isinstance(length, bool) else length


def lengths_of(decay: Decay | Growth) -> list[Duration]:
    """The durations among the options of a decay. Raises UsageError."""
    if isinstance(decay, Growth):
        return [as_duration(length) for length in decay.at]
    lengths = [*decay.at, decay.timescale, decay.duration]
    return [parse_duration(length) for length in lengths if length]


def _growth(text: str, options: dict[str, Any], lengths: Any) -> Growth:
    """The growth of these options, with its milestones under "at"."""
    found = options | ({} if lengths is None else {"at": lengths})
    for key, value in found.items():
        if key not in GROWTH_KEYS:
            hint = did_you_mean(key, GROWTH_KEYS)
            raise UsageError(f"--decay {printable(text)}: unknown option {key!r}.{hint}")
        items = value if isinstance(value, list) else [value]
        fits = all(isinstance(item, GROWTH_KEYS[key]) for item in items)
        if not fits or isinstance(value, bool) or (key != "at" and items is value):
            raise UsageError(
                f"--decay {printable(text)}: {key}. Write e.g. growth:60%,85%,factor=0.2,"
                "max_batch_size=5120."
            )
    at = found.pop("at", ())
    if not at:
        raise UsageError(
            f"--decay {printable(text)}: its milestones are missing: growth:60%,85%"
        )
    return Growth(at=tuple(at) if isinstance(at, list) else (at,), **found)


LR_KEYS = ("base", "base_batch_size", "scaling")


def read_lr(text: str, batch_size: int | None) -> tuple[float, str]:
    """The peak and where it comes from: `0.4`, or `0.1,base_batch_size=256,scaling=linear`.

    Raises UsageError: no number, an unknown key, or a rule without a batch size.
    """
    options = read_options("--lr", text, "base", "base")
    if unknown := sorted(options.keys() - set(LR_KEYS)):
        hint = did_you_mean(unknown[0], LR_KEYS)
        raise UsageError(
            f"--lr {printable(text)}: unknown key {printable(unknown[0])!r}.{hint}"
        )
    base = options.get("base")
    value = _number_or_text(base) if isinstance(base, str) else base
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise UsageError(f"--lr {printable(text)}: write a number above 0, such as 0.4.")
    if "base_batch_size" not in options:
        if "scaling" in options:
            raise UsageError(f"--lr {printable(text)}: base_batch_size is missing.")
        return float(value), ""
    if batch_size is None:
        raise UsageError(f"--lr {printable(text)}: a rule needs the batch size: --batch-size.")
    arguments = (float(value), options["base_batch_size"], batch_size)
    scaling = str(options.get("scaling", "linear"))
    try:
        return scale_lr(*arguments, scaling), provenance(*arguments, scaling)
    except UsageError as error:
        raise UsageError(f"--lr {printable(text)}: {error}") from error
