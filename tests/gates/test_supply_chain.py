"""What is installed is what was locked, file by file."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from sizes import level
from write_lock import WITHOUT, tag

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!_]+)")
LOCKED = re.compile(PINNED.pattern + r"((?: --hash=sha256:[0-9a-f]{64})+)")
LARGE = 20_000_000  # bytes: larger packages are a matter of minutes


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").splitlines()
    return [line for line in text if line.strip() and not line.startswith("#")]


def pins(path: Path, pattern: re.Pattern[str]) -> dict[str, str]:
    """name -> version. Every line must be of the pattern, each name stand once."""
    found: dict[str, str] = {}
    for line in lines(path):
        match = pattern.fullmatch(line)
        assert match, f"{path.name}: {line!r} pins nothing"
        assert canonical(match["name"]) not in found, f"{line!r} stands twice"
        found[canonical(match["name"])] = match["version"]
    return found


def test_every_constraint_is_one_version() -> None:
    assert len(pins(ROOT / "constraints.txt", PINNED)) > 50


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_a_hash_for_each_version_of_the_constraints(path: Path) -> None:
    constraints, locked = pins(ROOT / "constraints.txt", PINNED), pins(path, LOCKED)
    assert len(locked) > 40 and not locked.keys() & WITHOUT
    for name, version in locked.items():
        # What only one platform needs may be missing from the constraints of another.
        assert constraints.get(name, version) == version, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = {canonical(re.split(r"[<>=!~ \[]", line)[0]) for line in needed}
    assert wanted - WITHOUT <= locked.keys(), "`make lock` after a new dependency"


@pytest.mark.parametrize("bad", ["numpy>=2", "numpy==2.4.6", "numpy==2.4.6 --hash=md5:1"])
def test_control_a_line_without_a_hash_is_noticed(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(bad + "\n")
    with pytest.raises(AssertionError, match="pins nothing"):
        pins(path, LOCKED)


def changed(found: metadata.Distribution) -> list[str]:
    """Files of an installed package that are not as its RECORD says."""
    wrong = []
    for file in found.files or ():
        if file.hash is None or file.suffix == ".pyc":
            continue
        path = Path(str(found.locate_file(file)))
        if not path.is_file():
            wrong.append(f"{file}: missing")
            continue
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            wrong.append(str(file))
    return wrong


def installed() -> list[metadata.Distribution]:
    ours = [path for path in LOCKS if path.stem == tag()]
    names = pins(ours[0], LOCKED) if ours else {}
    found = [d for d in metadata.distributions() if canonical(d.metadata["Name"]) in names]
    return [d for d in found if sum(f.size or 0 for f in d.files or ()) < LARGE]


@pytest.mark.skipif(tag() not in {p.stem for p in LOCKS}, reason=f"no lock for {tag()}")
def test_installed_packages_are_the_locked_ones_byte_for_byte() -> None:
    locked = pins(ROOT / "locks" / f"{tag()}.txt", LOCKED)
    found = installed()
    assert len(found) > 30
    for package in found:
        name = canonical(package.metadata["Name"])
        if level() == "quick" and package.version != locked[name]:
            continue  # somebody's own environment, not the one that `make` makes
        assert package.version == locked[name], name
        # A console script has the path of its interpreter in it, which pip writes.
        assert [f for f in changed(package) if not f.startswith("..")] == [], name


def test_control_a_changed_file_is_noticed(tmp_path: Path) -> None:
    package = metadata.distribution("typer")
    for file in package.files or ():
        source, target = Path(str(package.locate_file(file))), tmp_path / file
        if source.is_file() and not str(file).startswith(".."):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (copy,) = metadata.distributions(path=[str(tmp_path)])
    assert [f for f in changed(copy) if not f.startswith("..")] == []
    victim = tmp_path / "typer" / "main.py"
    victim.write_bytes(victim.read_bytes() + b"\n")
    assert "typer/main.py" in changed(copy)
