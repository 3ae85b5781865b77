"""Locks and the container: what they name is what pyproject.toml asks for, on each platform."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
APPLE = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"}
PLATFORMS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    # lock -> its platform, and its extras beyond those of all (Makefile)
    "cpu": (LINUX, ()),
    "cuda": (LINUX, ("liger",)),
    "apple": (APPLE, ("mlx",)),
}


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def variable(name: str) -> str:
    """The value of a variable of the Makefile."""
    return str(re.search(rf"^{name} := (.*)$", makefile(), re.MULTILINE)[1])  # type: ignore[index]


def environment(lock: str, extra: str = "") -> dict[str, str]:
    """What markers are asked about, on a lock's platform."""
    python = variable("LOCK_PYTHON")
    of_python = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
    }
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return PLATFORMS[lock][0] | of_python | cpython | {"platform_release": "", "platform_version": "", "extra": extra}


def locked(text: str) -> dict[str, Version]:
    """Package -> version of a lock's text.

    Raises:
        AssertionError: a line that is no pin, or a package that is named twice.
    """
    found: dict[str, Version] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, equals, version = line.partition("==")
        assert equals and canonicalize_name(name) not in found, line
        found[canonicalize_name(name)] = Version(version)
    return found


def read_lock(lock: str) -> dict[str, Version]:
    return locked((ROOT / f"locks/{lock}.txt").read_text(encoding="utf-8"))


def asked_for(lock: str, project: Mapping[str, Any]) -> Iterator[Requirement]:
    """What pyproject.toml asks for on a lock's platform, with the extras that it was made for."""
    own = project["project"]
    extras = (*variable("LOCK_EXTRAS").split(), *PLATFORMS[lock][1])
    for text in (*own["dependencies"], *(each for extra in extras for each in own["optional-dependencies"][extra])):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment(lock)):
            yield requirement


def disagreements(needs: Iterator[Requirement], lock: Mapping[str, Version]) -> list[str]:
    """What is not in a lock, or not as it is asked for."""
    wrong = []
    for need in needs:
        version = lock.get(canonicalize_name(need.name))
        if version is None:
            wrong.append(f"{need} is not in the lock")
        elif not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need}: the lock has {version}")
    return wrong


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", PLATFORMS)
def test_a_lock_holds_what_the_project_asks_for(lock: str) -> None:
    """`make locks` after a change of pyproject.toml or constraints.txt."""
    needs = list(asked_for(lock, project()))
    assert len(needs) > 30
    assert disagreements(iter(needs), read_lock(lock)) == []


@pytest.mark.parametrize("lock", PLATFORMS)
def test_a_lock_has_the_versions_that_the_tests_run_with(lock: str) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    held, shared = read_lock(lock), 0
    for name, version in (line.split("==") for line in pins if "==" in line):
        if name in held:
            shared += 1
            assert held[name].public == version, name
    assert shared >= 12


@pytest.mark.parametrize("lock", PLATFORMS)
def test_a_lock_is_whole(lock: str) -> None:
    """What each package asks for is there too, as far as the same version is installed here to be asked; torch is not,
    whose wheels differ."""
    held = read_lock(lock)
    wrong, looked_at = [], 0
    for name, version in held.items():
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if here.version != str(version) or name == "torch":
            continue
        looked_at += 1
        needs = [Requirement(text) for text in here.requires or []]
        wanted = (each for each in needs if each.marker is None or each.marker.evaluate(environment(lock)))
        wrong += [f"{name}: {said}" for said in disagreements(wanted, held)]
    assert looked_at >= 10, "fewer are installed here in the lock's versions: nothing was looked at"
    assert wrong == []


def test_each_lock_is_one_of_its_platform() -> None:
    """CUDA's libraries come with PyPI's torch for Linux, and with that one alone."""
    locks = {name: read_lock(name) for name in PLATFORMS}
    cuda = {name: any(package.startswith("nvidia-") for package in lock) for name, lock in locks.items()}
    assert cuda == {"cpu": False, "cuda": True, "apple": False}
    assert locks["cpu"]["torch"].local == "cpu" and locks["cuda"]["torch"].local is None
    assert {name: "mlx-metal" in lock for name, lock in locks.items()} == {"cpu": False, "cuda": False, "apple": True}
    both = {name for name in locks["cpu"] if name in locks["apple"] and name != "torch"}
    assert len(both) > 90 and all(locks["cpu"][name] == locks["apple"][name] for name in both), "the same everywhere"


def test_a_lock_that_does_not_agree_is_noticed() -> None:
    held = {"torch": Version("2.5.1"), "peft": Version("0.18.0"), "ruamel-yaml": Version("0.18.1")}
    needs = [Requirement(text) for text in ("torch>=2.6", "peft>=0.18", "ruamel.yaml>=0.18", "numpy>=1.26")]
    assert disagreements(iter(needs), held) == ["torch>=2.6: the lock has 2.5.1", "numpy>=1.26 is not in the lock"]
    with pytest.raises(AssertionError):
        locked("torch>=2.6")
    with pytest.raises(AssertionError):
        locked("a-b==1\nA_b==2")


# ---- the container


def instructions() -> list[tuple[str, str]]:
    """The container file's instructions, continued lines joined."""
    text = (ROOT / "container/cuda.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], " ".join(line.split()[1:])) for line in lines]


def test_the_container_is_built_from_the_lock_with_its_python() -> None:
    found = instructions()
    (image,) = (rest for name, rest in found if name == "FROM")
    assert image.startswith(f"python:{variable('LOCK_PYTHON')}-")
    installs = [rest for name, rest in found if name == "RUN" and "pip install" in rest]
    assert installs[0] == "pip install --no-deps -r /src/locks/cuda.txt"
    assert "--no-deps --no-build-isolation /src" in installs[1] and "pip check" in installs[1]
    assert len(installs) == 2, "whatever else is installed is in no lock"
    built_by = Requirement(project()["build-system"]["requires"][0])
    assert disagreements(iter([built_by]), read_lock("cuda")) == [], "it is built without a network of its own"
    assert ("ENTRYPOINT", '["afina"]') in found


def test_the_container_gets_what_it_copies_and_no_more() -> None:
    """The files that the wheel of test_release.py is built from, and the lock."""
    copied = {source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]}
    wheel = {"pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "afina"}
    assert copied == wheel | {"locks/cuda.txt"} and all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / "container/cuda.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert "**/__pycache__" in rules
