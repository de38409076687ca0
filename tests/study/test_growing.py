"""A study that grows: only by addition, only when told to, with any number of drivers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import fake_peer
import fake_worker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_runs import Told, accounted, driver, fake_command, run, study_of, table

from batchcliff import api
from batchcliff.canonical import to_plain
from batchcliff.errors import UsageError
from batchcliff.spec import Arm, Decay, StudySpec
from batchcliff.study import supervisor
from batchcliff.study.engines.local import Worker
from batchcliff.study.grid import trials
from batchcliff.study.identity import only_adds
from batchcliff.study.store import Planned, Store

SLOW = Arm(name="slow", settings=(("optimizer.momentum", 0.5),))
BASE = study_of(seeds=2)
TEXTS = {"description": "more", "published": "goyal", "reference_arm": "slow", "tolerance": 0.5}


def plain_files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "command", fake_worker.COMMAND)


# --- what is an addition

ARMS = (Arm(name="none"), SLOW, Arm(name="slow"), Arm(name="other"))
STUDIES = st.builds(
    lambda seeds, sizes, arms, base, name, text: dataclasses.replace(
        study_of(tuple(seeds), tuple(sizes), tuple(arms), base), name=name, description=text
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([8, 16, 32]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(ARMS), min_size=1, max_size=3, unique_by=lambda arm: arm.name),
    st.sampled_from([0.1, 0.1, 0.1, 0.2]),
    st.sampled_from(["a", "a", "a", "b"]),
    st.sampled_from(["", "text"]),
)


@given(old=STUDIES, new=STUDIES)
def test_law_an_addition_keeps_every_trial(old: StudySpec, new: StudySpec) -> None:
    cells = [{Planned.of(spec) for spec in trials(study, "d" * 64)} for study in (old, new)]
    adds = only_adds(to_plain(old), to_plain(new))
    assert adds == (cells[0] <= cells[1] and old.name == new.name)
    assert only_adds(to_plain(old), to_plain(old))


CHANGES: dict[str, Any] = {
    "name": "other",
    "workload": "other",
    "batch_sizes": (8, 32),
    "seeds": (0,),
    "budget": "3ep",
    "lr": dataclasses.replace(BASE.lr, scaling="sqrt"),
    "decay": Decay(kind="multistep", at=("50%",)),
    "arms": (Arm(name="none", settings=(("loss", "clipped-softmax"),)), SLOW),
    "settings": dataclasses.replace(BASE.settings, precision="tf32"),
    "data": "digits",
}


def test_every_field_of_a_study_is_an_addition_or_refused(tmp_path: Path) -> None:
    """A field that is new in StudySpec must be entered here, on one of the two sides."""
    elsewhere = {"search"}  # an addition: test_adaptive.py
    fields = {f.name for f in dataclasses.fields(StudySpec)}
    assert CHANGES.keys() | TEXTS.keys() | elsewhere == fields
    assert run(BASE, tmp_path / "s").exit_code == 0
    before = plain_files(tmp_path / "s")
    for name, value in CHANGES.items():
        changed = dataclasses.replace(BASE, **{name: value})
        assert not only_adds(to_plain(BASE), to_plain(changed))
        with pytest.raises(UsageError, match=rf"\n  study\.{name}.* in the study") as refused:
            run(changed, tmp_path / "s", extend=True, accept_code_change=True)
        assert "Put the values back" in str(refused.value)
        assert "run with --extend" not in str(refused.value)
        assert plain_files(tmp_path / "s") == before


# --- what an addition does


@pytest.mark.parametrize(
    ("grown", "planned"),
    [
        (study_of(seeds=5), 10),
        (study_of(seeds=2, batch_sizes=(4, 8, 16)), 6),
        (study_of(seeds=2, arms=(Arm(name="none"), SLOW)), 8),
        (study_of(seeds=3, batch_sizes=(4, 8, 16), arms=(SLOW, Arm(name="none"))), 18),
        (dataclasses.replace(BASE, **TEXTS), 4),
    ],
    ids=["seeds", "batch sizes", "arms", "all", "texts"],
)
def test_what_exists_is_not_run_again(
    tmp_path: Path, grown: StudySpec, planned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    run(BASE, folder)
    before = plain_files(folder)
    with pytest.raises(UsageError, match=r"\nTo go on in this folder, run with --extend \("):
        run(grown, folder)
    assert plain_files(folder) == before
    told = Told()
    assert run(grown, folder, told, extend=True).exit_code == 0
    assert told.events[0][:3] == ("started", planned, 4)
    assert len(told.of("finished")) == planned - 4
    assert before.items() - plain_files(folder).items() <= {
        (name, data) for name, data in before.items() if "/results/" not in name
    }
    assert accounted(folder, planned) == {"ok": planned}
    assert sorted(p.name for p in (folder / "plan").iterdir()) == ["0001.json", "0002.json"]
    with Store.open(folder) as store:
        assert store.study == grown
    assert run(grown, folder, extend=True).exit_code == 0  # the same command again adds nothing
    assert run(grown, folder).exit_code == 0
    assert len(list((folder / "plan").iterdir())) == 2
    fresh = tmp_path / "fresh"
    run(grown, fresh)
    assert table(fresh) == table(folder)
    status = api.status(folder)
    assert (status.planned, status.counts["ok"]) == (planned, planned)
    assert {cell.arm for cell in status.cells} == {arm.name for arm in grown.arms}
    assert len(api.export(folder).splitlines()) == 1 + planned
    asked: list[Any] = []

    def write_report(*arguments: Any, **_: Any) -> Any:
        asked.extend(arguments)
        raise UsageError("enough")

    monkeypatch.setattr("batchcliff.report.write_report", write_report)
    with pytest.raises(UsageError, match="enough"):
        api.report(folder)
    study, records, cells = asked[:3]
    assert (study, len(records), len(cells)) == (grown, planned, planned)


def test_the_first_study_of_a_folder_may_come_with_extend(tmp_path: Path) -> None:
    assert run(BASE, tmp_path / "s", extend=True).exit_code == 0
    assert run(BASE, tmp_path / "s").exit_code == 0
    assert len(list((tmp_path / "s" / "plan").iterdir())) == 1


def test_other_code_needs_its_own_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, grown = tmp_path / "s", study_of(seeds=3)
    run(BASE, folder)
    before = plain_files(folder)
    monkeypatch.setattr(supervisor, "code_name", lambda: "batchcliff of tomorrow")
    both = {"extend": True, "accept_code_change": True}
    for name, other in itertools.permutations(both):
        flag = "--" + other.replace("_", "-")
        with pytest.raises(UsageError, match=rf"run with {flag} \(.*\)\. Otherwise") as refused:
            run(grown, folder, **{name: True})
        assert "code: 'batchcliff " in str(refused.value), "the whole difference is shown"
        assert "study.seeds: [0, 1] in the study" in str(refused.value)
    with pytest.raises(UsageError, match=r"--extend \(.*\) and --accept-code-change \("):
        run(grown, folder)
    assert plain_files(folder) == before
    assert run(grown, folder, **both).exit_code == 0
    assert run(grown, folder).exit_code == 0


def test_data_that_changed_are_never_an_addition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(BASE, tmp_path / "s")
    before = plain_files(tmp_path / "s")
    monkeypatch.setenv("DATA_SALT", "other")
    with pytest.raises(UsageError, match=r"data\.digest: .* in the study"):
        run(study_of(seeds=3), tmp_path / "s", extend=True)
    assert plain_files(tmp_path / "s") == before


def test_a_changed_workload_is_no_addition(tmp_path: Path) -> None:
    """Its source is in the ids of the trials only, where the study's fields cannot show it."""
    text = Path(fake_worker.__file__).with_name("faulty.py").read_text()
    (tmp_path / "grows.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        run(BASE, tmp_path / "s", workload_reference="grows:workload")
        before = plain_files(tmp_path / "s")
        (tmp_path / "grows.py").write_text(text + "# changed\n")
        del sys.modules["grows"]
        with pytest.raises(UsageError, match="4 planned trials that the new plan lacks") as no:
            run(
                study_of(seeds=3),
                tmp_path / "s",
                workload_reference="grows:workload",
                extend=True,
            )
    assert "study.seeds: [0, 1] in the study, [0, 1, 2] now" in str(no.value)
    assert plain_files(tmp_path / "s") == before


# --- the store by itself


def test_a_plan_takes_no_study_that_is_another(tmp_path: Path) -> None:
    cells = [Planned.of(spec) for spec in fake_peer.specs_of(fake_peer.study_of(3))]
    with fake_peer.start(tmp_path / "s", 3) as store:
        before = plain_files(tmp_path / "s")
        for study in (fake_peer.study_of(3, 0.2), fake_peer.study_of(2)):
            with pytest.raises(UsageError, match=r"another study .*:\n  study\.(lr|seeds)"):
                store.extend(cells, study)
        assert plain_files(tmp_path / "s") == before


def test_who_grows_a_study_apart_is_refused(tmp_path: Path) -> None:
    """Two that start from the same study: the second to write would drop the first's."""
    folder, small = tmp_path / "s", fake_peer.study_of(2)
    fake_peer.start(folder, 2).close()
    wider = dataclasses.replace(small, batch_sizes=(128, 256))
    longer = fake_peer.study_of(4)
    with contextlib.ExitStack() as stack:
        one, two, still = (
            stack.enter_context(
                Store.create(folder, study, fake_peer.DATA, fake_peer.CODE, extend=True)
            )
            for study in (wider, longer, small)
        )
        assert one.extend(map(Planned.of, fake_peer.specs_of(wider)), wider) == 2
        before = plain_files(folder)
        for late, study in ((two, longer), (still, small)):
            with pytest.raises(UsageError, match="2 planned trials that the new plan") as no:
                late.extend(map(Planned.of, fake_peer.specs_of(study)), study)
            changed = re.escape("study.batch_sizes: [128, 256] in the study, [128] now")
            assert re.search(changed, str(no.value))
        assert plain_files(folder) == before


# --- drivers


def test_drivers_grow_a_study_that_another_runs(tmp_path: Path) -> None:
    """The small study's driver ends with its own; those of the grown one share the rest."""
    folder = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        slow = {"PAUSE": "0.05"}
        small = stack.enter_context(
            driver(fake_command(folder, seeds=3), tmp_path / "1", **slow)
        )
        small.until("finished", 1)
        wait = fake_command(folder, seeds=9)
        refused = stack.enter_context(driver(wait, tmp_path / "2"))
        assert refused.wait() == 2
        assert "run with --extend" in refused.errors()
        grow = fake_command(folder, seeds=9, extend=True)
        grown = [
            stack.enter_context(driver(grow, tmp_path / name, **slow)) for name in ("3", "4")
        ]
        assert [each.wait() for each in (small, *grown)] == [0, 0, 0], grown[0].errors()
        assert len(small.events("finished")) == 6
    assert accounted(folder, 18) == {"ok": 18}
    assert sorted(p.name for p in (folder / "plan").iterdir()) == ["0001.json", "0002.json"]
    tries = sorted(len(list(p.iterdir())) for p in (folder / "attempts").iterdir())
    assert len(tries) == 18 and tries == [tries[0]] * 18, "no trial was tried twice"
    whole = tmp_path / "whole"
    run(study_of(seeds=9), whole)
    assert table(folder) == table(whole)
