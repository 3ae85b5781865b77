"""Compilers that code is checked with: Zig from its PyPI package, Python itself, or any command line with ``{file}``.

Zig gets a full semantic build (``zig ast-check`` passes programs that do not build): ``build-exe`` where there is
a ``main``, else ``zig test`` with every public declaration referenced, because Zig looks at nothing that is not
used. The target is fixed (x86-64 Linux with the C library that Zig brings), so that the same code gets the same
answer on every machine, whatever headers are installed there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from afina.cache import once_for_all, user_cache
from afina.errors import Problem, RecipeError
from afina.run import Progress, no_progress
from afina.sandbox.launcher import View
from afina.whole import whole_folder

ZIG_TARGET = "x86_64-linux-musl"
PROGRAM = "program"
"""File that :attr:`Compiler.make` leaves beside the code."""

_MAIN = re.compile(r"^\s*(?:(?:pub|export)\s+)*fn\s+main\s*\(", re.MULTILINE)
_PUBLIC_IMPORT = re.compile(r"^\s*pub\s+const\s+\w+\s*=\s*@import\(", re.MULTILINE)
_LIBC = re.compile(r"@cImport|\bc_allocator\b|\bextern\s+\"c\"")
_PYTHON = re.compile(r"3\.\d+")
_PACKAGE = re.compile(r"(?P<name>[A-Za-z][\w.-]*)==(?P<version>[\w.]+)")

_COMPILE = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), sys.argv[1], 'exec', dont_inherit=True)"


@dataclass(frozen=True)
class Compiler:
    """What one language's code must pass."""

    language: str
    version: str
    """Names compiler and version, for reports and for the cache of results."""
    file: str
    """Name under which the code is saved, e.g. ``main.zig``; the compiler's messages show it."""
    build: Callable[[Path, str], Sequence[str]]
    """``build(folder, code)``: the command that checks ``folder/file``; may write further files beside it."""
    parse: Callable[[Path], Sequence[str]] | None = None
    """The command that only reads the code, where the compiler has one: tells a snippet from an error."""
    variables: Mapping[str, str] = field(default_factory=dict)
    home: str = ""
    """Folder of the compiler's own library: left out of its messages, as it differs from machine to machine."""
    view: View | None = None
    """What it needs to see where it is isolated, and what compiled code needs; None where that is not known (a command
    line of the recipe), and then it is only limited."""
    make: Callable[[str, bool], Sequence[str]] | None = None
    """``make(code, testing)``: the command that makes :data:`PROGRAM` of the saved code; None where `start` runs the
    code itself."""
    start: tuple[str, ...] = ()
    """The command that runs it; empty where this compiler's code cannot be run."""


def find_compilers(
    wanted: Mapping[str, str], work: Path, progress: Progress = no_progress, where: str = "dataset.check_code"
) -> dict[str, Compiler]:
    """Language -> compiler, for the recipe's ``dataset.check_code`` and its tasks of code.

    Args:
        wanted: language -> ``ziglang==0.14.0``, a Python version such as ``3.11``, or a command line with ``{file}``.
        work: a folder for the compilers' own caches, removed by the caller.
        progress: is told when a compiler is fetched.
        where: the recipe's key that names them, for errors.

    Raises:
        RecipeError: a compiler is not here and cannot be fetched, or the text names none; all at once.
    """
    found: dict[str, Compiler] = {}
    problems: list[Problem] = []
    for language, text in wanted.items():
        try:
            found[language] = _find(language, text.strip(), work, progress, f"{where}.{language}")
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems=problems)
    return found


def _find(language: str, text: str, work: Path, progress: Progress, where: str) -> Compiler:
    if language == "zig" and (package := _PACKAGE.fullmatch(text)) and package["name"] == "ziglang":
        return _zig(_ziglang(package["version"], progress, where), package["version"], work)
    if language == "python" and _PYTHON.fullmatch(text):
        return _python(text, where)
    if "{file}" in text:
        return _command_line(language, text, where)
    raise RecipeError(
        f"{text!r} names no compiler for {language}",
        'write zig: ziglang==0.14.0, python: "3.11", or a command line such as "gofmt -e {file}"',
        where,
    )


# ---- Zig


def compiler_cache() -> Path:
    """Where fetched compilers and results are kept."""
    place = user_cache()
    if place is None:
        what = "there is no place to keep compilers: HOME is unset and the system knows no such user"
        raise RecipeError(what, "set HOME, or AFINA_CACHE to a folder")
    return place


def _ziglang(version: str, progress: Progress, where: str) -> Path:
    """The Zig program of the package `ziglang`: the installed one, one fetched before, or fetched now."""
    spec = importlib.util.find_spec("ziglang")
    if spec and spec.submodule_search_locations and importlib.metadata.version("ziglang") == version:
        return _zig_program(Path(next(iter(spec.submodule_search_locations))))

    def fetch(kept: Path) -> None:
        progress(0, None, f"fetching the Zig compiler {version} (about 80 MB, once) to {kept}")
        _fetch(f"ziglang=={version}", kept, where)

    return _zig_program(once_for_all(compiler_cache() / f"ziglang-{version}", fetch) / "ziglang")


