"""The store as its users see it: create, plan, publish, read, claim."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import fake_peer as fake
import pytest
from six_trials import CELLS, FIRST, SPECS, STUDY, TRIALS

from batchcliff.errors import DataError, StorageError, UsageError
from batchcliff.study.store import Planned, Store, seal, unseal


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# --- a study comes to be ---


def test_a_study_is_private_and_reopens_as_what_it_is(store: Store, folder: Path) -> None:
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        assert path.stat().st_mode & 0o777 == 0o700, path
    with Store.open(folder) as again:
        assert again.study == STUDY and again.data == fake.DATA and again.code == fake.CODE
        assert list(again.planned()) == CELLS and again.missing() == CELLS
        assert again.records() == {} and again.table() == b"[]"


def test_opening_twice_changes_nothing(store: Store, folder: Path) -> None:
    before = snapshot(folder)
    fake.start(folder, TRIALS).close()
    Store.open(folder).close()
    assert snapshot(folder) == before


def test_another_study_is_refused_field_by_field(store: Store, folder: Path) -> None:
    before = snapshot(folder)
    other = dataclasses.replace(
        STUDY, batch_sizes=(128, 256), lr=dataclasses.replace(STUDY.lr, base=1)
    )
    with pytest.raises(UsageError) as refused:
        Store.create(folder, other, {"name": "fake", "digest": "cd" * 32}, fake.CODE)
    lines = [line.strip() for line in str(refused.value).splitlines()]
    assert "study.lr.base: 0.1 in the study, 1 now" in lines
    assert "study.batch_sizes: [128] in the study, [128, 256] now" in lines
    assert f"data.digest: {'ab' * 32!r} in the study, {'cd' * 32!r} now" in lines
    assert "data.classes: ['cat', 'dog'] in the study, not given now" in lines
    assert len([line for line in lines if " in the study" in line]) == 4
    assert refused.value.exit_code == 2
    assert snapshot(folder) == before


def test_other_code_is_refused_unless_accepted(store: Store, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"code: '0.1.0 fake' in the study, '0.2.0' now"):
        Store.create(folder, STUDY, fake.DATA, "0.2.0")
    Store.create(folder, STUDY, fake.DATA, "0.2.0", accept_code_change=True).close()
    with Store.create(folder, STUDY, fake.DATA, "0.2.0") as now:
        assert now.code == "0.2.0" and list(now.planned()) == CELLS
    other = dataclasses.replace(STUDY, name="other")
    with pytest.raises(UsageError, match=r"study\.name"):
        Store.create(folder, other, fake.DATA, "0.3.0", accept_code_change=True)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(UsageError, match=r"no study and not empty \(it holds 'thesis.tex'\)"):
        Store.create(tmp_path, STUDY, fake.DATA, fake.CODE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["absent", "file", "empty", "nul\0", "x" * 300])
def test_what_is_no_study_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as refused:
        Store.open(tmp_path / name)
    assert refused.value.exit_code == 2
    if name in ("file", "nul\0", "x" * 300):
        with pytest.raises(UsageError):
            Store.create(tmp_path / name, STUDY, fake.DATA, fake.CODE)


def test_a_newer_study_is_refused(store: Store, folder: Path) -> None:
    head, _ = unseal((folder / "STUDY.json").read_bytes())
    for text in (
        seal({**head, "schema": 2}),
        seal(head).replace(b'"v":1}', b'"v":2}'),
        seal({**head, "study": {**head["study"], "field_of_2030": 1}}),
    ):
        (folder / "STUDY.json").write_bytes(text)
        for use in (lambda: Store.open(folder), lambda: fake.start(folder, TRIALS)):
            with pytest.raises(UsageError, match="another version of batchcliff"):
                use()


def test_a_damaged_head_is_refused_and_repaired_by_create(store: Store, folder: Path) -> None:
    fake.work(store)
    (folder / "STUDY.json").write_bytes((folder / "STUDY.json").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"STUDY.json is damaged: not a sealed record"):
        Store.open(folder)
    with fake.start(folder, TRIALS) as again:
        assert again.missing() == [] and again.table() == fake.true_table(TRIALS)
    assert [p.name[:10] for p in (folder / "quarantine").iterdir()] == ["STUDY.json"] * 2


@pytest.mark.parametrize("part", ["STUDY.json", "plan", "results", "tmp", "lease"])
def test_symbolic_links_in_the_place_of_parts_are_refused(
    store: Store, folder: Path, tmp_path: Path, part: str
) -> None:
    (folder / part).rename(tmp_path / "moved")
    (folder / part).symlink_to(tmp_path / "moved")

    def use() -> None:
        with Store.open(folder) as again:
            again.records()
            again.publish(fake.train(SPECS[0]))

    with pytest.raises((UsageError, DataError), match=r"symbolic link|not a plain file"):
        use()


def test_the_folder_itself_may_be_reached_by_a_link(store: Store, folder: Path) -> None:
    (folder.parent / "short").symlink_to(folder)
    with fake.start(folder.parent / "short", TRIALS) as again:
        assert again.folder == folder


def test_odd_paths_work(tmp_path: Path) -> None:
    name = "stüdy 数据\n' \" " + os.fsdecode(b"\xff")
    with fake.start(tmp_path / name, TRIALS) as odd:
        fake.work(odd)
        assert odd.table() == fake.true_table(TRIALS)


def test_the_environment_of_the_c_locale_works(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = [sys.executable, fake.__file__, tmp_path / "stüdy 数据", "--trials", str(TRIALS)]
    subprocess.run(program, check=True, env=environment)
    with Store.open(tmp_path / "stüdy 数据") as store:
        assert store.table() == fake.true_table(TRIALS)


# --- the plan only grows ---


def test_extending_adds_a_generation_only_if_it_adds(store: Store, folder: Path) -> None:
    grown = fake.study_of(TRIALS + 2)
    cells = [Planned.of(spec) for spec in fake.specs_of(grown)]
    assert store.extend(cells, grown) == 2
    assert store.extend(cells, grown) == 0
    assert sorted(p.name for p in (folder / "plan").iterdir()) == ["0001.json", "0002.json"]
    with Store.create(folder, grown, fake.DATA, fake.CODE) as again:
        assert list(again.planned()) == cells and again.study == grown
        with pytest.raises(UsageError, match="2 planned trials that the new plan lacks") as no:
            again.extend(CELLS)
        assert "arm 'none', batch size 128, seed 6" in str(no.value)


def test_a_changed_cell_is_not_an_extension(store: Store) -> None:
    changed = [dataclasses.replace(CELLS[0], trial_id="0" * 20), *CELLS[1:]]
    with pytest.raises(UsageError, match="lacks or changes"):
        store.extend(changed)


def test_a_damaged_generation_is_planned_again(store: Store, folder: Path) -> None:
    (folder / "plan/0001.json").write_bytes(b"{}")
    assert store.planned() == () and [q.name for q in store.quarantined] == ["plan/0001.json"]
    assert store.extend(CELLS) == TRIALS and list(store.planned()) == CELLS


def test_cells_that_share_a_trial_run_it_once(store: Store) -> None:
    twin = dataclasses.replace(CELLS[0], arm="twin")
    assert store.extend([*CELLS, twin]) == 1
    assert store.missing() == CELLS


# --- leases, attempts, events ---


def test_a_lease_is_exclusive_and_outlives_nobody(store: Store, folder: Path) -> None:
    with Store.open(folder) as other:
        lease = store.lease(FIRST)
        assert lease is not None
        with lease:
            assert other.lease(FIRST) is None and store.lease(FIRST) is None
            assert other.lease(SPECS[1].trial_id) is not None
        again = other.lease(FIRST)
        assert again is not None
        again.release()
        again.release()
        with pytest.raises(ValueError, match="released"):
            again.fileno()


def test_a_child_that_inherits_the_lease_keeps_it(store: Store) -> None:
    lease = store.lease(FIRST)
    assert lease is not None
    wait = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=[lease.fileno()])
    lease.release()
    assert store.lease(FIRST) is None
    child.kill()
    child.wait()
    child.stdin.close()
    free = store.lease(FIRST)
    assert free is not None
    free.release()


def test_a_living_rank_keeps_others_off(store: Store) -> None:
    rank, second = store.hold_alive(FIRST), store.hold_alive(FIRST)
    assert rank is not None and second is not None  # shared
    assert store.lease(FIRST) is None
    rank.release()
    assert store.lease(FIRST) is None
    second.release()
    lease = store.lease(FIRST)
    assert lease is not None
    own_rank = store.hold_alive(FIRST)  # while the lease is held, its ranks may come
    assert own_rank is not None
    own_rank.release()
    lease.release()


def test_attempts_count_what_is_used_up(store: Store, folder: Path) -> None:
    assert [store.claim_attempt(FIRST, f"2026-01-0{n}T00:00:00Z") for n in (1, 2, 3)] == [
        1,
        2,
        3,
    ]
    assert store.unexplained(FIRST) == 3 and store.crashes(FIRST) == 0
    assert store.end_attempt(FIRST, 1, "crashed 11") is True
    assert store.end_attempt(FIRST, 1, "done") is False  # the first word stands
    assert store.end_attempt(FIRST, 2, "interrupted")
    assert store.unexplained(FIRST) == 1 and store.crashes(FIRST) == 1
    assert store.end_attempt(FIRST, 3, "hung")
    assert store.crashes(FIRST) == 2 and store.unexplained(FIRST) == 0
    one, two, three = store.attempts(FIRST)
    assert (one.n, one.pid, one.why) == (1, os.getpid(), "crashed 11")
    assert (two.started, two.counted, three.counted) == ("2026-01-02T00:00:00Z", False, True)
    with pytest.raises(ValueError, match="why an attempt ended is one of"):
        store.end_attempt(FIRST, 3, "bored")
    (folder / f"attempts/{FIRST}/3.json").write_bytes(b"")  # torn by a kill: still an attempt
    assert store.attempts(FIRST)[2].host == "" and store.claim_attempt(FIRST) == 4


def test_torn_log_lines_are_counted_and_skipped(store: Store, folder: Path) -> None:
    for n in range(5):
        store.log({"n": n, "text": "line\nbreak \udcff"})
    (path,) = (folder / "log").iterdir()
    whole = path.read_bytes()
    for cut in range(max(0, len(whole) - 200), len(whole) + 1):
        path.write_bytes(whole[:cut])
        events, torn = store.events()
        lines = whole[:cut].count(b"\n")
        assert [event["n"] for event in events] == list(range(lines))
        assert torn == (not whole[:cut].endswith(b"\n") and cut > 0)
    path.write_bytes(b"\xff\xfe\n[1]\n" + b"[" * 100_000 + b"\n" + whole)
    assert [event["n"] for event in store.events()[0]] == [0, 1, 2, 3, 4]
    assert store.events()[1] == 3


def test_every_process_has_a_log_of_its_own(store: Store, folder: Path) -> None:
    store.log({"from": "parent"})
    pid = os.fork()
    if pid == 0:
        store.log({"from": "child"})
        os._exit(0)
    os.waitpid(pid, 0)
    store.log({"from": "parent"})
    assert len(list((folder / "log").iterdir())) == 2
    assert sorted(event["from"] for event in store.events()[0]) == ["child", "parent", "parent"]
    assert all(event["at"].endswith("Z") for event in store.events()[0])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_last_words_fit_on_a_full_disk(
    store: Store, folder: Path, monkeypatch, number: int
) -> None:
    reserve = folder / "tmp/reserve"
    assert reserve.stat().st_size == 2**20
    write, refused = os.write, []

    def full_while_reserved(fd: int, data) -> int:
        if reserve.exists():
            refused.append(write(fd, bytes(data[:7])))  # a short write, then no space
            raise OSError(number, "No space left on device")
        return write(fd, data)

    store.log({"n": 0})
    monkeypatch.setattr(os, "write", full_while_reserved)
    store.log({"n": 1})
    assert refused == [7] and not reserve.exists()
    assert [event["n"] for event in store.events()[0]] == [0, 1] and store.events()[1] == 1

    def full(fd: int, data) -> int:
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        store.log({"n": 2})


def test_nothing_of_ours_is_left_locked_or_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with fake.start(folder, TRIALS) as store:
        fake.work(store)
        store.table()
    with pytest.raises(UsageError):
        fake.start(folder, TRIALS + 1)
    with pytest.raises(UsageError):
        Store.open(folder.parent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for path in (folder / "lease").iterdir():
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_store_needs_no_torch() -> None:
    code = (
        "import sys, batchcliff.study.store; print(sorted({'torch','numpy'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout.strip() == b"[]"


def test_a_record_is_plain_json_for_other_tools(store: Store, folder: Path) -> None:
    store.publish(fake.train(SPECS[0]))
    document = json.loads((folder / f"results/{FIRST}.json").read_text())
    assert document["body"]["spec"]["seed"] == 0 and document["v"] == 1
