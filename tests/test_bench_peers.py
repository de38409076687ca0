"""The benchmark's arithmetic: what a floor and a ratio are, and what its JSON says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("bench_peers")


@pytest.fixture(scope="module")
def floor() -> Any:
    return importlib.import_module("floor")


def test_the_work_of_the_articles_network(floor: Any) -> None:
    """1.6 GFLOP and 6.2 MB in bfloat16 an example: 10.0 s and 10.3 s for 5,000,000 of them, at
    796 TFLOP/s and 3.02 TB/s."""
    operations, values = floor.work_of("cuda")
    assert 5e6 * operations / 796e12 == pytest.approx(10.0, abs=0.05)
    assert 5e6 * values * 2 / 3.02e12 == pytest.approx(10.3, abs=0.05)
    assert floor.floor("cuda", (796e12, 3.02e12)) == pytest.approx(5e6 / 10.25, rel=0.005)
    assert floor.floor("cuda", (796e12 / 9, 3.02e12)) == pytest.approx(5e6 / 90.2, rel=0.005)


def test_operations_are_those_that_pytorch_counts(bench: Any, floor: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = bench.torch_net("cpu")
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 8, 8, requires_grad=True)).sum().backward()
    assert floor.work_of("cpu")[0] == counter.get_total_flops()


def test_rows_have_a_peer_where_they_are_one(bench: Any) -> None:
    found = {
        bench.OURS: {32: 300.0, 64: 400.0},
        "one": {32: 100.0, 64: 500.0},
        "other": {32: 200.0, 64: 100.0},
        "absent": {},
    }
    rows = list(bench.rows_of(found, 1000.0, {"device": "cpu"}))
    ours = [row for row in rows if "peer" not in row]
    assert [(r["batch_size"], r["examples_per_second"]) for r in ours] == [(32, 300), (64, 400)]
    assert [r["ratio_to_fastest_peer"] for r in ours] == [1.5, 0.8]
    assert [(r["floor"], r["ratio_to_floor"]) for r in ours] == [(1000, 0.3), (1000, 0.4)]
    assert [r["peer"] for r in rows if "peer" in r] == ["one", "other"] * 2
    (alone,) = bench.rows_of({bench.OURS: {32: 300.0}}, 600.0, {})
    assert alone["ratio_to_fastest_peer"] is None


def test_whole_epochs_are_timed_and_the_first_is_not(bench: Any) -> None:
    clock = [0.0]
    lengths = iter([100.0, 2.0, 2.0, 2.0])

    def epoch() -> int:
        clock[0] += next(lengths)
        return 50

    assert bench.rate_of(epoch, 5.0, lambda: clock[0]) == 150 / 6


@pytest.mark.parametrize("name", ["DataLoader", "compiled PyTorch"])
def test_a_peer_trains_whole_batches(bench: Any, name: str) -> None:
    assert bench.PEERS[name]("cpu", 300)() == 900


def test_a_peer_that_is_not_there_is_said(bench: Any, tmp_path: Path) -> None:
    """And so is a size at which it fails; the others are measured. Ours must not fail."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named keras' >&2\nexit 1\n")
    python.chmod(0o755)
    rates: dict[int, float] = {}
    said = bench.run(bench.KERAS, str(python), "cpu", [512], 0.1, rates.__setitem__)
    assert (said, rates) == ("left out: No module named keras", {})
    python.write_text(
        "#!/bin/sh\necho '\"3.0, jax\"'\n"
        "for size in $(echo $5 | tr , ' '); do\n"
        "  if [ $size = 64 ]; then echo 'out of memory' >&2; exit 1; fi\n"
        "  echo $size.5\ndone\n"
    )
    sizes = [32, 64, 128, 512]
    said = bench.run(bench.KERAS, str(python), "cpu", sizes, 0.1, rates.__setitem__)
    assert said == "3.0, jax; 64 left out: out of memory"
    assert rates == {32: 32.5, 128: 128.5, 512: 512.5}
    with pytest.raises(RuntimeError, match="batchcliff: out of memory"):
        bench.run(bench.OURS, str(python), "cpu", [32, 64], 0.1, rates.__setitem__)


def test_what_is_measured_is_told_before_the_next_has_ended(bench: Any, tmp_path: Path) -> None:
    """A process that hangs at its second size: the first has been told by then."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '\"3.0\"'\necho 32.5\nexec sleep 1000\n")
    python.chmod(0o755)

    class Told(Exception):
        pass

    def measured(size: int, rate: float) -> None:
        raise Told(size, rate)

    with pytest.raises(Told, match=r"32, 32\.5"):
        bench.run(bench.KERAS, str(python), "cpu", [32, 64], 0.1, measured)
