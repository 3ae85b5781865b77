"""Answers that are code: taken out of the text, compiled, run with their row's checks.

| result | what it means |
|---|---|
| ``no code`` | the answer holds no block of the language, and is no program itself |
| ``does not compile`` | the compiler refuses it, or needed more time or memory than it may; its first lines are kept |
| ``compiles`` | and nothing more is known: it was not to be run, or the row has no checks |
| ``wrong output`` | it compiles, and a check does not hold; which one, and what came instead, is kept |
| ``right`` | every check holds |

Everything happens in :mod:`afina.sandbox.launcher`, isolated.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from afina.recipe import Check, Code, Recipe
from afina.run import Progress, no_progress
from afina.sandbox.code_check import WORKERS, check_with, first_lines, without_places
from afina.sandbox.compilers import PROGRAM, Compiler, find_compilers
from afina.sandbox.launcher import ProgramLimits, ProgramOutcome, View, check_isolation, run_limited
from afina.temporary import temporary_folder
from afina.text.code_blocks import CodeBlock, claims_to_be_whole, fenced_blocks

CodeResult = Literal["no code", "does not compile", "compiles", "wrong output", "right"]
RESULTS: tuple[CodeResult, ...] = ("no code", "does not compile", "compiles", "wrong output", "right")
SHOWN_CHARS = 200

_ZIG_PASSED = re.compile(r"^All \d+ tests? passed\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one answer."""

    result: CodeResult
    lines: str = ""
    """The compiler's first lines, or which check does not hold and what came instead."""

    @property
    def compiles(self) -> bool:
        return self.result not in ("no code", "does not compile")


def code_of(answer: str, language: str) -> str:
    """The code of an answer; empty where there is none.

    Of the fenced blocks of the language (or else of those that name none), the longest that presents itself as a whole
    file, or else the longest. Without any fence, the text itself where it presents itself as a file.

    >>> code_of("Try:\\n```python\\nimport os\\n```\\nor\\n```sh\\npython a.py --with a long command\\n```", "python")
    'import os\\n'
    >>> code_of("I do not know.", "python"), code_of("import os", "python")
    ('', 'import os\\n')
    """
    blocks = [(named, code) for named, code, _ in fenced_blocks(answer) if code.strip()]
    if not blocks and "```" not in answer:
        return answer.strip() + "\n" if claims_to_be_whole(answer, language) else ""
    fitting = [code for named, code in blocks if named == language] or [code for named, code in blocks if not named]
    whole = [code for code in fitting if claims_to_be_whole(code, language)]
    return max(whole or fitting, key=len, default="")


def find_compiler(code: Code, work: Path, where: str, progress: Progress = no_progress) -> Compiler:
    """The compiler of a task, with all that it may see.

    Raises:
        RecipeError: it is not here, or this machine cannot isolate what it compiles.
    """
    check_isolation(where)
    compiler = find_compilers({code.language: code.compiler}, work, progress, where)[code.language]
    view, version = compiler.view, compiler.version
    if view is None:  # a command line: its program's own folder, and what the recipe names
        program = Path(compiler.build(work, "")[0])
        view, version = View((str(program.parent), str(program.resolve().parent))), f"{version} isolated"
    if code.readable:  # what it sees may change what it says, and what it said is kept by this name
        version = f"{version} {code.readable}"
    if code.start:
        words = tuple(word.replace("{file}", compiler.file) for word in shlex.split(code.start))
        compiler = replace(compiler, start=words)
    return replace(compiler, version=version, view=replace(view, readable=(*view.readable, *code.readable)))


def check_compilers(recipe: Recipe, progress: Progress = no_progress) -> None:
    """That every task of code can be judged on this machine: said before hours of training, not after.

    Raises:
        RecipeError: a compiler is missing, or nothing can be isolated here.
    """
    for number, task in enumerate(recipe.evaluate.tasks):
        if task.code:
            with temporary_folder("code") as work:
                find_compiler(task.code, work, where_of(number), progress)


def where_of(number: int) -> str:
    """The recipe's key of a task of code."""
    return f"evaluate.tasks.{number}.code"


def judge_answers(
    answers: Sequence[tuple[str, Sequence[Check]]], code: Code, where: str, progress: Progress = no_progress
) -> list[Judged]:
    """Compile every answer's code and, where the task allows it, run its checks; the same code is looked at once.

    Args:
        answers: texts, and the checks of their rows.
        where: the recipe's key of the task, for errors.

    Raises:
        RecipeError: the compiler is not here, or nothing can be isolated on this machine. Nothing was run.
    """
    with temporary_folder("code") as work:
        compiler = find_compiler(code, work, where, progress)
        codes = [code_of(answer, code.language) for answer, _ in answers]
        blocks = [CodeBlock(code.language, each, "", 1, whole=True) for each in dict.fromkeys(codes) if each]
        checked = check_with({code.language: compiler}, blocks, work, progress, limits=ProgramLimits())
        compiled = {each.block.code: each for each in checked}
        found: dict[tuple[str, tuple[str, ...]], Judged] = {}
        waiting: dict[tuple[str, tuple[str, ...]], tuple[str, Sequence[Check]]] = {}
        keys = [
            (each, tuple(check.model_dump_json() for check in checks))
            for each, (_, checks) in zip(codes, answers, strict=True)
        ]
        for key, (_, checks) in zip(keys, answers, strict=True):
            if not key[0]:
                found[key] = Judged("no code")
            elif compiled[key[0]].result != "ok":
                found[key] = Judged("does not compile", compiled[key[0]].lines)
            elif not (code.run and checks):
                found[key] = Judged("compiles")
            else:
                waiting[key] = key[0], checks
        with ThreadPoolExecutor(WORKERS) as pool:
            running = pool.map(lambda each: _run_checks(each[0], each[1], code, compiler, work), waiting.values())
            for done, (key, judged) in enumerate(zip(waiting, running, strict=True), start=1):
                found[key] = judged
                progress(done, len(waiting), "programs run")
    return [found[key] for key in keys]


