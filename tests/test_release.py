"""What is released: version, extras, the files of the package; and the wheel, installed where no checkout is seen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from afina import __version__

ROOT = Path(__file__).resolve().parent.parent
EXTRA = re.compile(r"(.)afina\[([\w,-]+)\]")


@cache
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_newest_heading_of_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == __version__
    assert f"afina-{__version__}-py3-none-any.whl" in (ROOT / "docs/releases.md").read_text(encoding="utf-8")


# ---- extras


def texts() -> list[Path]:
    """Everything that tells people what to install."""
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README*.md"), *(ROOT / "recipes").rglob("*.yaml")]
    return [*sorted((ROOT / "afina").rglob("*.py")), *sorted(pages)]


def test_every_extra_that_is_named_exists_and_is_quoted() -> None:
    """Without quotes zsh takes the brackets for a pattern."""
    known = project()["project"]["optional-dependencies"]
    named, wrong = set(), []
    for file in texts():
        for before, names in EXTRA.findall(file.read_text(encoding="utf-8")):
            found = set(names.split(","))
            named |= found
            if found - set(known) - {"NAME"}:
                wrong.append(f"{file.relative_to(ROOT)}: there is no extra {', '.join(found - set(known))}")
            if before not in "'\"`":
                wrong.append(f"{file.relative_to(ROOT)}: afina[{names}] without quotes")
    assert not wrong, "\n".join(wrong)
    assert {"qlora", "serve", "gguf", "mlx"} < named, "the messages were not found"


def test_every_extra_is_in_the_table_of_the_docs() -> None:
    page = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    shown = {
        name for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    for_people = set(project()["project"]["optional-dependencies"]) - {"clients", "dev", "docs"}
    assert for_people <= shown, f"docs/sources.md lacks {for_people - shown}"


def test_extras_that_are_made_of_extras_name_real_ones() -> None:
    extras = project()["project"]["optional-dependencies"]
    inside = [
        names for needs in extras.values() for each in needs for names in re.findall(r"^afina\[([\w,-]+)\]", each)
    ]
    assert inside
    assert {name for names in inside for name in names.split(",")} <= set(extras)


# ---- files of the package


def files_of(folder: Path) -> set[Path]:
    """What lies in a folder, but what Python compiles."""
    return {file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    """A template or a table that no pattern names is missing only where the wheel is installed."""
    held = set()
    for package, patterns in project()["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            held |= set((ROOT / package.replace(".", "/")).glob(pattern))
    data = {ROOT / "afina" / file for file in files_of(ROOT / "afina") if file.suffix != ".py"}
    assert len(data) > 20
    assert not data - held, f"name them in [tool.setuptools.package-data]: {sorted(map(str, data - held))}"


# ---- the wheel


def ran(*words: str | Path, **options: Any) -> str:
    """What a command prints; pytest shows what it said where it fails."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, which is built from a copy of the checkout, without a network."""
    if find_spec("build") is None or find_spec("setuptools") is None:
        pytest.skip("build and setuptools are not installed: pip install 'afina[dev]'")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "afina", copy / "afina", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel, and behind it the libraries that are here, without what makes this
    checkout importable."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outside() -> dict[str, str]:
    """The environment of a shell that knows nothing of the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "VIRTUAL_ENV"))}


@pytest.mark.long
def test_the_wheel_has_version_licence_and_every_file(wheel: Path, installed: Path) -> None:
    assert wheel.name == f"afina-{__version__}-py3-none-any.whl"
    (site,) = installed.glob("lib/*/site-packages")
    assert files_of(site / "afina") == files_of(ROOT / "afina")
    (facts,) = site.glob("afina-*.dist-info")
    assert (facts / "licenses/LICENSE").is_file()
    assert "License-Expression: Apache-2.0" in (facts / "METADATA").read_text(encoding="utf-8")


WHERE = """
import sys
from pathlib import Path
from afina.cli import main
try:
    main()
finally:
    found = [Path(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "afina"]
    assert found and all(file.is_relative_to(sys.prefix) for file in found), found
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["doctor"], ["recipe", "init", "docs"], ["plan", "scratch"]]
)
def test_verbs_of_the_wheel_need_nothing_of_the_checkout(
    installed: Path, outside: dict[str, str], tmp_path: Path, words: list[str]
) -> None:
    assert ran(installed / "bin/afina", *words, env=outside, cwd=tmp_path)
    ran(installed / "bin/python", "-c", WHERE, *words, env=outside, cwd=tmp_path)


SHORT_DEMO = """
import sys
from unittest import mock
from pathlib import Path
from afina.demo import demo
base, adapter = demo.base_recipe, demo.adapter_recipe
def short(recipe):
    train = recipe.train.model_copy(update={"epochs": 0.05})
    few = recipe.evaluate.model_copy(update={"probes": [], "questions": 10, "skills": 0, "samples": 1})
    return recipe.model_copy(update={"train": train, "evaluate": few})
with (
    mock.patch.object(demo, "base_recipe", lambda *given: short(base(*given))),
    mock.patch.object(demo, "adapter_recipe", lambda *given: short(adapter(*given))),
):
    sys.argv = ["afina", "demo"]
    from afina.cli import main
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, 5), ended.code  # so short a training learns nothing
found = [Path(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "afina"]
assert all(file.is_relative_to(sys.prefix) for file in found), found
"""


@pytest.mark.long
def test_the_demo_of_the_wheel_walks_to_its_report(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    """In its shortest form: every stage, a twentieth of an epoch, ten questions."""
    ran(installed / "bin/python", "-c", SHORT_DEMO, env=outside, cwd=tmp_path)
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 20_000
    assert (tmp_path / "runs/demo/finished.json").is_file()


@pytest.mark.long
def test_an_extra_is_installed_behind_the_wheel(installed: Path, outside: dict[str, str]) -> None:
    """What messages say (`pip install 'afina[plot]'`) resolves to the package that is installed, not to an index."""
    pip = [sys.executable, "-m", "pip", "--python", str(installed / "bin/python")]
    asked = [*pip, "install", "--no-index", "--dry-run", "afina[plot]"]
    done = subprocess.run(asked, capture_output=True, text=True, env=outside, check=False)
    assert "Requirement already satisfied: afina[plot]" in done.stdout, done.stdout + done.stderr