def _zig_program(folder: Path) -> Path:
    return folder / ("zig.exe" if os.name == "nt" else "zig")


def _fetch(package: str, folder: Path, where: str) -> None:
    """Install a package from the index into a folder of its own."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with whole_folder(folder) as beside:
        words = [*pip, "--no-deps", "--only-binary", ":all:", "--target", str(beside), package]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise RecipeError(
                f"the compiler {package} is not here and could not be fetched: {said[-1] if said else 'pip failed'}",
                f"with a network: {shlex.quote(sys.executable)} -m pip install {package}; or take `zig` out of it",
                where,
            )


def _zig(program: Path, version: str, work: Path) -> Compiler:
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(work / "zig-global"), "ZIG_LOCAL_CACHE_DIR": str(work / "zig-local")}
    for folder in caches.values():
        Path(folder).mkdir(exist_ok=True)

    def options_of(code: str, target: str) -> list[str]:
        return ["--color", "off", "-target", target, *(["-lc"] if _LIBC.search(code) else [])]

    def build(folder: Path, code: str) -> list[str]:
        options = ["-fno-emit-bin", *options_of(code, ZIG_TARGET)]
        if _MAIN.search(code):
            return [str(program), "build-exe", *options, "main.zig"]
        # Everything public is referenced; but not the insides of a library that the code hands on.
        every = "refAllDecls" if _PUBLIC_IMPORT.search(code) else "refAllDeclsRecursive"
        root = f'const all = @import("main.zig");\ntest {{ _ = all; @import("std").testing.{every}(all); }}\n'
        (folder / "check.zig").write_text(root, encoding="utf-8")
        return [str(program), "test", *options, "check.zig"]

    def parse(folder: Path) -> list[str]:
        return [str(program), "ast-check", "--color", "off", str(folder / "main.zig")]

    def make(code: str, testing: bool) -> list[str]:
        kind = ["test", "--test-no-exec"] if testing else ["build-exe"]
        target = f"{platform.machine()}-linux-musl"  # what is to run has to be for this machine
        return [str(program), *kind, f"-femit-bin={PROGRAM}", *options_of(code, target), "main.zig"]

    return Compiler(
        "zig",
        f"zig {version} {ZIG_TARGET}",
        "main.zig",
        build,
        parse,
        caches,
        str(program.parent),
        View((str(program.parent),), tuple(caches.values())),
        make,
        (f"./{PROGRAM}",),
    )


# ---- Python and command lines


def _python(version: str, where: str) -> Compiler:
    """Compile, without running, in the Python of that version; nothing is imported."""
    here = "{}.{}".format(*sys.version_info[:2])
    program = sys.executable if version == here else shutil.which(f"python{version}")
    ask = "import platform, sys; print(platform.python_version(), sys.prefix, sys.base_prefix, sep='\\n')"
    asked = subprocess.run([program, "-I", "-c", ask], capture_output=True, text=True, check=False) if program else None
    exact, *folders = asked.stdout.splitlines() if asked and asked.returncode == 0 else ("",)
    if program is None or not exact.startswith(version + "."):
        raise RecipeError(
            f"there is no python{version} here to check code with",
            f"install it so that `python{version}` is found, or write the version of this one: {here}",
            where,
        )
    return Compiler(
        "python",
        f"python {exact}",
        "main.py",
        lambda _, __: [program, "-I", "-S", "-c", _COMPILE, "main.py"],
        view=View(tuple(folders)),  # its packages too: code about a library imports it
        start=(program, "main.py"),
    )


def _command_line(language: str, text: str, where: str) -> Compiler:
    from afina.text.formats import LANGUAGES

    words = shlex.split(text)
    program = shutil.which(words[0])
    if program is None:
        raise RecipeError(
            f"the program {words[0]!r} is not here", "install it, or give its whole path in the command line", where
        )
    suffix = next((ending for ending, name in LANGUAGES.items() if name == language), "." + language)
    file = f"main{suffix}"
    command = [program, *(word.replace("{file}", file) for word in words[1:])]
    # A program that was exchanged gives other answers: its size and date belong to its name.
    about = Path(program).stat()
    version = f"{text} [{about.st_size} {int(about.st_mtime)}]"
    return Compiler(language, version, file, lambda _, __: command)


def parse_choices(texts: Sequence[str]) -> dict[str, str]:
    """``zig=ziglang==0.14.0`` from a command line as a recipe's ``check_code``.

    Raises:
        RecipeError: for a text without a language or without a compiler.

    >>> parse_choices(["zig=ziglang==0.14.0", "python=3.11"])
    {'zig': 'ziglang==0.14.0', 'python': '3.11'}
    """
    choices, problems = {}, []
    for text in texts:
        language, equals, compiler = text.partition("=")
        if equals and language and compiler:
            choices[language] = compiler
        else:
            problems.append(Problem(f"{text!r} names no compiler", "write zig=ziglang==0.14.0", "--check-code"))
    if problems:
        raise RecipeError(problems=problems)
    return choices