def _run_checks(text: str, checks: Sequence[Check], code: Code, compiler: Compiler, work: Path) -> Judged:
    with tempfile.TemporaryDirectory(dir=work) as own:
        runs = Path(own) / "runs"  # what is run with inputs is made once; a test is part of its own program
        for number, check in enumerate(checks, start=1):
            folder = Path(own) / f"test-{number}" if check.test else runs
            why = "" if folder.exists() else _make(folder, text, check.test, code, compiler, work)
            if why := why or _run_check(folder, check, code, compiler, work):
                return Judged("wrong output", f"check {number} of {len(checks)}: {why}")
    return Judged("right")


def _make(folder: Path, text: str, test: str, code: Code, compiler: Compiler, work: Path) -> str:
    """Put the code, with its test, into a new folder and compile it where it is to be; why that fails."""
    folder.mkdir()
    if test:
        text = f"{text}\n\n{test}\n"
    if test and compiler.language == "python":
        text += f'print("\\n{_mark(folder)}")\n'
    (folder / compiler.file).write_text(text, encoding="utf-8")
    if compiler.make is not None:
        command, product = compiler.make(text, bool(test)), PROGRAM
    elif code.start and code.product:
        command, product = compiler.build(folder, text), code.product
    else:  # it is run as it stands
        return ""
    limits = ProgramLimits(disk_bytes=max(code.disk_mb << 20, ProgramLimits().disk_bytes))
    built = run_limited(command, folder, limits, compiler.variables, view=compiler.view, take=[product])
    if built.code or built.stopped:
        lines = built.stopped or first_lines(without_places(built.output, folder, work, compiler))
        return f"with its test it does not compile: {lines}" if test else f"it cannot be run: {lines}"
    return "" if (folder / product).is_file() else f"it cannot be run: the compiler left no {product}"


def _run_check(folder: Path, check: Check, code: Code, compiler: Compiler, work: Path) -> str:
    """Why a check does not hold; empty where it does."""
    limits = ProgramLimits(
        code.seconds, int(code.memory_gb * 2**30), disk_bytes=code.disk_mb << 20, processes=code.processes
    )
    view = replace(compiler.view or View(), writable=())  # a compiler's cache is not for its programs
    with tempfile.TemporaryDirectory(dir=work) as own:
        place = Path(own) / "run"
        shutil.copytree(folder, place)
        for name, content in check.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(content, encoding="utf-8")
        command = [*compiler.start, *check.args]
        outcome = run_limited(command, place, limits, view=view, stdin=check.stdin.encode(), take=list(check.writes))
        if check.test:
            output = without_places(outcome.output.replace(f"{folder}/", ""), place, work, compiler)
            return _test_failed(outcome, _mark(folder), compiler, output)
        return _differs(outcome, check, {name: _text(place / name) for name in check.writes})


def _mark(folder: Path) -> str:
    """What a Python test prints last: code that ends the program before its test does not pass."""
    return f"the end of {folder.parent.name}"  # a random name


def _test_failed(outcome: ProgramOutcome, mark: str, compiler: Compiler, output: str) -> str:
    if outcome.stopped:
        return f"its test was ended: {outcome.stopped}"
    if outcome.code:
        return "its test fails: " + (_ends(output) or f"exit code {outcome.code}")
    whole = {"python": outcome.stdout.rstrip().endswith(mark), "zig": bool(_ZIG_PASSED.search(outcome.output))}
    return "" if whole.get(compiler.language, True) else "it ended before its test did"


def _differs(outcome: ProgramOutcome, check: Check, written: Mapping[str, str | None]) -> str:
    """What is not as the check wants it; empty where all is."""
    if outcome.stopped:
        return f"{outcome.stopped}; it printed {_shown(outcome.output)}"
    if outcome.code != check.exit:
        return f"exit code {outcome.code} where {check.exit} is right; it printed {_shown(outcome.output)}"
    if check.stdout is not None and _trimmed(outcome.stdout) != _trimmed(check.stdout):
        return f"it printed {_shown(outcome.stdout)} where {_shown(check.stdout)} is right"
    for text in check.contains:
        if text not in outcome.output:
            return f"{_shown(text)} does not stand in what it printed: {_shown(outcome.output)}"
    for text in check.lacks:
        if text in outcome.output:
            return f"{_shown(text)} must not stand in what it printed: {_shown(outcome.output)}"
    for name, right in check.writes.items():
        found = written[name]
        if found is None:
            return f"it left no file {name}"
        if _trimmed(found) != _trimmed(right):
            return f"{name} holds {_shown(found)} where {_shown(right)} is right"
    return ""


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _trimmed(text: str) -> list[str]:
    """Lines without white space at their ends and at the text's.

    >>> _trimmed("a \\r\\n b\\n\\n")
    ['a', ' b']
    """
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _ends(text: str) -> str:
    """Beginning and end of what a failed test wrote: one of them says why."""
    text, half = text.strip(), SHOWN_CHARS
    return text if len(text) <= 2 * half else f"{text[:half]}\n...\n{text[-half:]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")
